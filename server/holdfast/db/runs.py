"""Runs: what is asked of them, and how they end. Who executes them when is `queue.py`.

One verb, one statement, one method. Guards live in the SQL; a verb that changes no row was refused. Whoever touches a
thread and its runs locks the thread row first, so that status, values, interrupts and runs change together (invariant
9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from holdfast.db import approvals, cancelling, threads, webhooks
from holdfast.db.arrays import Bigints, Blobs, Booleans, Column, Integers, Jsons, Texts, Uuids
from holdfast.db.cancelling import CancelAction, Cancelled
from holdfast.db.checkpoints import SAVE_RETRY_SECONDS
from holdfast.db.erasing import erase_or_leave
from holdfast.db.foreign import NO_ROLLBACK, only_in_postgres
from holdfast.db.groups import Group
from holdfast.db.pool import Connection, Database, repeated
from holdfast.db.queue import Claimed
from holdfast.db.saves import Block, Save, Saves
from holdfast.db.scope import scoped
from holdfast.db.sql import statements
from holdfast.db.values import since
from holdfast.errors import Conflict, FenceLost, Missing
from holdfast.rules.approval import Policies
from holdfast.rules.caller import Caller
from holdfast.rules.command import Questions
from holdfast.rules.run import RunStatus


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a claimed run ends. `outcome` is None where the thread's state is not to be touched.

    `values` is the result as JSON, for the run's webhook.
    """

    status: RunStatus
    outcome: threads.Outcome | None
    error: Mapping[str, str] | None = None
    block: Block | None = None
    """What is left to log; of a run whose events are not logged, what its thread's log tells of it."""
    event_seq: int = 0
    """The last number that the run used."""
    rollback: bool = False
    values: bytes | None = None
    keep_interrupted: bool = False
    """An ephemeral thread stays if it asks something."""
    apart: bool = False
    """The run did nothing, and its thread rests as it did before."""
    unread: frozenset[str] = frozenset()
    """The questions that it was to answer and found gone."""
    is_plain: bool = False
    """It answered nothing and wrote nothing but what is its own, in a first attempt."""

    @property
    def keeps_thread(self) -> bool:
        return self.keep_interrupted and self.outcome is not None and bool(self.outcome.interrupts)


