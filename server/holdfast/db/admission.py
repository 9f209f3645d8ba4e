"""The way in: runs become rows, each in one transaction under its thread's row lock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from holdfast.db import approvals, cancelling, crons, idempotency, queue, threads
from holdfast.db.arrays import Blobs, Booleans, Integers, Jsonbs, Texts, Uuids
from holdfast.db.cancelling import CancelAction, Cancelled
from holdfast.db.crons import Firing
from holdfast.db.foreign import NO_ROLLBACK, only_in_postgres
from holdfast.db.groups import Group
from holdfast.db.idempotency import Key, Made
from holdfast.db.pool import Connection, Database, json_bytes, repeated
from holdfast.db.queue import Claimed
from holdfast.db.scope import scoped
from holdfast.db.sql import statements
from holdfast.errors import Conflict, Forbidden, Missing
from holdfast.rules.admission import Plan, Strategy, admission, is_held, verify_status
from holdfast.rules.approval import OnPending, Policies
from holdfast.rules.caller import Caller, Sight
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
    policies: Policies = field(default_factory=Policies)
    """Who may answer what a graph asks."""
    by: Caller | None = None
    """Who answers, if the run is not in their name."""

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
    continues: bool = False
    """It brings nothing: its thread goes on where it stopped."""
    trace_id: UUID | None = None
    """The caller's trace, of which a run is part that neither answers nor continues; None: it begins one."""

    @property
    def stamp(self) -> dict[str, str]:
        """What its thread's metadata says of the run that works on it."""
        return {"graph_id": self.graph_id, "assistant_id": str(self.assistant_id)}


