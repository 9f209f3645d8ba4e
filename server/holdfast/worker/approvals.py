"""Deadlines: what happens to questions that nobody answered in time.

Theory of operation. Every worker process watches; there is no leader. A deadline is taken in the transaction that does
what it is for, guarded by `acted_at`: the admission of the run that answers (`db/approvals.expire`), or the outbox
entry that tells somebody (`escalate`). So it acts once, whatever processes see it and whichever of them dies. The clock
is the database's.

A deadline whose answer is refused (the assistant is gone) stays with the reason in `problem` and is not tried again:
the question is left to people. A conflict is no such reason, since it means that the thread is just changing: it is
looked at again with the next round, and what somebody else settled is not due any more.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from holdfast.db.approvals import Approvals
from holdfast.errors import Conflict, DatabaseUnavailable, HoldfastError
from holdfast.wire.approvals import escalation
from holdfast.worker.clock import until_next

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""How late a deadline may be that is shorter than this."""

BATCH = 100

Expire = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Admits the run that gives a deadline's answer; a refusal is an exception."""


async def act_on_due(approvals: Approvals, expire: Expire) -> float:
    """Act on what is due now; the seconds until another look."""
    for due in await approvals.due(limit=BATCH):
        if due["outcome"] == "escalate":
            await approvals.escalate(due["approval_id"], escalation(due))
        else:
            await _expire_one(approvals, expire, due)
    return until_next(await approvals.seconds_to_next(), poll=POLL_SECONDS)


async def _expire_one(approvals: Approvals, expire: Expire, due: Mapping[str, Any]) -> None:
    try:
        await expire(due)
    except DatabaseUnavailable:
        raise
    except Conflict as conflict:
        logger.info("question %s is looked at again: %s", due["interrupt_id"], conflict)
    except HoldfastError as refused:
        if await approvals.give_up(due["approval_id"], f"{type(refused).__name__}: {refused}"):
            logger.warning("question %s stays unanswered: %s", due["interrupt_id"], refused)