class Runs:
    """The repository of runs. What a client may ask takes the caller; what a worker does takes its claim."""

    def __init__(self, database: Database, policies: Policies | None = None, saves: Saves | None = None) -> None:
        self._database = database
        self._saves = saves or Saves(database)
        self._quiet: Group[tuple[Claimed, RunEnd], bool] = Group("ends", self._end_quiet, database.metrics)
        self._policies = policies or Policies()
        self._sql = statements("runs")

    async def append(self, run: Claimed, block: Block) -> None:
        """Add a block to the run's event log.

        Raises:
            FenceLost: a newer claim exists.
        """
        key = (run.fencing_token, block.last_seq)
        if await self._saves.saved(Save(run.run_id, run.fencing_token, key, [block])):
            return
        params = {"run_id": run.run_id, "thread_id": run.thread_id, **asdict(block)}

        async def append() -> DictRow | None:
            async with self._database.connection("worker") as conn:
                cursor = await conn.execute(statements("events")["append"], params)
                return await cursor.fetchone()

        if await self._database.retrying(append, for_seconds=SAVE_RETRY_SECONDS) is None:
            raise FenceLost(f"run {run.run_id}: event block refused")

    async def end(self, run: Claimed, end: RunEnd) -> bool:
        """Finish a run: last block, status, thread status, values and interrupts in one fenced transaction.

        True: nothing else waits on its thread. False: that is not known.

        Raises:
            FenceLost: a newer claim exists; nothing was written.
        """
        if _is_simple(run, end) and await self._quiet.join(run.run_id, (run, end)):
            return True
        await self._database.retrying(lambda: self._end(run, end), for_seconds=SAVE_RETRY_SECONDS)
        return False

    async def cancel(self, caller: Caller, thread_id: UUID, run_id: UUID, action: CancelAction) -> bool:
        """Cancel a run; True if a worker has to be told, False if it never started and is over now.

        Raises:
            Missing: no such run of this caller, or it has ended already.
        """
        return bool((await self.cancel_these(caller, thread_id, [run_id], action)).stopping)

    @repeated
    async def cancel_these(
        self, caller: Caller, thread_id: UUID, run_ids: Sequence[UUID], action: CancelAction
    ) -> Cancelled:
        """Cancel these runs of one thread, as far as they are active.

        Raises:
            Missing: no such thread of this caller, or none of the runs is pending or running there.
            Unsupported: a rollback, where checkpoints are kept elsewhere.
        """
        self._check(action)
        async with self._database.transaction("api") as conn:
            locked = await conn.execute(*scoped(caller, statements("threads")["lock"], thread_id=thread_id))
            if await locked.fetchone() is None:
                raise threads.missing(thread_id)
            active = await self._all(conn, "active", {"thread_id": thread_id})
            wanted = set(run_ids)
            if not (found := [run for run in active if run["run_id"] in wanted]):
                named = ", ".join(map(str, run_ids))
                raise Missing(f"Run {named} is not pending or running: there is nothing to cancel.")
            return await cancelling.cancel(conn, found, action)

    async def cancel_everywhere(self, caller: Caller, statuses: Sequence[str], action: CancelAction) -> Cancelled:
        """Cancel the caller's runs in these statuses, on whatever thread.

        Raises:
            Missing: there is none.
            Unsupported: as above.
        """
        self._check(action)
        cancelled = Cancelled()
        first: UUID | None = UUID(int=0)
        while first is not None:
            some, first = await self._cancel_some(caller, statuses, action, first)
            cancelled.over.extend(some.over)
            cancelled.stopping.extend(some.stopping)
        if not cancelled.over and not cancelled.stopping:
            raise Missing("No run is in this status: there is nothing to cancel.")
        return cancelled

    def _check(self, action: CancelAction) -> None:
        if action == "rollback":
            only_in_postgres(self._database, NO_ROLLBACK)

    @repeated
    async def _cancel_some(
        self, caller: Caller, statuses: Sequence[str], action: CancelAction, first: UUID
    ) -> tuple[Cancelled, UUID | None]:
        async with self._database.transaction("api") as conn:
            return await cancelling.cancel_some(conn, caller, statuses, action, first=first)

    @repeated
    async def delete_thread(self, caller: Caller, thread_id: UUID) -> list[UUID]:
        """Delete a thread, its runs cancelled; returns the running ones, whose workers have to be told.

        While a worker still holds a run of it the thread is only hidden, and the sweep removes it.

        Raises:
            Missing: no such thread of this caller.
        """
        async with self._database.transaction("api") as conn:
            deleted = await conn.execute(*scoped(caller, statements("threads")["delete"], thread_id=thread_id))
            if await deleted.fetchone() is None:
                raise threads.missing(thread_id)
            active = await self._all(conn, "active", {"thread_id": thread_id})
            stopped = await cancelling.stop(conn, [run["run_id"] for run in active], "interrupt")
        if not stopped.stopping:
            await erase_or_leave(self._database, "api", [thread_id])
        return stopped.stopping

    async def get(self, caller: Caller, thread_id: UUID, run_id: UUID) -> DictRow:
        """One run. A stateless run's can be had for a while after its end.

        Raises:
            Missing: no such run of this caller on this thread.
        """
        rows = await self._seen(caller, "one_of_thread", thread_id=thread_id, run_id=run_id)
        if not rows:
            raise missing(run_id)
        return rows[0]

    async def get_all(self, caller: Caller, run_ids: Sequence[UUID]) -> list[DictRow]:
        """These runs, in this order.

        Raises:
            Missing: one of them is not there, or not this caller's.
        """
        rows = {row["run_id"]: row for row in await self._seen(caller, "by_id", run_ids=list(run_ids))}
        if gone := [run_id for run_id in run_ids if run_id not in rows]:
            raise missing(gone[0])
        return [rows[run_id] for run_id in run_ids]

    @repeated
    async def page(
        self, caller: Caller, thread_id: UUID, *, status: str | None = None, limit: int = 10, offset: int = 0
    ) -> list[DictRow]:
        """Runs of a thread, newest first."""
        terms = {"thread_id": thread_id, "status": status, "limit": limit, "offset": offset}
        query = scoped(caller, f"{self._sql['view']}{self._sql['of_thread']}", **terms)
        async with self._database.reading("api") as conn:
            return await (await conn.execute(*query)).fetchall()

    @repeated
    async def find(self, caller: Caller, run_id: UUID, thread_id: UUID | None = None) -> DictRow | None:
        """A run's standing: thread_id, status, error, ephemeral, resumable, logged, has_run."""
        async with self._database.connection("api") as conn:
            query = scoped(caller, self._sql["find"], run_id=run_id, thread_id=thread_id)
            return await (await conn.execute(*query)).fetchone()

    @repeated
    async def count_active(self, owner: str, *, up_to: int) -> int:
        """How many runs of this owner wait or are executed; somewhat more than `up_to` where there are more."""
        async with self._database.connection("api") as conn:
            row = await (await conn.execute(self._sql["count_active"], {"owner": owner, "up_to": up_to})).fetchone()
        assert row is not None
        return int(row["active"])

    @repeated
    async def delete(self, caller: Caller, thread_id: UUID, run_id: UUID) -> None:
        """Delete an ended run's record; its checkpoints stay.

        Raises:
            Missing: no such run of this caller.
            Conflict: it has not ended.
        """
        query = scoped(caller, self._sql["delete"], thread_id=thread_id, run_id=run_id)
        async with self._database.transaction("api") as conn:
            if await (await conn.execute(*query)).fetchone() is not None:
                return
        await self.get(caller, thread_id, run_id)
        raise Conflict("Run is still active: cancel it before deleting it.")

    async def _end_quiet(self, ends: Sequence[tuple[Claimed, RunEnd]]) -> dict[UUID, bool]:
        """End those whose threads are quiet."""
        async with self._database.connection("group") as conn:
            rows = await (await conn.execute(statements("quiet")["end"], _columns(ends))).fetchall()
        return {row["run_id"]: True for row in rows}

    async def _end(self, run: Claimed, end: RunEnd) -> None:
        thread = {"thread_id": run.thread_id}
        mine = {"run_id": run.run_id, "token": run.fencing_token, "status": end.status}
        async with self._database.transaction("worker") as conn:
            held = await (await conn.execute(statements("threads")["hold"], thread)).fetchone()
            told = {"error": Jsonb(end.error) if end.error else None, **_last_block(run, end)}
            if await self._one(conn, "end", {**mine, **told}) is None:
                # A commit whose answer was lost with its connection has happened all the same.
                if await self._one(conn, "ended_by", mine) is not None:
                    return
                raise FenceLost(f"run {run.run_id}: finish refused")
            if run.webhook is not None:
                await webhooks.post(conn, run.run_id, end.values)
            if end.rollback:
                await self._take_back(conn, run)
            if end.outcome is None:
                await self._leave(conn, run, end)
            else:
                if end.outcome.interrupts or (held is not None and held["asks"]):
                    await self._settle_approvals(conn, run, end, end.outcome)
                await self._settle(conn, run, end.outcome, end.event_seq)
            if run.ephemeral and not end.keeps_thread:
                await conn.execute(statements("threads")["hide"], {"thread_ids": [run.thread_id]})

    async def _leave(self, conn: Connection, run: Claimed, end: RunEnd) -> None:
        # What the run was to answer is asked still, as far as anybody can tell; if not, the next answer finds out.
        await conn.execute(self._sql["release_answers"], {"run_ids": [run.run_id], "still_asked": None})
        await approvals.release(conn, [run.run_id], None)
        error = None if end.apart else end.error
        failed = bool(error) and not end.rollback
        await cancelling.rest(conn, [run.thread_id], error, failed=failed, event_seq=end.event_seq)

    async def _settle_approvals(self, conn: Connection, run: Claimed, end: RunEnd, outcome: threads.Outcome) -> None:
        deadline = self._policies.of(run.graph_id).deadline
        change = approvals.Change(run.run_id, run.owner, end.unread, deadline)
        await approvals.settle(conn, run.thread_id, outcome.interrupts, outcome.checkpoint_id, change)

    async def _settle(self, conn: Connection, run: Claimed, outcome: threads.Outcome, event_seq: int) -> None:
        asked = Questions(
            outcome.checkpoint_id,
            frozenset(question["id"] for task in outcome.interrupts.values() for question in task),
            outcome.unfinished,
        )
        # An answer that met no question (cancelled, failed before it was read) may be given again.
        await conn.execute(self._sql["release_answers"], {"run_ids": [run.run_id], "still_asked": sorted(asked.keys)})
        await threads.settle(conn, run.thread_id, outcome, event_seq=event_seq)

    async def _take_back(self, conn: Connection, run: Claimed) -> None:
        # The thread row still shows what was there before the run: only its last words are new.
        params = {"run_id": run.run_id, "thread_id": run.thread_id}
        await conn.execute(self._sql["return_writes"], params)
        await conn.execute(self._sql["drop_checkpoints"], params)
        await conn.execute(self._sql["erase"], {"run_ids": [run.run_id]})

    @repeated
    async def _seen(self, caller: Caller, which: str, /, **params: Any) -> list[DictRow]:
        query = scoped(caller, f"{self._sql['view']}{self._sql[which]}", **params)
        async with self._database.connection("api") as conn:
            return await (await conn.execute(*query)).fetchall()

    async def _one(self, conn: Connection, verb: str, params: Mapping[str, Any]) -> DictRow | None:
        return await (await conn.execute(self._sql[verb], params)).fetchone()

    async def _all(self, conn: Connection, verb: str, params: Mapping[str, Any]) -> list[DictRow]:
        return await (await conn.execute(self._sql[verb], params)).fetchall()