@dataclass(frozen=True, slots=True)
class Admitted:
    """What admission did: the run if it was claimed on the spot, and runs ahead of it that were cancelled.

    `before` is what the request's key stands for, if it was carried out before; then nothing was done now.
    """

    claimed: Claimed | None = None
    others: Cancelled = field(default_factory=Cancelled)
    before: Made | None = None


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A run at the door, and the worker that claims it on the spot."""

    caller: Caller
    new: NewRun
    worker_id: UUID | None

    @property
    def is_simple(self) -> bool:
        """Whether nothing has to be decided if its thread is quiet."""
        new = self.new
        delay, goes_on = new.after_seconds or None, new.continues or None
        decides = new.answers, new.thread_status, new.firing, new.expiring, delay, goes_on
        return self.caller.sight is not Sight.MATCHING and all(reason is None for reason in decides)

    def claimed(self, row: DictRow) -> Claimed | None:
        """The claim, from what the statement that let it in says."""
        new = self.new
        if self.worker_id is None:
            return None
        return Claimed(
            run_id=new.run_id,
            thread_id=new.thread_id,
            owner=self.caller.owner,
            assistant_id=new.assistant_id,
            graph_id=new.graph_id,
            metadata=new.metadata,
            kwargs=new.kwargs,
            resumable=new.resumable,
            logged=new.logged,
            ephemeral=new.ephemeral,
            attempt=1,
            crashes=0,
            command_saved=False,
            cancel=None,
            webhook=new.webhook,
            trace_id=new.trace_id,
            **{name: value for name, value in row.items() if name != "run_id"},
        )


def _columns(arrivals: Sequence[_Arrival]) -> dict[str, Any]:
    """The arrivals as `quiet.sql: admit` takes them."""
    new = [arrival.new for arrival in arrivals]
    return {
        "run_ids": Uuids(run.run_id for run in new),
        "thread_ids": Uuids(run.thread_id for run in new),
        "owners": Texts(arrival.caller.owner for arrival in arrivals),
        "see_all": Booleans(arrival.caller.sight is Sight.ALL for arrival in arrivals),
        "assistant_ids": Uuids(run.assistant_id for run in new),
        "graph_ids": Texts(run.graph_id for run in new),
        "metadata": Jsonbs(json_bytes(dict(run.metadata)) for run in new),
        "kwargs": Blobs(run.kwargs for run in new),
        "strategies": Texts(run.strategy for run in new),
        "resumable": Booleans(run.resumable for run in new),
        "logged": Booleans(run.logged for run in new),
        "ephemeral": Booleans(run.ephemeral for run in new),
        "webhooks": Texts(run.webhook for run in new),
        "priorities": Integers(run.priority for run in new),
        "on_pending": Texts(run.on_pending for run in new),
        "worker_ids": Uuids(arrival.worker_id for arrival in arrivals),
        "new_threads": Jsonbs(None if run.new_thread is None else json_bytes(dict(run.new_thread)) for run in new),
        "stamps": Jsonbs(json_bytes(run.stamp) for run in new),
        "trace_ids": Uuids(run.trace_id for run in new),
    }


class Admissions:
    """Lets runs in: in groups where the threads are quiet (`queries/quiet.sql`), one by one otherwise."""

    def __init__(self, database: Database, default_ttl: Ttl | None = None) -> None:
        self._database = database
        self._default_ttl = default_ttl
        self._sql = statements("runs")
        self._quiet: Group[_Arrival, DictRow] = Group("admissions", self._admit_quiet, database.metrics)

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
            Unsupported: the strategy `rollback`, where checkpoints are kept elsewhere.
        """
        self._check([new])
        arrival = _Arrival(caller, new, worker_id)
        in_doubt = key is None and arrival.is_simple
        if in_doubt and (row := await self._quiet.join(new.thread_id, arrival, len(new.kwargs))) is not None:
            return Admitted(arrival.claimed(row))
        return await self._admit_alone(arrival, key, in_doubt=in_doubt)

    @repeated
    async def _admit_alone(self, arrival: _Arrival, key: Key | None, *, in_doubt: bool) -> Admitted:
        """`in_doubt`: a group may have let it in, and the answer was lost."""
        caller, new, worker_id = arrival.caller, arrival.new, arrival.worker_id
        async with self._database.transaction("api") as conn:
            if before := await _before(conn, caller, key, [new]):
                return Admitted(before=before)
            thread = await self._locked_thread(conn, caller, new)
            # Not before the lock: the group's commit may be under way still.
            if in_doubt and await self._is_in(conn, new):
                return Admitted(await queue.claimed_by(conn, worker_id, new.run_id) if worker_id else None)
            others = await self._admit(conn, caller, new, thread)
            claimed = None
            if worker_id is not None and not new.after_seconds:
                claimed = await queue.claim_this(conn, worker_id, new.run_id)
        return Admitted(claimed, others)

    @repeated
    async def admit_all(self, caller: Caller, new: Sequence[NewRun], *, key: Key | None = None) -> Made | None:
        """Take in runs that each bring a thread of their own, all or none; what the key stands for, as `admit` does."""
        self._check(new)
        async with self._database.transaction("api") as conn:
            if before := await _before(conn, caller, key, new):
                return before
            for run in new:
                await self._admit(conn, caller, run, await self._locked_thread(conn, caller, run))
        return None

    def _check(self, new: Sequence[NewRun]) -> None:
        if any(run.strategy == "rollback" for run in new):
            only_in_postgres(self._database, NO_ROLLBACK)

    async def _admit_quiet(self, arrivals: Sequence[_Arrival]) -> dict[UUID, DictRow]:
        """Let in those whose threads are quiet; what the statement says of each, by its thread."""
        ttl = self._default_ttl
        params = _columns(arrivals) | {
            "ttl_seconds": ttl.minutes * 60 if ttl else None,
            "ttl_strategy": ttl.strategy if ttl else None,
        }
        async with self._database.connection("group") as conn:
            rows = await (await conn.execute(statements("quiet")["admit"], params)).fetchall()
        threads_of = {arrival.new.run_id: arrival.new.thread_id for arrival in arrivals}
        return {threads_of[row["run_id"]]: row for row in rows}

    async def _is_in(self, conn: Connection, new: NewRun) -> bool:
        cursor = await conn.execute(self._sql["is_in"], {"run_id": new.run_id})
        return await cursor.fetchone() is not None

    async def _admit(self, conn: Connection, caller: Caller, new: NewRun, thread: DictRow) -> Cancelled:
        """Insert the run; what was cancelled for it."""
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
        occupied = {"thread_id": new.thread_id, "stamp": Jsonb(new.stamp)}
        await conn.execute(statements("threads")["occupy"], occupied)
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
                "goes_on": new.answers is not None or new.continues,
                "answers": list(new.answers.values) if new.answers else [],
                "trace_id": new.trace_id,
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
            who = answers.by or caller
            asked = await approvals.bind(conn, new.thread_id, new.run_id, answers.values, not_for=not_for, by=who.owner)
            for question in asked:
                policy = answers.policies.of(question["graph_id"])
                if reason := policy.refusal(who.owner, who.permissions, question["requested_by"]):
                    raise Forbidden(reason)


async def _before(conn: Connection, caller: Caller, key: Key | None, new: Sequence[NewRun]) -> Made | None:
    if key is None:
        return None
    made = Made([run.thread_id for run in new], [run.run_id for run in new])
    return await idempotency.claim(conn, caller, key, made)
