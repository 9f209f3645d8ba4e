"""Who waits for news in which log, and one look for all of them.

A follower who has read all that a log has waits here until it is told of that log: by the bell, which says "look", or
by the fan-out, which brings the block itself (`fanout.py`). What is told may be lost, so somebody has to look into the
tables from time to time; if every follower did, ten thousand idle streams would be thousands of queries a second.
Instead one task looks for all: it asks in batches which of the logs have something that their followers have not read,
and wakes those.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Literal
from uuid import UUID

from psycopg.rows import DictRow

from holdfast.db.bell import Bell
from holdfast.db.fanout import Fanout
from holdfast.db.pool import Database
from holdfast.db.sql import statements
from holdfast.errors import DatabaseError

logger = logging.getLogger(__name__)

LOGS_PER_LOOK = 1000
MOST_TOLD = 16
"""Blocks that wait for a follower who is slow; with more it reads the log."""

Kind = Literal["run", "thread"]


class Place:
    """How far one follower has read a log, and what it was told meanwhile.

    It looks into the tables first, and again whenever it has to. What it is told while it looks or does something else
    is kept, so nothing is missed in between.
    """

    def __init__(self, kind: Kind, after: int) -> None:
        self.kind = kind
        self.after = after
        """The last number that was read."""
        self._must_look = True
        self._told: list[DictRow] = []
        self._news = asyncio.Event()

    def takes_look(self) -> bool:
        """Whether there may be something, or the end, that nobody brings. Whoever asks looks now."""
        looks, self._must_look = self._must_look, False
        return looks

    def look_again(self) -> None:
        self._must_look = True
        self._told.clear()
        self._news.set()

    def offer(self, block: DictRow) -> None:
        """A block that was logged."""
        if block["last_seq"] <= self.after or self._must_look:
            return
        if len(self._told) >= MOST_TOLD:
            self.look_again()
            return
        self._told.append(block)
        self._news.set()

    def told(self) -> Sequence[DictRow]:
        """The blocks that go on where this follower is."""
        blocks, self._told = self._told, []
        after = self.after
        for count, block in enumerate(blocks):
            if block["first_seq"] > after + 1:
                self.look_again()
                return blocks[:count]
            after = max(after, block["last_seq"])
        return blocks

    async def news(self) -> None:
        """Until there are blocks, or a reason to look."""
        if not (self._must_look or self._told):
            self._news.clear()
            await self._news.wait()


class News:
    """Places of this process's followers, by the log that each of them follows."""

    def __init__(self, database: Database, bell: Bell, fanout: Fanout | None) -> None:
        self._database = database
        self._bell = bell
        self._fanout = fanout
        self._sql = statements("events")
        self._places: dict[UUID, set[Place]] = {}
        self._gap = asyncio.Event()
        bell.on("events", self.tell)
        if fanout is not None:
            fanout.on_block(self.bring)
            fanout.on_ring(self.tell)

    @contextmanager
    def of(self, kind: Kind, followed: UUID, after: int) -> Iterator[Place]:
        """A follower's place in a log, who has read it up to number `after`. It is told of it inside the block."""
        place = Place(kind, after)
        places = self._places.setdefault(followed, set())
        if not places and self._fanout is not None:
            self._fanout.subscribe(followed)
        places.add(place)
        try:
            yield place
        finally:
            places.discard(place)
            if not places:
                del self._places[followed]
                if self._fanout is not None:
                    self._fanout.unsubscribe(followed)

    def tell(self, about: str | None) -> None:
        """Let the followers of these logs (ids with blanks between them) look; None: news may have been lost."""
        if about is None:
            self._gap.set()
            return
        for each in about.split():
            self._wake(UUID(each))

    def bring(self, log: UUID, block: DictRow) -> None:
        """Give a block to the followers of the log that it is in."""
        for place in self._places.get(log, ()):
            place.offer(block)

    async def watch(self) -> None:
        """Look for all who wait, until cancelled: slowly, and at once after a gap in which news may have been lost."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._gap.wait()
            self._gap.clear()
            try:
                await self._look("run")
                await self._look("thread")
            except DatabaseError as error:
                logger.warning("cannot look for news: %s", error)

    @property
    def _poll_seconds(self) -> float:
        bell = self._bell.poll_seconds
        return bell if self._fanout is None else min(bell, self._fanout.poll_seconds)

    async def _look(self, kind: Kind) -> None:
        # A copy: followers come and go while the database answers.
        read = {followed: _least(places, kind) for followed, places in self._places.items()}
        logs = [(followed, after) for followed, after in read.items() if after is not None]
        for start in range(0, len(logs), LOGS_PER_LOOK):
            some = logs[start : start + LOGS_PER_LOOK]
            params = {"ids": [followed for followed, _ in some], "after": [after for _, after in some]}
            async with self._database.connection("api") as conn:
                grown = await (await conn.execute(self._sql[f"grown_{kind}s"], params)).fetchall()
            for row in grown:
                self._wake(row["id"])

    def _wake(self, followed: UUID) -> None:
        for place in self._places.get(followed, ()):
            place.look_again()


def _least(places: set[Place], kind: Kind) -> int | None:
    return min((place.after for place in places if place.kind == kind), default=None)
