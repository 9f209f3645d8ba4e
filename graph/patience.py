"""A deadline for every wait on a stream.

`asyncio.timeout` around each chunk would do, but makes and cancels a timer per chunk, which is half of what all layers
around a model cost. Here one timer serves the whole stream: it is not moved when a chunk comes, it looks when it fires.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Patience:
    """Waits for the items of a stream, none longer than it is told to. The time between two waits does not count."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Task[Any] | None = None
        self._due = 0.0
        self._late = False

    async def next(self, stream: AsyncGenerator[T], due: float) -> T | None:
        """The next item, or None at the end. Raises TimeoutError at `due` on the loop's clock."""
        waiting = self._waiting = cast("asyncio.Task[Any]", asyncio.current_task())
        cancelled_before = waiting.cancelling()
        self._due, self._late = due, False
        if self._timer is None or self._timer.when() > due:
            await self.aclose()
            self._timer = self._loop.call_at(due, self._look)
        try:
            return await anext(stream, None)
        except asyncio.CancelledError as cancelled:
            # As asyncio.timeout does: a cancellation from elsewhere at the same moment goes first.
            if self._late and waiting.cancelling() <= cancelled_before + 1:
                raise TimeoutError from cancelled
            raise
        finally:
            self._waiting = None
            if self._late:
                waiting.uncancel()

    def _look(self) -> None:
        self._timer = None
        if self._waiting is None:
            return
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due, self._look)
        else:
            self._late = True
            self._waiting.cancel()

    async def aclose(self) -> None:
        """Stop the timer."""
        if self._timer:
            self._timer.cancel()
