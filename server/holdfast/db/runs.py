"""Runs: the queue is the table.

One verb, one statement, one method. Guards live in the SQL; a verb that changes no row was refused. Whoever touches a
thread and its runs locks the thread row first, so that status, values, interrupts and runs change together (invariant
9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from psycopg import IntegrityError
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from holdfast.db import threads
from holdfast.db.checkpoints import SAVE_RETRY_SECONDS, Fence
from holdfast.db.pool import Connection, Database
from holdfast.db.scope import scoped
from holdfast.db.sql import statements
from holdfast.errors import Conflict, FenceLost, Missing
from holdfast.rules.admission import Plan, Strategy, admission
from holdfast.rules.caller import Caller
from holdfast.rules.command import Questions, verify_binding
from holdfast.rules.run import RunStatus
from holdfast.rules.thread import Ttl

CancelAction = Literal["interrupt", "rollback"]

BUSY = "Thread is already running a task. Wait for it to finish or choose a different multitask strategy."

_CANCEL_ERRORS: Mapping[CancelAction, Mapping[str, str]] = {
    "interrupt": {"error": "UserInterrupt", "message": "User interrupted the run"},
    "rollback": {"error": "UserRollback", "message": "User rolled back the run"},
}


@dataclass(frozen=True, slots=True)
class Answers:
    """A resume, bound to its questions: `values` is `{interrupt_id: value}`, empty at a breakpoint."""

    asked: Questions
    values: Mapping[str, Any]

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


@dataclass(frozen=True, slots=True)
class Claimed:
    """A run that this process holds; `fencing_token` is what its writes carry."""

    run_id: UUID
    thread_id: UUID
    owner: str
    assistant_id: UUID
    graph_id: str
    metadata: Mapping[str, Any]
    kwargs: bytes
    resumable: bool
    logged: bool
    ephemeral: bool
    attempt: int
    crashes: int
    command_saved: bool
    fencing_token: int
    cancel: CancelAction | None
    event_seq: int
    claimed_at: float
    created_at: Any = None

    @property
    def fence(self) -> Fence:
        return Fence("run", self.run_id, self.fencing_token)


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a run's event log; numbers count frames, from 1."""

    first_seq: int
    last_seq: int
    first_in_run: int
    frames: bytes


@dataclass(frozen=True, slots=True)
class Admitted:
    """What admission did: the run if it was claimed on the spot, and running runs that were told to stop."""

    claimed: Claimed | None
    stopping: Sequence[UUID] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a claimed run ends. `outcome` is None where the thread's state is not to be touched."""

    status: RunStatus
    outcome: threads.Outcome | None
    error: Mapping[str, str] | None = None
    block: Block | None = None
    event_seq: int = 0
    rollback: bool = False


