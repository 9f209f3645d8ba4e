"""Cancelling: active runs are ended where they wait, and told to stop where they run.

Everything here is part of a transaction that holds the threads' rows. Whoever holds several locks them in the order of
their ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from holdfast.db import approvals, webhooks
from holdfast.db.pool import Connection
from holdfast.db.scope import scoped
from holdfast.db.sql import statements
from holdfast.rules.caller import Caller

CancelAction = Literal["interrupt", "rollback"]

THREADS_AT_ONCE = 500
"""Threads whose runs are cancelled in one transaction."""

_ERRORS: Mapping[CancelAction, Mapping[str, str]] = {
    "interrupt": {"error": "UserInterrupt", "message": "User interrupted the run"},
    "rollback": {"error": "UserRollback", "message": "User rolled back the run"},
}


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Runs that never started and are over now, runs whose worker has to be told, and threads whose log has grown."""

    over: list[UUID] = field(default_factory=list)
    stopping: list[UUID] = field(default_factory=list)
    logged: list[UUID] = field(default_factory=list)


def cancel_error(action: CancelAction) -> Mapping[str, str]:
    """What a cancelled run leaves as its thread's error."""
    return _ERRORS[action]


async def stop(conn: Connection, run_ids: Sequence[UUID], action: CancelAction) -> Cancelled:
    """Cancel these runs; those that are not active stay as they are. The threads' status is the caller's to change."""
    verbs = statements("runs")
    params = {"run_ids": list(run_ids), "action": action}
    ended = await (await conn.execute(verbs["cancel_pending"], params)).fetchall()
    over = [row["run_id"] for row in ended]
    stopping = await (await conn.execute(verbs["request_cancel"], params)).fetchall()
    for row in ended:
        if row["webhook"] is not None:
            await webhooks.post(conn, row["run_id"], None)
    logged = []
    if over:
        await conn.execute(verbs["release_answers"], {"run_ids": over, "still_asked": None})
        await approvals.release(conn, over, None)
        logged = await _log(conn, over)
    if over and action == "rollback":
        await conn.execute(verbs["erase"], {"run_ids": over})
    return Cancelled(over, [row["run_id"] for row in stopping], logged)


async def _log(conn: Connection, over: Sequence[UUID]) -> list[UUID]:
    """Tell the ends of these runs in the logs of their threads, or have them told; the threads where it was done."""
    verbs = statements("events")
    noted = await (await conn.execute(verbs["note_ended"], {"run_ids": list(over)})).fetchall()
    told = await conn.execute(verbs["tell_ended"], {"thread_ids": [row["thread_id"] for row in noted]})
    return [row["thread_id"] for row in await told.fetchall()]


async def cancel(conn: Connection, active: Sequence[DictRow], action: CancelAction) -> Cancelled:
    """Cancel these rows of runs, and bring the threads to rest on which that ended something."""
    cancelled = await stop(conn, [row["run_id"] for row in active], action)
    over = set(cancelled.over)
    if ended := [row for row in active if row["run_id"] in over]:
        await rest(conn, [row["thread_id"] for row in ended], cancel_error(action))
        temporary = [row["thread_id"] for row in ended if row["ephemeral"]]
        await conn.execute(statements("threads")["hide"], {"thread_ids": temporary})
    return cancelled


async def cancel_some(
    conn: Connection, caller: Caller, statuses: Sequence[str], action: CancelAction, *, first: UUID
) -> tuple[Cancelled, UUID | None]:
    """Cancel the caller's runs on some threads, from the id `first` on; where to go on, or None."""
    verbs = statements("runs")
    terms = {"statuses": list(statuses)}
    query = scoped(caller, verbs["lock_active_threads"], **terms, first=first, limit=THREADS_AT_ONCE)
    threads = [row["thread_id"] for row in await (await conn.execute(*query)).fetchall()]
    active = await (await conn.execute(verbs["active_among"], terms | {"thread_ids": threads})).fetchall()
    cancelled = await cancel(conn, active, action)
    # The last thread comes again as the first of the next batch: there is no smallest id to be greater than.
    return cancelled, threads[-1] if len(threads) == THREADS_AT_ONCE else None


async def rest(
    conn: Connection,
    thread_ids: Sequence[UUID],
    error: Mapping[str, str] | None,
    *,
    failed: bool = False,
    event_seq: int | None = None,
) -> None:
    """Give threads the status that is left when a run went without leaving a state.

    Args:
        event_seq: the last number that a run used, if it is a run that ends here.
    """
    params = {
        "thread_ids": list(thread_ids),
        "error": Jsonb(error) if error else None,
        "failed": failed,
        "event_seq": event_seq,
    }
    await conn.execute(statements("threads")["rest"], params)
