"""The clock: starts the runs of crons that are due.

Theory of operation. Every worker process watches all crons; there is no leader. Whoever finds one due admits its run,
and the transaction that admits the run also moves `next_run_date` from the due time to the next one, guarded by the due
time (`db/crons.advance`). So a due time and its run are one fact:

    two workers see it          both try; the second finds the due time moved on, and its admission is rolled back
    killed before the commit    nothing happened; the cron is still due, for another worker or after the restart
    killed after the commit     the run is in the queue, where it ends without anybody's help

There is no claim to time out, and nothing to reconcile. A cron whose run is refused (assistant deleted, thread busy
with `reject`) is moved on by itself with the reason kept, so that it neither stops the others nor tries again at once.

What is due is the business of `rules/schedule.py`; due times that passed while nobody watched are folded into one.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

from holdfast.db.crons import Crons, DueCron
from holdfast.errors import DatabaseUnavailable, HoldfastError
from holdfast.rules.schedule import Schedule
from holdfast.worker.clock import until_next

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""How late a cron may be that was created elsewhere a moment before it is due."""

BATCH = 100

Fire = Callable[[DueCron, Schedule], Awaitable[None]]
"""Starts a cron's run and moves the cron on, in one transaction; a refusal is an exception."""


async def fire_due(crons: Crons, fire: Fire) -> float:
    """Fire what is due now; the seconds until another look."""
    due = await crons.due(limit=BATCH)
    for cron in due:
        await _fire_one(crons, fire, cron)
    if len(due) == BATCH:
        return 0.0
    return until_next(await crons.seconds_to_next(), poll=POLL_SECONDS)


async def _fire_one(crons: Crons, fire: Fire, cron: DueCron) -> None:
    next_due: datetime | None = None
    try:
        schedule = Schedule(cron.schedule, cron.timezone, cron.end_time)
        if schedule.ended(cron.now):
            await crons.pass_over(cron.cron_id, cron.due, None, error=None)
            return
        next_due = schedule.next_after(cron.now)
        await fire(cron, schedule)
    except DatabaseUnavailable:
        raise
    except HoldfastError as refused:
        error = {"error": type(refused).__name__, "message": str(refused)}
        # If somebody else took it, this was their due time, and there is nothing to record.
        if await crons.pass_over(cron.cron_id, cron.due, next_due, error=error):
            logger.warning("cron %s started no run at %s: %s", cron.cron_id, cron.due.isoformat(), refused)