class Runs:
    """The repository of runs. What a client may ask takes the caller; what a worker does takes its claim."""

    def __init__(self, database: Database, default_ttl: Ttl | None = None) -> None:
        self._database = database
        self._default_ttl = default_ttl
        self._sql = statements("runs")

    async def admit(self, caller: Caller, new: NewRun, *, worker_id: UUID | None) -> Admitted:
        """Take a run in: one transaction under the thread's row lock.

        Args:
            worker_id: claim the run at once for this worker if nothing is ahead of it on its thread.

        Raises:
            Missing: no such thread of this caller.
            Conflict: `reject` on a busy thread, or an answer whose question is not pending (any more).
        """
        async with self._database.transaction("api") as conn:
            thread = await self._locked_thread(conn, caller, new)
            active = await self._all(conn, "active", {"thread_id": new.thread_id})
            plan = admission(new.strategy, active=len(active))
            if plan is Plan.REFUSE:
                raise Conflict(BUSY)
            if new.answers is not None:
                verify_binding(new.answers.values, new.answers.asked.checkpoint_id, threads.questions(thread))
            stopping: list[UUID] = []
            if plan in (Plan.INTERRUPT_OTHERS, Plan.ROLLBACK_OTHERS):
                action: CancelAction = "rollback" if plan is Plan.ROLLBACK_OTHERS else "interrupt"
                stopping = [run["run_id"] for run in active if await self._cancel(conn, run["run_id"], action)]
            await self._insert(conn, caller, new)
            if new.answers is not None:
                await self._bind(conn, new)
            stamp = {"graph_id": new.graph_id, "assistant_id": str(new.assistant_id)}
            await conn.execute(statements("threads")["occupy"], {"thread_id": new.thread_id, "stamp": Jsonb(stamp)})
            claimed = []
            if worker_id is not None and not new.after_seconds:
                claimed = await self._claim(conn, worker_id, limit=1, run_id=new.run_id)
        return Admitted(claimed[0] if claimed else None, stopping)

    async def claim(self, worker_id: UUID, *, limit: int) -> list[Claimed]:
        """Up to `limit` runs that are due, oldest first, each with a new fencing token."""
        try:
            async with self._database.connection("worker") as conn:
                return await self._claim(conn, worker_id, limit=limit, run_id=None)
        except IntegrityError:
            # Two workers took neighbours of one thread at the same moment; the index let one of them through.
            return []

    async def next_due(self) -> float | None:
        """Seconds until the next delayed run is due, or None."""
        async with self._database.connection("worker") as conn:
            row = await self._one(conn, "next_due", {})
        return None if row is None or row["seconds"] is None else float(row["seconds"])

    async def append(self, run: Claimed, block: Block) -> None:
        """Add a block to the run's event log.

        Raises:
            FenceLost: a newer claim exists.
        """
        params = {
            "run_id": run.run_id,
            "token": run.fencing_token,
            "thread_id": run.thread_id,
            "first_seq": block.first_seq,
            "last_seq": block.last_seq,
            "first_in_run": block.first_in_run,
            "frames": block.frames,
        }

        async def append() -> DictRow | None:
            async with self._database.connection("worker") as conn:
                cursor = await conn.execute(statements("events")["append"], params)
                return await cursor.fetchone()

        if await self._database.retrying(append, for_seconds=SAVE_RETRY_SECONDS) is None:
            raise FenceLost(f"run {run.run_id}: event block refused")

    async def end(self, run: Claimed, end: RunEnd) -> None:
        """Finish a run: last block, status, thread status, values and interrupts in one fenced transaction.

        Raises:
            FenceLost: a newer claim exists; nothing was written.
        """
        await self._database.retrying(lambda: self._end(run, end), for_seconds=SAVE_RETRY_SECONDS)

    async def hand_back(self, run: Claimed) -> bool:
        """Return a run to the queue, its progress kept; whether it was still ours."""
        params = {"run_id": run.run_id, "token": run.fencing_token}
        async with self._database.connection("worker") as conn:
            return await self._one(conn, "hand_back", params) is not None

    async def requeue_dead(self, dead: Sequence[UUID]) -> list[UUID]:
        """Return the runs of dead workers to the queue and forget those workers."""
        async with self._database.connection("worker") as conn:
            rows = await self._all(conn, "requeue_dead", {"dead": list(dead)})
            rows += await self._all(conn, "requeue_orphans", {})
        return [row["run_id"] for row in rows]

    async def requeue_lost(self, worker_id: UUID, run_ids: Sequence[UUID]) -> None:
        """Return this worker's own runs, which it is not executing, to the queue."""
        async with self._database.connection("worker") as conn:
            await self._all(conn, "requeue_lost", {"worker_id": worker_id, "run_ids": list(run_ids)})

    async def held(self, worker_id: UUID) -> dict[UUID, int]:
        """Run ids and fencing tokens that the database says this worker holds."""
        async with self._database.connection("worker") as conn:
            rows = await self._all(conn, "held", {"worker_id": worker_id})
        return {row["run_id"]: row["fencing_token"] for row in rows}

    async def cancelled_here(self, worker_id: UUID) -> dict[UUID, CancelAction]:
        """Runs of this worker that somebody asked to stop."""
        async with self._database.connection("worker") as conn:
            rows = await self._all(conn, "cancelled_here", {"worker_id": worker_id})
        return {row["run_id"]: row["cancel"] for row in rows}

    async def cancel(self, caller: Caller, thread_id: UUID, run_id: UUID, action: CancelAction) -> bool:
        """Cancel a run; True if a worker has to be told, False if it never started and is over now.

        Raises:
            Missing: no such run of this caller, or it has ended already.
        """
        async with self._database.transaction("api") as conn:
            locked = await conn.execute(*scoped(caller, statements("threads")["lock"], thread_id=thread_id))
            if await locked.fetchone() is None:
                raise missing(run_id)
            active = await self._all(conn, "active", {"thread_id": thread_id})
            if run_id not in {run["run_id"] for run in active}:
                raise Missing(f"Run {run_id} is not pending or running: there is nothing to cancel.")
            if await self._cancel(conn, run_id, action):
                return True
            await self._rest(conn, thread_id, _CANCEL_ERRORS[action], failed=False)
            return False

    async def delete_thread(self, caller: Caller, thread_id: UUID) -> list[UUID]:
        """Delete a thread, its runs cancelled; returns the running ones, whose workers have to be told.

        While a worker still holds a run of it the thread is only hidden, and the sweep removes it.

        Raises:
            Missing: no such thread of this caller.
        """
        params = {"thread_id": thread_id}
        async with self._database.transaction("api") as conn:
            deleted = await conn.execute(*scoped(caller, statements("threads")["delete"], thread_id=thread_id))
            if await deleted.fetchone() is None:
                raise threads.missing(thread_id)
            active = await self._all(conn, "active", {"thread_id": thread_id})
            stopping = [run["run_id"] for run in active if await self._cancel(conn, run["run_id"], "interrupt")]
            if not stopping:
                await conn.execute(statements("threads")["erase"], params)
                await conn.execute(statements("threads")["erase_checkpoints"], {"thread_ids": [str(thread_id)]})
            return stopping

    async def get(self, caller: Caller, thread_id: UUID, run_id: UUID) -> DictRow:
        """One run.

        Raises:
            Missing: no such run of this caller on this thread.
        """
        rows = await self.page(caller, thread_id, run_id=run_id, limit=1)
        if not rows:
            raise missing(run_id)
        return rows[0]

    async def page(
        self,
        caller: Caller,
        thread_id: UUID,
        *,
        run_id: UUID | None = None,
        status: str | None = None,
        limit: int = 10,
        offset: int = 0,
    ) -> list[DictRow]:
        """Runs of a thread, newest first."""
        query = scoped(
            caller,
            self._sql["view"],
            thread_id=thread_id,
            run_id=run_id,
            status=status,
            limit=limit,
            offset=offset,
        )
        async with self._database.connection("api") as conn:
            return await (await conn.execute(*query)).fetchall()

    async def find(self, caller: Caller, run_id: UUID, thread_id: UUID | None = None) -> DictRow | None:
        """A run's standing: thread_id, status, error, ephemeral, resumable, logged."""
        async with self._database.connection("api") as conn:
            query = scoped(caller, self._sql["find"], run_id=run_id, thread_id=thread_id)
            return await (await conn.execute(*query)).fetchone()

    async def delete(self, caller: Caller, thread_id: UUID, run_id: UUID) -> None:
        """Delete an ended run's record; its checkpoints stay.

        Raises:
            Missing: no such run of this caller.
            Conflict: it has not ended.
        """
        query = scoped(caller, self._sql["delete"], thread_id=thread_id, run_id=run_id)
        async with self._database.connection("api") as conn:
            if await (await conn.execute(*query)).fetchone() is not None:
                return
        await self.get(caller, thread_id, run_id)
        raise Conflict("Run is still active: cancel it before deleting it.")

    async def _locked_thread(self, conn: Connection, caller: Caller, new: NewRun) -> DictRow:
        if new.new_thread is not None:
            await threads.create(conn, caller, new.thread_id, new.new_thread, self._default_ttl)
        cursor = await conn.execute(*scoped(caller, statements("threads")["lock"], thread_id=new.thread_id))
        row = await cursor.fetchone()
        if row is None:
            raise Missing("Thread or assistant not found.")
        return row

    async def _insert(self, conn: Connection, caller: Caller, new: NewRun) -> None:
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
            },
        )

    async def _bind(self, conn: Connection, new: NewRun) -> None:
        assert new.answers is not None
        params = {
            "thread_id": new.thread_id,
            "run_id": new.run_id,
            "checkpoint_id": new.answers.asked.checkpoint_id,
            "interrupt_ids": new.answers.keys,
        }
        bound = await self._all(conn, "bind_answers", params)
        if len(bound) < len(new.answers.keys):
            raise Conflict("This question is already being answered by another run.")

    async def _claim(self, conn: Connection, worker_id: UUID, *, limit: int, run_id: UUID | None) -> list[Claimed]:
        rows = await self._all(conn, "claim", {"worker_id": worker_id, "limit": limit, "run_id": run_id})
        return [Claimed(**row) for row in rows]

    async def _cancel(self, conn: Connection, run_id: UUID, action: CancelAction) -> bool:
        """Cancel one active run, thread row locked; True if a worker has to end it."""
        params = {"run_id": run_id, "action": action}
        if await self._one(conn, "cancel_pending", params) is None:
            await conn.execute(self._sql["request_cancel"], params)
            return True
        await conn.execute(self._sql["release_answers"], {"run_id": run_id, "still_asked": None})
        if action == "rollback":
            await conn.execute(self._sql["erase"], {"run_id": run_id})
        return False

    async def _end(self, run: Claimed, end: RunEnd) -> None:
        thread = {"thread_id": run.thread_id}
        mine = {"run_id": run.run_id, "token": run.fencing_token, "status": end.status}
        async with self._database.transaction("worker") as conn:
            await conn.execute(statements("threads")["hold"], thread)
            error = Jsonb(end.error) if end.error else None
            if await self._one(conn, "end", mine | {"error": error}) is None:
                # A commit whose answer was lost with its connection has happened all the same.
                if await self._one(conn, "ended_by", mine) is not None:
                    return
                raise FenceLost(f"run {run.run_id}: finish refused")
            if end.block is not None:
                await self._append_last(conn, run, end.block)
            if end.rollback:
                await self._take_back(conn, run, end)
            elif end.outcome is None:
                await self._rest(conn, run.thread_id, end.error, failed=bool(end.error), event_seq=end.event_seq)
            else:
                await self._settle(conn, run, end.outcome, end.event_seq)
            if run.ephemeral:
                await conn.execute(statements("threads")["hide"], thread)

    async def _settle(self, conn: Connection, run: Claimed, outcome: threads.Outcome, event_seq: int) -> None:
        asked = Questions(
            outcome.checkpoint_id,
            frozenset(question["id"] for task in outcome.interrupts.values() for question in task),
            outcome.unfinished,
        )
        # An answer that met no question (cancelled, failed before it was read) may be given again.
        await conn.execute(self._sql["release_answers"], {"run_id": run.run_id, "still_asked": sorted(asked.keys)})
        await threads.settle(conn, run.thread_id, outcome, event_seq=event_seq)

    async def _take_back(self, conn: Connection, run: Claimed, end: RunEnd) -> None:
        # The thread row still shows what was there before the run: only its last words are new.
        params = {"run_id": run.run_id, "thread_id": run.thread_id}
        await conn.execute(self._sql["return_writes"], params)
        await conn.execute(self._sql["drop_checkpoints"], params)
        await conn.execute(self._sql["erase"], params)
        await self._rest(conn, run.thread_id, end.error, failed=False, event_seq=end.event_seq)

    async def _rest(
        self,
        conn: Connection,
        thread_id: UUID,
        error: Mapping[str, str] | None,
        *,
        failed: bool,
        event_seq: int = 0,
    ) -> None:
        params = {
            "thread_id": thread_id,
            "error": Jsonb(error) if error else None,
            "failed": failed,
            "event_seq": event_seq,
        }
        await conn.execute(statements("threads")["rest"], params)

    async def _append_last(self, conn: Connection, run: Claimed, block: Block) -> None:
        await conn.execute(
            statements("events")["append_last"],
            {
                "run_id": run.run_id,
                "thread_id": run.thread_id,
                "first_seq": block.first_seq,
                "last_seq": block.last_seq,
                "first_in_run": block.first_in_run,
                "frames": block.frames,
            },
        )

    async def _one(self, conn: Connection, verb: str, params: Mapping[str, Any]) -> DictRow | None:
        return await (await conn.execute(self._sql[verb], params)).fetchone()

    async def _all(self, conn: Connection, verb: str, params: Mapping[str, Any]) -> list[DictRow]:
        return await (await conn.execute(self._sql[verb], params)).fetchall()


def cancel_error(action: CancelAction) -> Mapping[str, str]:
    """What a cancelled run leaves as its thread's error."""
    return _CANCEL_ERRORS[action]


def missing(run_id: UUID) -> Missing:
    return Missing(f"Run with ID {run_id} not found")