def _is_simple(run: Claimed, end: RunEnd) -> bool:
    """Whether the end changes nothing but the run and its thread, if that is quiet."""
    outcome = end.outcome
    if outcome is None or outcome.interrupts or outcome.unfinished or outcome.error or end.error:
        return False
    return end.is_plain and not (run.asks or run.webhook or end.rollback or end.apart)


def _columns(ends: Sequence[tuple[Claimed, RunEnd]]) -> dict[str, Column]:
    """The ends as `quiet.sql: end` takes them."""
    blocks = [_last_block(run, end) for run, end in ends]
    changed = [since(run.value_digests, end.outcome.values) for run, end in ends if end.outcome is not None]
    put = [(run.run_id, *new) for (run, _), (found, _) in zip(ends, changed, strict=True) for new in found.put]
    gone = [(run.run_id, *old) for (run, _), (found, _) in zip(ends, changed, strict=True) for old in found.drop]
    return {
        "run_ids": Uuids(run.run_id for run, _ in ends),
        "thread_ids": Uuids(run.thread_id for run, _ in ends),
        "tokens": Bigints(run.fencing_token for run, _ in ends),
        "versions": Texts(run.thread_version for run, _ in ends),
        "checkpoint_ids": Texts(end.outcome and end.outcome.checkpoint_id for _, end in ends),
        "digests": Blobs(digests for _, digests in changed),
        "hides": Booleans(run.ephemeral for run, _ in ends),
        "tells": Booleans(block["tells"] for block in blocks),
        "logs": Booleans(block["log_of"] is not None for block in blocks),
        "last_used": Bigints(block["last_seq"] for block in blocks),
        "first_seqs": Bigints(block["first_seq"] for block in blocks),
        "first_in_run": Bigints(block["first_in_run"] for block in blocks),
        "frames": Blobs(block["frames"] for block in blocks),
        "put_run_ids": Uuids(run_id for run_id, _, _, _ in put),
        "put_channels": Texts(channel for _, channel, _, _ in put),
        "put_idxs": Integers(place for _, _, place, _ in put),
        "put_values": Jsons(value for _, _, _, value in put),
        "drop_run_ids": Uuids(run_id for run_id, _, _ in gone),
        "drop_channels": Texts(channel for _, channel, _ in gone),
        "drop_idxs": Integers(place for _, _, place in gone),
    }


def _last_block(run: Claimed, end: RunEnd) -> dict[str, Any]:
    """What the log gets at the end; of a run that is rolled back, or was not logged, it belongs to the thread."""
    no_frames = {"first_seq": None, "last_seq": end.event_seq, "first_in_run": 0, "frames": b""}
    return {
        "tells": end.block is not None or not run.ephemeral,
        "log_of": run.run_id if run.logged and not end.rollback else None,
        **(asdict(end.block) if end.block else no_frames),
    }


def missing(run_id: UUID) -> Missing:
    return Missing(f"Run with ID {run_id} not found")
