"""Group commit: what many want committed at the same time is committed as one.

Theory of operation. A commit takes as long for one row as for a hundred. So while one is under way, whatever comes is
gathered, and goes out together as soon as it has ended; nobody waits for others to come. Who joins gets the result of
its own, or None: then nothing is known of it, because its key was refused, or the group failed as a whole for one of
its members' sake, or because the connection was lost. It then goes alone, by the statement that it would have used
without a group, and gets its own error. So a group holds no rules of its own, decides nothing that is not simple, and
may give up at any time.

A member that is cancelled is so when its group is through: what was sent may have been committed, and nobody must take
for unsaved what is on its way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from psycopg import IntegrityError

from holdfast.errors import DatabaseError
from holdfast.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

MOST_MEMBERS = 128
MOST_BYTES = 2**20

COMPANY_TURNS = 3
"""Turns of the event loop after a commit: who was released by it often has the next thing to commit at once."""


class _Outcome(asyncio.Future[Any]):
    """Cannot be cancelled: the task that waits for it is cancelled when it is there."""

    def cancel(self, msg: Any = None) -> bool:  # noqa: ARG002 - asyncio's signature
        return False


@dataclass(slots=True, eq=False)
class _Member(Generic[T]):
    key: Hashable
    item: T
    size: int
    outcome: _Outcome


class Group(Generic[T, R]):
    """Commits of one kind, one at a time.

    `commit` takes the items of a group and returns the results of those that were committed, by their keys. A group
    holds each key once.
    """

    def __init__(
        self, name: str, commit: Callable[[Sequence[T]], Awaitable[Mapping[Any, R]]], metrics: Metrics
    ) -> None:
        self._name = name
        self._commit = commit
        self._figures = metrics.commits(name)
        self._waiting: list[_Member[T]] = []
        self._task: asyncio.Task[None] | None = None

    async def join(self, key: Hashable, item: T, size: int = 0) -> R | None:
        """Commit it with whatever else is there, and say what came of it; None: it has to go alone."""
        if size >= MOST_BYTES:
            return None
        member = _Member(key, item, size, _Outcome(loop=asyncio.get_running_loop()))
        self._waiting.append(member)
        if self._task is None:
            # A context of its own: it works for everybody, not for the run whose save happened to come first.
            self._task = Context().run(asyncio.create_task, self._work(), name=self._name)
        result: R | None = await member.outcome
        return result

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._commit_next()
                for _ in range(COMPANY_TURNS):
                    await asyncio.sleep(0)
        finally:
            self._task = None
            # Only where something is badly wrong anybody is left.
            for member in self._waiting:
                member.outcome.set_result(None)
            self._waiting.clear()

    async def _commit_next(self) -> None:
        members = self._next_members()
        results: Mapping[Any, R] = {}
        began = time.perf_counter()
        try:
            results = await self._commit([member.item for member in members])
        except (DatabaseError, IntegrityError) as error:
            logger.debug("%s: %d go alone: %s", self._name, len(members), error)
        finally:
            self._figures.ended(len(members), committed=len(results), seconds=time.perf_counter() - began)
            for member in members:
                member.outcome.set_result(results.get(member.key))

    def _next_members(self) -> list[_Member[T]]:
        """The first that fit; of members with the same key the second waits for the next group."""
        chosen: dict[Hashable, _Member[T]] = {}
        left: list[_Member[T]] = []
        size = 0
        for member in self._waiting:
            if member.key in chosen or len(chosen) >= MOST_MEMBERS or (chosen and size + member.size > MOST_BYTES):
                left.append(member)
            else:
                chosen[member.key] = member
                size += member.size
        self._waiting = left
        return list(chosen.values())
