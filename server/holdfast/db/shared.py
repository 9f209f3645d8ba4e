"""One answer for all who ask the same at the same time.

It is no cache: an answer is given only to those who had asked before its query began. Whoever looks because a bell may
ring later (`news.py`) would otherwise be given what was there before it listened, and wait for a ring that is over.

So one question is under way and one is next, which everybody joins who comes meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class _Asked(Generic[T]):
    """A question, and how many wait for its answer."""

    task: asyncio.Task[T]
    waiting = 0


class Shared(Generic[K, T]):
    """Questions by their keys; the same key has to be the same question."""

    def __init__(self) -> None:
        self._under_way: dict[K, _Asked[T]] = {}
        self._next: dict[K, _Asked[T]] = {}

    async def ask(self, key: K, question: Callable[[], Awaitable[T]]) -> T:
        """The answer, or what the question raised. It is given up when nobody waits for it any more."""
        asked = self._next.get(key) or self._begun(key, question)
        asked.waiting += 1
        try:
            await asyncio.wait([asked.task])
        finally:
            asked.waiting -= 1
            if not asked.waiting and not asked.task.done():
                self._forget(key, asked)
                asked.task.cancel()
                await asyncio.wait([asked.task])
        return asked.task.result()

    def _begun(self, key: K, question: Callable[[], Awaitable[T]]) -> _Asked[T]:
        before = self._under_way.get(key)
        asked = _Asked[T]()
        answer = self._answer(key, question, asked, before)
        # A context of its own: it answers everybody, not only the request that happened to ask first.
        asked.task = Context().run(asyncio.create_task, answer, name=f"shared-{key}")
        (self._next if before else self._under_way)[key] = asked
        return asked

    async def _answer(
        self, key: K, question: Callable[[], Awaitable[T]], asked: _Asked[T], before: _Asked[T] | None
    ) -> T:
        if before is not None:
            await asyncio.wait([before.task])
            self._forget(key, asked)
            self._under_way[key] = asked
        try:
            return await question()
        finally:
            self._forget(key, asked)

    def _forget(self, key: K, asked: _Asked[T]) -> None:
        for table in (self._under_way, self._next):
            if table.get(key) is asked:
                del table[key]
