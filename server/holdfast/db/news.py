"""Who waits for news in which log, and one look for all of them.

A follower who has read all that a log has waits here until the bell rings for that log. Rings may be lost, so somebody
has to look into the tables from time to time; if every follower did, ten thousand idle streams would be thousands of
queries a second. Instead one task looks for all: it asks in batches which of the logs have something that their
followers have not read, and wakes those.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from holdfast.db.bell import Bell
from holdfast.db.pool import Database
from holdfast.db.sql import statements
from holdfast.errors import DatabaseError

logger = logging.getLogger(__name__)

LOGS_PER_LOOK = 1000

Kind = Literal["run", "thread"]


@dataclass(eq=False, slots=True)
class _Waiter:
    kind: Kind
    after: int
    news: asyncio.Event = field(default_factory=asyncio.Event)


class News:
    """Events of this process's followers, by the log that each of them follows."""

    def __init__(self, database: Database, bell: Bell) -> None:
        self._database = database
        self._bell = bell
        self._sql = statements("events")
        self._waiting: dict[UUID, set[_Waiter]] = {}
        self._gap = asyncio.Event()
        bell.on("events", self.tell)

    @contextmanager
    def of(self, kind: Kind, followed: UUID, after: int) -> Iterator[asyncio.Event]:
        """An event that is set when there may be something after number `after`, or the end. Good inside the block."""
        waiter = _Waiter(kind, after)
        waiters = self._waiting.setdefault(followed, set())
        waiters.add(waiter)
        try:
            yield waiter.news
        finally:
            waiters.discard(waiter)
            if not waiters:
                del self._waiting[followed]

    def tell(self, about: str | None) -> None:
        """Wake the followers of these logs (ids with blanks between them); None: rings may have been lost."""
        if about is None:
            self._gap.set()
            return
        for each in about.split():
            self._wake(UUID(each))

    async def watch(self) -> None:
        """Look for all who wait, until cancelled: slowly, and at once after a gap in which rings may have been lost."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._bell.poll_seconds):
                    await self._gap.wait()
            self._gap.clear()
            try:
                await self._look("run")
                await self._look("thread")
            except DatabaseError as error:
                logger.warning("cannot look for news: %s", error)

    async def _look(self, kind: Kind) -> None:
        # A copy: followers come and go while the database answers.
        read = {followed: _least(waiters, kind) for followed, waiters in self._waiting.items()}
        logs = [(followed, after) for followed, after in read.items() if after is not None]
        for start in range(0, len(logs), LOGS_PER_LOOK):
            some = logs[start : start + LOGS_PER_LOOK]
            params = {"ids": [followed for followed, _ in some], "after": [after for _, after in some]}
            async with self._database.connection("api") as conn:
                grown = await (await conn.execute(self._sql[f"grown_{kind}s"], params)).fetchall()
            for row in grown:
                self._wake(row["id"])

    def _wake(self, followed: UUID) -> None:
        for waiter in self._waiting.get(followed, ()):
            waiter.news.set()


def _least(waiters: set[_Waiter], kind: Kind) -> int | None:
    return min((waiter.after for waiter in waiters if waiter.kind == kind), default=None)
