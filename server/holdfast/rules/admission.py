"""What to do with a new run, given what is already pending or running on its thread.

strategy    nothing active    something active
reject      start             refuse (409)
enqueue     start             wait behind it
interrupt   start             cancel it, keep its checkpoints, then start
rollback    start             cancel it, drop its checkpoints, then start
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

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
