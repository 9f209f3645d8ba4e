"""A thread's status, derived.

`busy` while any run is pending or running. Otherwise it is what the last run or state update left: `error` after a
failed run, `interrupted` when the latest checkpoint has tasks still to run (interrupt(), breakpoint, cancel or a
state update), else `idle`, as the official server has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class ThreadStatus(StrEnum):
    IDLE = "idle"
    BUSY = "busy"
    INTERRUPTED = "interrupted"
    ERROR = "error"


MOST_MINUTES = 52_560_000
"""A hundred years: no thread lives longer than that by its time to live."""

Strategy = Literal["delete", "keep_latest"]
"""What goes when a thread is pruned or expires: all of it, or all but its latest state."""


@dataclass(frozen=True, slots=True)
class Ttl:
    """How long a thread is kept after its last activity, and what goes then."""

    minutes: float
    strategy: Strategy = "delete"


def resting_status(*, failed: bool, unfinished: bool) -> ThreadStatus:
    """What the thread shows once nothing is pending or running on it."""
    if failed:
        return ThreadStatus.ERROR
    return ThreadStatus.INTERRUPTED if unfinished else ThreadStatus.IDLE
