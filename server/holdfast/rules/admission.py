"""What to do with a new run, given what is already pending or running on its thread.

strategy    nothing active    something active
reject      start             refuse (409)
enqueue     start             wait behind it
interrupt   start             cancel it, keep its checkpoints, then start
rollback    start             cancel it, drop its checkpoints, then start

Before that a request may name the thread statuses that it was written for (`if_thread_status`); on a thread in another
one it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

from holdfast.errors import Conflict

Strategy = Literal["reject", "enqueue", "interrupt", "rollback"]


class Plan(StrEnum):
    START = "start"
    REFUSE = "refuse"
    WAIT = "wait"
    INTERRUPT_OTHERS = "interrupt"
    ROLLBACK_OTHERS = "rollback"


_WHEN_ACTIVE: dict[Strategy, Plan] = {
    "reject": Plan.REFUSE,
    "enqueue": Plan.WAIT,
    "interrupt": Plan.INTERRUPT_OTHERS,
    "rollback": Plan.ROLLBACK_OTHERS,
}


def admission(strategy: Strategy, *, active: int) -> Plan:
    """The plan for a run on a thread with `active` pending or running runs."""
    return _WHEN_ACTIVE[strategy] if active else Plan.START


def verify_status(status: str, wanted: Sequence[str] | None) -> None:
    """Hold a request to the thread status that it was written for; None is any.

    Raises:
        Conflict: the thread is in another one.
    """
    if wanted is not None and status not in wanted:
        raise Conflict(f"Thread is {status}, but the request wants it to be {' or '.join(wanted)}.")
