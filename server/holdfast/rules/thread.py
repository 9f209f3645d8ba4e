"""A thread's status, derived.

`busy` while any run is pending or running. Otherwise it is what the last run or state update left: `error` after a
failed run, `interrupted` when the latest checkpoint has tasks still to run (interrupt(), breakpoint, cancel or a
state update), else `idle`, as the official server has it.
"""

from __future__ import annotations

from enum import StrEnum


class ThreadStatus(StrEnum):
    IDLE = "idle"
    BUSY = "busy"
    INTERRUPTED = "interrupted"
    ERROR = "error"


def resting_status(*, failed: bool, unfinished: bool) -> ThreadStatus:
    """What the thread shows once nothing is pending or running on it."""
    if failed:
        return ThreadStatus.ERROR
    return ThreadStatus.INTERRUPTED if unfinished else ThreadStatus.IDLE
