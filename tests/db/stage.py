"""What the tests of this room work with: repositories over one database, and short ways to make rows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuids
from psycopg import AsyncConnection, Connection
from psycopg.rows import DictRow, dict_row

from holdfast.db.admission import Admissions, Admitted, NewRun
from holdfast.db.assistants import Assistants, system_assistant_id
from holdfast.db.bell import Bell
from holdfast.db.events import EventLog
from holdfast.db.fanout import Fanout
from holdfast.db.idempotency import Key
from holdfast.db.pool import Database
from holdfast.db.queue import Claimed, Queue
from holdfast.db.runs import Runs
from holdfast.db.saves import Saves
from holdfast.db.threads import Outcome, Threads
from holdfast.rules.caller import Caller
from holdfast.wire import sse

ANN, BOB = Caller("ann"), Caller("bob")
GRAPH = "talk"
ASSISTANT = system_assistant_id(GRAPH)
CHECKPOINT_TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
DEADLINE_SECONDS = 15.0


@dataclass(frozen=True)
class Stage:
    """One process's view of the database."""

    url: str
    database: Database
    admissions: Admissions
    queue: Queue
    runs: Runs
    threads: Threads
    worker_id: UUID
    saves: Saves

    async def thread(self, owner: Caller = ANN) -> UUID:
        thread_id = uuids.uuid7()
        await self.threads.create(owner, thread_id, {}, or_keep=False)
        return thread_id

    async def admit(
        self,
        thread_id: UUID,
        *,
        caller: Caller = ANN,
        worker_id: UUID | None = None,
        key: Key | None = None,
        **given: Any,
    ) -> tuple[UUID, Admitted]:
        new = new_run(thread_id, **given)
        return new.run_id, await self.admissions.admit(caller, new, worker_id=worker_id, key=key)

    async def claim(self, *, worker_id: UUID | None = None) -> Claimed:
        """The next run that is due; there has to be one."""
        (claimed,) = await self.queue.claim(worker_id or self.worker_id, limit=1)
        return claimed

    async def started(self, thread_id: UUID | None = None, **given: Any) -> Claimed:
        """A run admitted and claimed on the spot."""
        _, admitted = await self.admit(thread_id or await self.thread(), worker_id=self.worker_id, **given)
        assert admitted.claimed is not None
        return admitted.claimed

    async def register(self, worker_id: UUID) -> None:
        """A row for a worker that has no process."""
        await self.sql(
            "INSERT INTO holdfast.workers (worker_id, host, pid, lock_key, has_lock, started_at, seen_at, lease_until)"
            " VALUES (%s, 'elsewhere', 1, 1, false, now(), now(), now() + interval '1 hour')",
            worker_id,
        )

    async def sql(self, statement: str, *params: Any) -> list[DictRow]:
        async with self.database.connection("worker") as conn:
            cursor = await conn.execute(statement, params)  # type: ignore[arg-type]
            return await cursor.fetchall() if cursor.description else []

    async def run_status(self, run_id: UUID) -> str | None:
        rows = await self.sql("SELECT status FROM holdfast.runs WHERE run_id = %s", run_id)
        return rows[0]["status"] if rows else None

    async def thread_status(self, thread_id: UUID) -> str:
        (row,) = await self.sql("SELECT status FROM holdfast.threads WHERE thread_id = %s", thread_id)
        return str(row["status"])

    async def cut_all_connections(self) -> None:
        """Terminate every connection of every client of this database."""
        async with self.outside() as conn:
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    @asynccontextmanager
    async def outside(self) -> AsyncIterator[AsyncConnection[DictRow]]:
        """A connection that is not of the pool."""
        async with await AsyncConnection.connect(self.url, autocommit=True, row_factory=dict_row) as conn:
            yield conn


@asynccontextmanager
async def opened(url: str, *, size: int = 8) -> AsyncIterator[Stage]:
    database = Database(url, size=size)
    await database.open()
    try:
        await Assistants(database, [GRAPH]).put_system(GRAPH, GRAPH, None)
        saves = Saves(database)
        yield Stage(
            url,
            database,
            Admissions(database),
            Queue(database),
            Runs(database, saves=saves),
            Threads(database),
            uuids.uuid7(),
            saves,
        )
    finally:
        await database.close()


@dataclass(frozen=True)
class Process:
    """A process with a bell and an event log of its own."""

    stage: Stage
    bell: Bell
    events: EventLog
    fanout: Fanout | None


@asynccontextmanager
async def process(
    url: str, *, listening: bool = True, size: int = 8, fanout_url: str | None = None
) -> AsyncIterator[Process]:
    """A process whose bell already listens (or is deaf), and whose fan-out does if it has one."""
    async with opened(url, size=size) as stage:
        bell = Bell(stage.database, url if listening else None)
        fanout = Fanout(fanout_url, bell) if fanout_url else None
        events = EventLog(stage.database, stage.runs, bell, sse.split, fanout)
        tasks = [asyncio.create_task(bell.listen()), asyncio.create_task(events.watch())]
        if fanout is not None:
            tasks.append(asyncio.create_task(fanout.listen()))
        try:
            if listening:
                await until(lambda: bell.poll_seconds > 1)
            if fanout is not None:
                await until(lambda: fanout.poll_seconds > 1)
            yield Process(stage, bell, events, fanout)
        finally:
            await bell.close()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            if fanout is not None:
                await fanout.close()


def emptied(conn: Connection[Any]) -> None:
    """Delete every row of every table that a test writes to."""
    for table in (
        "holdfast.threads",
        "holdfast.idempotency_keys",
        "holdfast.approvals",
        "holdfast.alerts",
        "holdfast.workers",
        "holdfast.assistants",
        "store",
        "holdfast.elements",
        *CHECKPOINT_TABLES,
    ):
        conn.execute(f"DELETE FROM {table}")


def new_run(thread_id: UUID, *, run_id: UUID | None = None, assistant_id: UUID = ASSISTANT, **given: Any) -> NewRun:
    return NewRun(
        run_id=run_id or uuids.uuid7(),
        thread_id=thread_id,
        assistant_id=assistant_id,
        graph_id=GRAPH,
        kwargs=b"{}",
        metadata={},
        **given,
    )


def outcome(
    values: Mapping[str, Any] | None = None,
    *,
    checkpoint_id: str | None = "c1",
    asks: tuple[str, ...] = (),
    unfinished: bool = False,
    failed: bool = False,
) -> Outcome:
    """An outcome; `asks` are the ids of pending interrupts."""
    return Outcome(
        checkpoint_id=checkpoint_id,
        values=values or {},
        interrupts={"task": [{"id": asked, "value": "?"} for asked in asks]} if asks else {},
        unfinished=unfinished or bool(asks),
        failed=failed,
    )


async def until(holds: Callable[[], Any] | Callable[[], Awaitable[Any]], seconds: float = DEADLINE_SECONDS) -> Any:
    """Poll until a condition holds; what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        found = holds()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


async def together(*work: Awaitable[Any]) -> list[Any]:
    """All of them at once, released by one barrier; results or exceptions in order."""
    barrier = asyncio.Barrier(len(work))

    async def at_the_barrier(one: Awaitable[Any]) -> Any:
        await barrier.wait()
        return await one

    async with asyncio.timeout(DEADLINE_SECONDS):
        return await asyncio.gather(*map(at_the_barrier, work), return_exceptions=True)
