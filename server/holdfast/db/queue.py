"""The queue: runs that wait, who executes them, and how they come back.

It is the table of runs. One verb, one statement, one method; guards live in the SQL. A claim gives a run to a worker,
with a fencing token that is newer than all before it. What is claimed comes back by `hand_back`, when its worker is
told to leave, or by `requeue_*`, when that is dead or does not know of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import IntegrityError
from psycopg.rows import DictRow

from holdfast.db.cancelling import CancelAction
from holdfast.db.checkpoints import Fence
from holdfast.db.pool import Connection, Database, persistent, repeated
from holdfast.db.sql import statements
from holdfast.errors import DatabaseError
from holdfast.rules.recovery import SUSPECT_AFTER
from holdfast.rules.turns import Turn, in_order, share

OWNERS_A_LOOK = 64
"""Among so many owners a worker chooses whose turn it is; with more of them, among the next ones in the circle."""

MOST_LOOKS = 16
"""So many looks may find nothing but blocked runs before the worker sleeps; it goes on where it stopped."""


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
    torn: bool = False
    """The thread rests in the middle of something, or after an error: its history may lack answers to tool calls."""
    graph_revision: str | None = None
    """The fingerprint of the graph that wrote the thread's state; None where there is none."""
    webhook: str | None = None
    created_at: Any = None
    asks: bool = False
    """Whether its thread asked something when it was claimed."""
    is_new: bool = False
    """Whether its thread is known to have no checkpoint."""
    value_digests: bytes = b""
    """Of the thread's values (`values.py`), which nobody else changes while the run is at work."""
    thread_version: str = ""
    """Of the thread's row when the run was claimed; every admission gives it another one."""
    trace_id: UUID | None = None
    """The trace that it is part of (`rules/trace.py`), if that is not its own."""

    @property
    def fence(self) -> Fence:
        return Fence("run", self.run_id, self.fencing_token)


class Queue:
    """The repository of workers; a verb for a claimed run takes its claim."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("queue")
        self._served = ""

    async def claim(self, worker_id: UUID, *, limit: int) -> list[Claimed]:
        """Up to `limit` runs that are due, each with a new fencing token; owners take turns (`rules/turns.py`).

        No suspects: those are claimed one by one (`claim_suspect`).
        """
        claimed: list[Claimed] = []
        for _ in range(MOST_LOOKS):
            turns = await self._turns()
            waiting = in_order(turns)
            while waiting and len(claimed) < limit:
                owner, at_most = waiting[0].owner, share(limit - len(claimed), waiting)
                try:
                    found = await self._claim_of(owner, worker_id, at_most)
                except DatabaseError:
                    if not claimed:
                        raise
                    return claimed
                if found:
                    claimed += found
                    self._served = owner
                del waiting[0]
            if claimed or len(turns) < OWNERS_A_LOOK:
                break
            self._served = turns[-1].owner
        return claimed

    @repeated
    async def reserve_suspect(self, *, seconds: float) -> UUID | None:
        """A run that may start, in a process of its own (`rules/recovery.py`); nobody else finds it for that long."""
        params = {"suspect_after": SUSPECT_AFTER, "seconds": seconds}
        async with self._database.connection("worker") as conn:
            row = await self._one(conn, "reserve_suspect", params)
        return None if row is None else row["run_id"]

    @repeated
    async def claim_suspect(self, worker_id: UUID, run_id: UUID) -> Claimed | None:
        """Claim that run; None if it may not start any more."""
        try:
            async with self._database.transaction("worker") as conn:
                return await claim_this(conn, worker_id, run_id)
        except IntegrityError:
            return None

    @repeated
    async def next_due(self) -> float | None:
        """Seconds until the next delayed run is due, or None."""
        async with self._database.connection("worker") as conn:
            row = await self._one(conn, "next_due", {})
        return None if row is None or row["seconds"] is None else float(row["seconds"])

    @persistent
    async def hand_back(self, run: Claimed) -> bool:
        """Return a run to the queue, its progress kept; whether it was still ours."""
        params = {"run_id": run.run_id, "token": run.fencing_token}
        async with self._database.transaction("worker") as conn:
            return await self._one(conn, "hand_back", params) is not None

    @repeated
    async def requeue_dead(self, dead: Sequence[UUID]) -> dict[UUID, int]:
        """Return the runs of dead workers to the queue and forget those workers; how often each run has crashed."""
        async with self._database.transaction("worker") as conn:
            rows = await (await conn.execute(self._sql["requeue_dead"], {"dead": list(dead)})).fetchall()
            rows += await (await conn.execute(self._sql["requeue_orphans"])).fetchall()
        return {row["run_id"]: row["crashes"] for row in rows}

    @repeated
    async def requeue_lost(self, worker_id: UUID, run_ids: Sequence[UUID]) -> None:
        """Return this worker's own runs, which it is not executing, to the queue."""
        async with self._database.connection("worker") as conn:
            await self._all(conn, "requeue_lost", {"worker_id": worker_id, "run_ids": list(run_ids)})

    @repeated
    async def held(self, worker_id: UUID) -> dict[UUID, int]:
        """Run ids and fencing tokens that the database says this worker holds."""
        async with self._database.connection("worker") as conn:
            rows = await self._all(conn, "held", {"worker_id": worker_id})
        return {row["run_id"]: row["fencing_token"] for row in rows}

    @repeated
    async def cancelled_here(self, worker_id: UUID) -> dict[UUID, CancelAction]:
        """Runs of this worker that somebody asked to stop."""
        async with self._database.connection("worker") as conn:
            rows = await self._all(conn, "cancelled_here", {"worker_id": worker_id})
        return {row["run_id"]: row["cancel"] for row in rows}

    @repeated
    async def _turns(self) -> list[Turn]:
        async with self._database.connection("worker") as conn:
            rows = await self._all(conn, "turns", {"after": self._served, "owners": OWNERS_A_LOOK})
        return [Turn(**row) for row in rows]

    @repeated
    async def _claim_of(self, owner: str, worker_id: UUID, limit: int) -> list[Claimed]:
        params = {"owner": owner, "worker_id": worker_id, "limit": limit, "suspect_after": SUSPECT_AFTER}
        try:
            async with self._database.transaction("worker") as conn:
                rows = await self._all(conn, "claim", params)
        except IntegrityError:
            # Two workers took neighbours of one thread at the same moment; the index let one of them through.
            return []
        return [Claimed(**row) for row in rows]

    async def _one(self, conn: Connection, verb: str, params: Mapping[str, Any]) -> DictRow | None:
        return await (await conn.execute(self._sql[verb], params)).fetchone()

    async def _all(self, conn: Connection, verb: str, params: Mapping[str, Any]) -> list[DictRow]:
        return await (await conn.execute(self._sql[verb], params)).fetchall()


async def claim_this(conn: Connection, worker_id: UUID, run_id: UUID) -> Claimed | None:
    """Claim this run, if it is due and nothing of its thread is before it."""
    params = {"worker_id": worker_id, "run_id": run_id}
    row = await (await conn.execute(statements("queue")["claim_this"], params)).fetchone()
    return None if row is None else Claimed(**row)


async def claimed_by(conn: Connection, worker_id: UUID, run_id: UUID) -> Claimed | None:
    """The run as this worker has claimed it, if it has."""
    params = {"worker_id": worker_id, "run_id": run_id}
    row = await (await conn.execute(statements("queue")["claimed_by"], params)).fetchone()
    return None if row is None else Claimed(**row)
