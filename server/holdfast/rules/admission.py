"""What to do with a new run, given what is already pending or running on its thread.

strategy    nothing active    something active
reject      start             refuse (409)
enqueue     start             wait behind it
interrupt   start             cancel it, keep its checkpoints, then start
rollback    start             cancel it, drop its checkpoints, then start

New input for a thread that asks something is let in by another table, `on_pending_interrupt`; answers never are judged
by it, and overtake what it holds:

discard     starts the thread over; the questions are gone
enqueue     held until the thread asks nothing more; held runs are not active
reject      refused (409)

Before that a request may name the thread statuses that it was written for (`if_thread_status`); on a thread in another
one it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

from holdfast.errors import Conflict
from holdfast.rules.approval import OnPending

Strategy = Literal["reject", "enqueue", "interrupt", "rollback"]


class Plan(StrEnum):
    START = "start"
    REFUSE = "refuse"
    WAIT = "wait"
    INTERRUPT_OTHERS = "interrupt"
    ROLLBACK_OTHERS = "rollback"


ASKS = "The thread waits for an answer: its questions have to be answered before it takes new input."

_WHEN_ACTIVE: dict[Strategy, Plan] = {
    "reject": Plan.REFUSE,
    "enqueue": Plan.WAIT,
    "interrupt": Plan.INTERRUPT_OTHERS,
    "rollback": Plan.ROLLBACK_OTHERS,
}


def admission(strategy: Strategy, *, active: int) -> Plan:
    """The plan for a run on a thread with `active` pending or running runs."""
    return _WHEN_ACTIVE[strategy] if active else Plan.START


def is_held(on_pending: OnPending, *, asks: bool, active: int) -> bool:
    """Whether new input waits for answers; with something active, `reject` is judged when the input's turn comes.

    Raises:
        Conflict: the thread asks something, and the policy is to reject.
    """
    if on_pending == "reject" and asks and not active:
        raise Conflict(ASKS)
    return on_pending == "enqueue" and asks


def verify_status(status: str, wanted: Sequence[str] | None) -> None:
    """Hold a request to the thread status that it was written for; None is any.

    Raises:
        Conflict: the thread is in another one.
    """
    if wanted is not None and status not in wanted:
        raise Conflict(f"Thread is {status}, but the request wants it to be {' or '.join(wanted)}.")
