"""What one caller may ask for while others want to be served, too (docs/limits.md).

Three limits, each off unless it is configured: requests in a time, runs that wait or are executed, answers that are
followed. All are an owner's, whichever key they come with. What is refused is refused before anything is done, with 429
and the seconds after which it may be asked again.

A rate is counted in this process, or for all in a Redis; while that is away, in this process. Runs are counted in the
database. Followed answers are counted where they are followed: they are what they cost there.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from limits import RateLimitItem, parse_many
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string

from holdfast.api.responses import Closing
from holdfast.errors import SettingsError, TooMany
from holdfast.settings import Settings
from holdfast.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

FOLLOWED = ("/stream", "/wait", "/join")
"""How the routes end whose answers take a while."""
RETRY_RUNS_SECONDS = 5
REST_SECONDS = 5.0
"""How long a Redis that has failed is left alone."""


class ActiveRuns(Protocol):
    """How many runs of an owner wait or are executed, counted up to a number."""

    def __call__(self, owner: str, *, up_to: int) -> Awaitable[int]: ...


class Limits:
    """The limits of one process."""

    def __init__(self, settings: Settings, active_runs: ActiveRuns, closing: Closing, metrics: Metrics) -> None:
        """
        Raises:
            SettingsError: HOLDFAST_RATE_LIMIT is no rate, or HOLDFAST_LIMITS_URL no place for counts.
        """
        self._most_runs = settings.max_runs_per_owner
        self._most_followed = settings.max_streams_per_owner
        self._active_runs = active_runs
        self._closing = closing
        self._limited = metrics.limited
        self._rates = _rates(settings.rate_limit)
        self._here = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared = SlidingWindowCounterRateLimiter(_storage(settings.limits_url)) if settings.limits_url else None
        self._alone_until = 0.0

    async def request(self, owner: str, route: str) -> None:
        """A request by this owner.

        Raises:
            TooMany: it is one too many.
        """
        for rate in self._rates:
            if (wait := await self._over(rate, owner)) is not None:
                raise self._refused("rate", f"More than {rate}", wait)
        most = self._most_followed
        if most is not None and route.endswith(FOLLOWED) and self._closing.followed(owner) >= most:
            raise self._refused("streams", f"{most} answers of yours are already followed here", 1)

    async def runs(self, owner: str, more: int = 1) -> None:
        """Runs that this owner wants to start. Those that others of theirs start at this moment are not counted yet.

        Raises:
            TooMany: they have so many already.
        """
        if self._most_runs is None:
            return
        if await self._active_runs(owner, up_to=self._most_runs + 1) + more > self._most_runs:
            text = f"No more than {self._most_runs} runs of yours may wait or be executed"
            raise self._refused("runs", text, RETRY_RUNS_SECONDS)

    async def _over(self, rate: RateLimitItem, owner: str) -> int | None:
        """Seconds to wait if this one is too many."""
        if self._shared is not None and time.monotonic() >= self._alone_until:
            try:
                return await _hit(self._shared, rate, owner)
            except StorageError as error:
                logger.warning("rates cannot be counted for all processes: %s (each counts for itself)", error)
                self._alone_until = time.monotonic() + REST_SECONDS
        return await _hit(self._here, rate, owner)

    def _refused(self, limit: str, text: str, wait: int) -> TooMany:
        self._limited.labels(limit).inc()
        return TooMany(f"{text}: ask again in {wait} s.", wait)


async def _hit(limiter: SlidingWindowCounterRateLimiter, rate: RateLimitItem, owner: str) -> int | None:
    if await limiter.hit(rate, owner):
        return None
    window = await limiter.get_window_stats(rate, owner)
    return max(1, math.ceil(window.reset_time - time.time()))


def _rates(text: str | None) -> list[RateLimitItem]:
    try:
        return parse_many(text) if text else []
    except ValueError as error:
        raise SettingsError(f"HOLDFAST_RATE_LIMIT: {error}; such as 50/second;1000/minute") from None


def _storage(url: str) -> Storage:
    make: Callable[..., object] = storage_from_string
    try:
        storage = make(f"async+{url}", implementation="redispy", wrap_exceptions=True, socket_timeout=0.5)
    except (ConfigurationError, ImportError) as error:
        raise SettingsError(f"HOLDFAST_LIMITS_URL: {error}") from None
    assert isinstance(storage, Storage)
    return storage
