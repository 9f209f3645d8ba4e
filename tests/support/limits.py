"""Limits for tests that need none."""

from __future__ import annotations

from holdfast.api.limits import Limits
from holdfast.api.responses import Closing
from holdfast.settings import Settings
from holdfast.telemetry.metrics import Metrics


async def no_runs(owner: str, *, up_to: int) -> int:
    """Nobody has any."""
    del owner, up_to
    return 0


def unlimited(settings: Settings) -> Limits:
    return Limits(settings, no_runs, Closing(), Metrics())
