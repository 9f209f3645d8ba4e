"""The way in: runs become rows, each in one transaction under its thread's row lock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from holdfast.db import approvals, cancelling, crons, idempotency, queue, threads
from holdfast.db.cancelling import CancelAction, Cancelled
from holdfast.db.crons import Firing
from holdfast.db.idempotency import Key, Made
from holdfast.db.pool import Connection, Database, repeated
from holdfast.db.queue import Claimed
from holdfast.db.scope import scoped
from holdfast.db.sql import statements
from holdfast.errors import Conflict, Missing
from holdfast.rules.admission import Plan, Strategy, admission, is_held, verify_status
from holdfast.rules.approval import OnPending
from holdfast.rules.caller import Caller
from holdfast.rules.command import Questions, verify_binding
from holdfast.rules.thread import Ttl

BUSY = "Thread is already running a task. Wait for it to finish or choose a different multitask strategy."
CANCELLING = ("interrupt", "rollback")
NO_PLACE = "Thread or assistant not found."


@dataclass(frozen=True, slots=True)
class Answers:
    """A resume, bound to its questions: `values` is `{interrupt_id: value}`, empty at a breakpoint."""

    asked: Questions
    values: Mapping[str, Any]
    served: frozenset[str]
    """The project's graphs: what one of them asked, no other may answer. One that is gone may have a new name."""

    @property
    def keys(self) -> list[str]:
        return sorted(self.values) or sorted(self.asked.keys)


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be admitted. `kwargs` is the request as JSON."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    graph_id: str
    kwargs: bytes
    metadata: Mapping[str, Any]
    strategy: Strategy = "enqueue"
    resumable: bool = False
    logged: bool = True
    ephemeral: bool = False
    after_seconds: float = 0.0
    answers: Answers | None = None
    new_thread: Mapping[str, Any] | None = None
    """Metadata of the thread to create if there is none (`if_not_exists: create`); None: it must exist."""
    thread_status: Sequence[str] | None = None
    """The statuses of the thread that the request was written for (`if_thread_status`); None: any."""
    webhook: str | None = None
    firing: Firing | None = None
    priority: int = 0
    """Among the runs of its owner: one step is worth a minute of waiting."""
    on_pending: OnPending = "discard"
    """What becomes of new input while the thread asks something."""
    expiring: UUID | None = None
    """The approval whose deadline gives this answer."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """What admission did: the run if it was claimed on the spot, and runs ahead of it that were cancelled.

    `before` is what the request's key stands for, if it was carried out before; then nothing was done now.
    """

    claimed: Claimed | None = None
    others: Cancelled = field(default_factory=Cancelled)
    before: Made | None = None


class Admissions:
    """Lets runs in."""

    def __init__(self, database: Database, default_ttl: Ttl | None = None) -> None:
        self._database = database
        self._default_ttl = default_ttl
        self._sql = statements("runs")

    @repeated
    async def admit(self, caller: Caller, new: NewRun, *, worker_id: UUID | None, key: Key | None = None) -> Admitted:
        """Take a run in.

        Args:
            worker_id: claim the run at once for this worker if nothing is ahead of it on its thread.
            key: the request's idempotency key; it is claimed before anything is asked about the thread.

        Raises:
            Missing: no such thread of this caller.
            Conflict: `reject` on a busy thread, a thread in another status than asked for, an answer whose
                question is not pending (any more), new input for a thread that asks something (policy `reject`),
                or a due time that somebody else took.
            Invalid: the key stands for another request.
        """
        async with self._database.transaction("api") as conn:
            if before := await _before(conn, caller, key, [new]):
                return Admitted(before=before)
            others = await self._admit(conn, caller, new)
            claimed = None
            if worker_id is not None and not new.after_seconds:
                claimed = await queue.claim_this(conn, worker_id, new.run_id)
        return Admitted(claimed, others)

    @repeated
    async def admit_all(self, caller: Caller, new: Sequence[NewRun], *, key: Key | None = None) -> Made | None:
        """Take in runs that each bring a thread of their own, all or none; what the key stands for, as `admit` does."""
        async with self._database.transaction("api") as conn:
            if before := await _before(conn, caller, key, new):
                return before
            for run in new:
                await self._admit(conn, caller, run)
        return None

    async def _admit(self, conn: Connection, caller: Caller, new: NewRun) -> Cancelled:
        """Insert the run; what was cancelled for it."""
        thread = await self._locked_thread(conn, caller, new)
        verify_status(thread["status"], new.thread_status)
        cursor = await conn.execute(self._sql["active"], {"thread_id": new.thread_id})
        runs_there = await cursor.fetchall()
        active = [run["run_id"] for run in runs_there if not run["held"]]
        if new.answers is None and new.strategy in CANCELLING:
            # An answer ends what is in its way, not what waits for it.
            in_the_way = [run["run_id"] for run in runs_there]
        else:
            in_the_way = active
        plan = admission(new.strategy, active=len(in_the_way))
        if plan is Plan.REFUSE:
            raise Conflict(BUSY)
        if new.answers is not None:
            verify_binding(new.answers.values, new.answers.asked.checkpoint_id, threads.questions(thread))
        others = Cancelled()
        if plan in (Plan.INTERRUPT_OTHERS, Plan.ROLLBACK_OTHERS):
            action: CancelAction = "rollback" if plan is Plan.ROLLBACK_OTHERS else "interrupt"
            others = await cancelling.stop(conn, in_the_way, action)
        asks = bool(thread["interrupts"])
        held = new.answers is None and is_held(new.on_pending, asks=asks, active=len(set(active) - set(others.over)))
        if new.firing is not None:
            await crons.advance(conn, new.firing)
        await self._insert(conn, caller, new, held=held)
        if new.answers is not None:
            await self._bind(conn, caller, new, new.answers)
        if held and not active:
            return others
        stamp = {"graph_id": new.graph_id, "assistant_id": str(new.assistant_id)}
        await conn.execute(statements("threads")["occupy"], {"thread_id": new.thread_id, "stamp": Jsonb(stamp)})
        return others

    async def _locked_thread(self, conn: Connection, caller: Caller, new: NewRun) -> DictRow:
        if new.new_thread is not None:
            await threads.create(conn, caller, new.thread_id, new.new_thread, self._default_ttl)
        cursor = await conn.execute(*scoped(caller, statements("threads")["lock"], thread_id=new.thread_id))
        row = await cursor.fetchone()
        if row is None:
            raise Missing(NO_PLACE)
        return row

    async def _insert(self, conn: Connection, caller: Caller, new: NewRun, *, held: bool) -> None:
        await conn.execute(
            self._sql["insert"],
            {
                "run_id": new.run_id,
                "thread_id": new.thread_id,
                "owner": caller.owner,
                "assistant_id": new.assistant_id,
                "graph_id": new.graph_id,
                "metadata": Jsonb(dict(new.metadata)),
                "kwargs": new.kwargs,
                "multitask_strategy": new.strategy,
                "resumable": new.resumable,
                "logged": new.logged,
                "ephemeral": new.ephemeral,
                "after_seconds": new.after_seconds,
                "webhook": new.webhook,
                "priority": new.priority,
                "on_pending": new.on_pending if new.answers is None else "discard",
                "held": held,
            },
        )

    async def _bind(self, conn: Connection, caller: Caller, new: NewRun, answers: Answers) -> None:
        params = {
            "thread_id": new.thread_id,
            "run_id": new.run_id,
            "checkpoint_id": answers.asked.checkpoint_id,
            "interrupt_ids": answers.keys,
        }
        bound = await (await conn.execute(self._sql["bind_answers"], params)).fetchall()
        if len(bound) < len(answers.keys):
            raise Conflict("This question is already being answered by another run.")
        if new.expiring is not None:
            await approvals.expire(conn, new.expiring, new.run_id, by=caller.owner)
        else:
            not_for = answers.served - {new.graph_id}
            await approvals.bind(conn, new.thread_id, new.run_id, answers.values, not_for=not_for, by=caller.owner)


async def _before(conn: Connection, caller: Caller, key: Key | None, new: Sequence[NewRun]) -> Made | None:
    if key is None:
        return None
    made = Made([run.thread_id for run in new], [run.run_id for run in new])
    return await idempotency.claim(conn, caller, key, made)
