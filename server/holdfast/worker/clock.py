"""Looking again and again at what the clock makes due, in every worker process and without a leader."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from holdfast.errors import DatabaseError

logger = logging.getLogger(__name__)

SHORTEST_SECONDS = 0.1
"""Between two looks, also where something due could not be dealt with and still is."""

PAUSE_AFTER_ERROR = 0.5


async def keep_looking(act: Callable[[], Awaitable[float]], what: str) -> None:
    """Act on what is due until cancelled; `act` answers the seconds until another look, 0 where more is due now."""
    while True:
        try:
            seconds = await act()
        except DatabaseError as error:
            logger.warning("%s have to wait: %s", what, error)
            seconds = PAUSE_AFTER_ERROR
        await asyncio.sleep(seconds)


def until_next(seconds: float | None, *, poll: float) -> float:
    """The pause before the next due time, None being none, `poll` at most: it may be made elsewhere meanwhile."""
    return poll if seconds is None else min(max(seconds, SHORTEST_SECONDS), poll)
