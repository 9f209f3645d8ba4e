"""Reads by a replica see all that is committed, and when there is no such replica, the primary answers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
import uuid_utils.compat as uuids
from langgraph.store.base import ListNamespacesOp, PutOp, SearchOp

from holdfast.db.approvals import ApprovalFilter, Approvals
from holdfast.db.assistants import AssistantFilter, Assistants
from holdfast.db.crons import CronFilter, Crons
from holdfast.db.metrics import Sizes
from holdfast.db.migrate import migrate
from holdfast.db.pool import Connection, Database, repeated
from holdfast.db.replica import CONNECTIONS, Replica
from holdfast.db.store import PooledStore
from holdfast.db.threadsearch import Page, ThreadFilter
from holdfast.errors import DatabaseError
from holdfast.process import Tasks
from tests.conftest import PROJECT
from tests.db.stage import ANN, ASSISTANT, GRAPH, Stage, emptied, opened, together, until
from tests.db.standbys import Primary, Standby, primary, standby
from tests.support.server import Server

pytestmark = pytest.mark.anyio

PATIENT = 10.0
"""Seconds in which a replica on a noisy machine has caught up."""

MUCH = "CREATE TABLE much AS SELECT repeat('much', 100) FROM generate_series(1, 100000)"
"""More log than the other tests write together."""

names = itertools.count()


@pytest.fixture(scope="module")
def source() -> Iterator[Primary]:
    with primary() as running:
        asyncio.run(migrate(running.url))
        yield running


@pytest.fixture
def copy(source: Primary) -> Iterator[Standby]:
    """A replica of a database without a row, whose replay waits for no read."""
    with psycopg.connect(source.url, autocommit=True) as conn:
        emptied(conn)
    with standby(source, f"copy{next(names)}", max_standby_streaming_delay="0") as running:
        yield running


@dataclass
class Reading:
    """A process that reads by a replica."""

    stage: Stage
    replica: Replica

    async def found(self) -> set[Any]:
        """The ids of all of ann's threads."""
        return {row["thread_id"] for row in await self.stage.threads.search(ANN, ThreadFilter(), Page(1000))}

    async def fit(self) -> None:
        await until(lambda: self.replica.is_fit)


@asynccontextmanager
async def reading(url: str, read_url: str, *, wait: float = PATIENT) -> AsyncIterator[Reading]:
    async with opened(url) as stage:
        replica = Replica(stage.database, read_url, wait=wait)
        await replica.open()
        stage.database.reader = replica
        tasks = Tasks(asyncio.Event())
        tasks.start("replica", replica.watch())
        try:
            yield Reading(stage, replica)
        finally:
            await tasks.stop()
            await replica.close()


class Verbs:
    """A repository whose one verb reads in whatever way."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @repeated
    async def read(self, how: Callable[[Connection], Awaitable[Any]]) -> Any:
        async with self._database.reading("api") as conn:
            return await how(conn)


async def is_replica(conn: Connection) -> bool:
    row = await (await conn.execute("SELECT pg_is_in_recovery() AS so")).fetchone()
    assert row is not None
    return bool(row["so"])


# --- what a read sees ---


async def test_the_replica_shows_what_was_committed_a_moment_ago(source: Primary, copy: Standby) -> None:
    async with reading(source.url, copy.url) as process:
        await process.fit()
        made = set()
        for _ in range(30):
            made.add(await process.stage.thread())
            assert await process.found() == made
        assert process.replica.reads == {"replica": 30}


async def test_and_what_another_process_committed(source: Primary, copy: Standby) -> None:
    async with reading(source.url, copy.url) as process, opened(source.url) as other:
        await process.fit()
        made = set()
        for _ in range(30):
            made.add(await other.thread())
            assert await process.found() == made
        assert process.replica.reads == {"replica": 30}


async def test_reads_at_the_same_time_see_it_too(source: Primary, copy: Standby) -> None:
    async with reading(source.url, copy.url) as process:
        await process.fit()

        async def made_and_found() -> None:
            thread_id = await process.stage.thread()
            assert thread_id in await process.found()

        assert await together(*[made_and_found() for _ in range(30)]) == [None] * 30
        assert process.replica.reads["replica"] > 0


async def test_a_search_goes_on_while_replay_stands_still_and_comes_back_to_the_replica_afterwards(
    source: Primary, copy: Standby
) -> None:
    async with reading(source.url, copy.url, wait=0.02) as process:
        await process.fit()
        copy.sql("SELECT pg_wal_replay_pause()")
        await until(lambda: copy.sql("SELECT pg_get_wal_replay_pause_state()") == "paused")
        thread_id = await process.stage.thread()
        assert await process.found() == {thread_id}
        assert not process.replica.is_fit
        copy.sql("SELECT pg_wal_replay_resume()")
        await process.fit()
        assert await process.found() == {thread_id}


async def test_a_role_without_privileges_reads_there(source: Primary, copy: Standby) -> None:
    with psycopg.connect(source.url, autocommit=True) as conn:
        conn.execute("CREATE ROLE plain LOGIN IN ROLE pg_read_all_data")
    async with reading(source.url, copy.url.replace("postgres@", "plain@")) as process:
        await process.fit()
        thread_id = await process.stage.thread()
        assert await process.found() == {thread_id}
        assert process.replica.reads["replica"] == 1


# --- who is no replica of this primary ---


async def test_one_that_was_promoted_is_not_asked(source: Primary, copy: Standby) -> None:
    async with reading(source.url, copy.url) as process:
        await process.fit()
        copy.promote()
        thread_id = await process.stage.thread()
        assert await process.found() == {thread_id}
        assert not process.replica.is_fit


async def test_the_primary_itself_is_no_replica(source: Primary, caplog: pytest.LogCaptureFixture) -> None:
    async with reading(source.url, source.url) as process:
        await process.replica._look()
        assert not process.replica.is_fit
    assert "leads to no replica of this primary" in caplog.text


async def test_a_replica_of_another_primary_is_not_asked(copy: Standby) -> None:
    with primary() as other:
        await migrate(other.url)
        async with reading(other.url, copy.url, wait=0.02) as process:
            assert await is_ahead(process.stage, copy)
            await process.replica._look()
            assert not process.replica.is_fit
            thread_id = await process.stage.thread()
            assert await process.found() == {thread_id}


async def test_one_that_is_ahead_of_the_primary_that_took_over_is_not_asked() -> None:
    """It has replayed more than there is, of a history that has ended."""
    with primary() as first, standby(first, "heir") as heir, standby(first, "ahead") as ahead:
        await migrate(first.url)
        heir.stop()
        async with opened(first.url) as stage:
            lost = await stage.thread()
            await stage.sql(MUCH)
        await until(lambda: ahead.sql("SELECT to_regclass('much') IS NOT NULL"))
        first.stop()
        heir.start(streaming=False)
        heir.promote()
        async with reading(heir.url, ahead.url, wait=0.02) as process:
            assert await is_ahead(process.stage, ahead)
            await process.replica._look()
            assert not process.replica.is_fit
            assert lost not in await process.found()


async def is_ahead(stage: Stage, other: Standby) -> bool:
    """Whether the place in the log alone would say that the other one has everything."""
    replayed = other.sql("SELECT pg_last_wal_replay_lsn()::text")
    (row,) = await stage.sql("SELECT pg_current_wal_flush_lsn() <= %s::pg_lsn AS so", replayed)
    return bool(row["so"])


# --- what a replica cannot do, the primary does ---


async def test_a_replica_that_is_not_there_holds_up_nothing(source: Primary) -> None:
    async with reading(source.url, "postgresql:///nothing?host=/nowhere") as process:
        thread_id = await process.stage.thread()
        assert thread_id in await process.found()
        assert process.replica.reads == {"primary": 1}


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_a_read_whose_replica_dies_is_done_by_the_primary(source: Primary, copy: Standby, end: str) -> None:
    async with reading(source.url, copy.url) as process:
        await process.fit()
        begun = asyncio.Event()

        async def look(conn: Connection) -> bool:
            answered_by_replica = await is_replica(conn)
            if answered_by_replica:
                begun.set()
                await conn.execute("SELECT pg_sleep(60)")
            return answered_by_replica

        read = asyncio.create_task(Verbs(process.stage.database).read(look))
        await begun.wait()
        await asyncio.to_thread(getattr(copy, end))
        assert await read is False
        thread_id = await process.stage.thread()
        assert thread_id in await process.found()


async def test_a_replica_that_comes_back_is_asked_again(source: Primary, copy: Standby) -> None:
    async with reading(source.url, copy.url) as process:
        await process.fit()
        copy.kill()
        thread_id = await process.stage.thread()
        assert await process.found() == {thread_id}
        assert not process.replica.is_fit
        copy.start()
        await process.fit()
        assert await process.found() == {thread_id}


async def test_a_read_that_replay_cancels_is_done_by_the_primary(source: Primary, copy: Standby) -> None:
    async with reading(source.url, copy.url) as process:
        await process.fit()
        begun, cancelled = asyncio.Event(), []

        async def look(conn: Connection) -> bool:
            if not await is_replica(conn):
                return False
            begun.set()
            try:
                await conn.execute("SELECT pg_sleep(60) FROM (SELECT count(*) FROM holdfast.crons) AS counted")
            except psycopg.Error as error:
                cancelled.append(error.sqlstate)
                raise
            return True

        read = asyncio.create_task(Verbs(process.stage.database).read(look))
        await begun.wait()
        await until(lambda: copy.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
        await process.stage.sql("ALTER TABLE holdfast.crons ALTER COLUMN metadata SET DEFAULT '{}'")
        assert await read is False
        assert cancelled == ["40001"]


async def test_the_primary_answers_while_all_connections_to_the_replica_are_busy(
    source: Primary, copy: Standby
) -> None:
    async with reading(source.url, copy.url) as process, AsyncExitStack() as stack:
        await process.fit()
        for _ in range(CONNECTIONS):
            conn = await stack.enter_async_context(process.stage.database.reading("api"))
            assert await is_replica(conn)
        async with process.stage.database.reading("api") as conn:
            assert not await is_replica(conn)
        assert process.replica.is_fit


async def test_a_statement_that_is_wrong_fails_as_it_does_at_the_primary(source: Primary, copy: Standby) -> None:
    async with reading(source.url, copy.url) as process:
        await process.fit()
        with pytest.raises(DatabaseError) as raised:
            await Verbs(process.stage.database).read(lambda conn: conn.execute("SELECT nothing"))
        assert type(raised.value) is DatabaseError


# --- which reads these are ---


async def test_searches_counts_and_lists_go_to_the_replica(source: Primary, copy: Standby) -> None:
    async with reading(source.url, copy.url) as process:
        await process.fit()
        stage, count = process.stage, 0
        run = await stage.started()
        assistants, crons, store = (
            Assistants(stage.database, [GRAPH]),
            Crons(stage.database),
            PooledStore(stage.database),
        )
        await store.abatch([PutOp(("a",), "k", {})])
        reads: list[Awaitable[Any]] = [
            stage.threads.search(ANN, ThreadFilter(), Page(10)),
            stage.threads.count(ANN, ThreadFilter()),
            stage.runs.page(ANN, run.thread_id),
            assistants.search(ANN, AssistantFilter(), limit=10),
            assistants.count(ANN, AssistantFilter()),
            assistants.versions(ANN, ASSISTANT),
            store.abatch([SearchOp(("a",), refresh_ttl=False)]),
            store.abatch([ListNamespacesOp()]),
            Sizes(stage.database).measure(after=uuids.UUID(int=0), limit=10),
        ]
        for read in reads:
            assert await read
            count += 1
            assert process.replica.reads == {"replica": count}
        assert await Approvals(stage.database).search(ANN, ApprovalFilter(), limit=10) == []
        assert await crons.search(ANN, CronFilter(), limit=10) == []
        assert await crons.count(ANN, CronFilter()) == 0
        assert process.replica.reads == {"replica": count + 3}


async def test_what_decides_or_changes_something_is_read_at_the_primary(source: Primary, copy: Standby) -> None:
    async with reading(source.url, copy.url) as process:
        await process.fit()
        stage = process.stage
        run = await stage.started()
        await stage.threads.get(ANN, run.thread_id)
        await stage.threads.standing(ANN, run.thread_id)
        await stage.threads.questions(ANN, run.thread_id)
        await stage.runs.get(ANN, run.thread_id, run.run_id)
        await stage.runs.find(ANN, run.run_id)
        await Assistants(stage.database, [GRAPH]).on_thread(ANN, ASSISTANT, run.thread_id)
        # It may prolong what it finds.
        await PooledStore(stage.database).abatch([SearchOp(("a",))])
        assert process.replica.reads == {}


async def test_a_server_reads_by_it_and_nobody_notices_when_it_goes(source: Primary, copy: Standby) -> None:
    wait = {"DATABASE_READ_URL": copy.url, "HOLDFAST_READ_WAIT_SECONDS": str(PATIENT)}
    with Server(config=PROJECT, database_url=source.url, **wait) as server, server.http() as http:
        async with server.client() as client:
            await until(lambda: "reads go to the replica" in server.log)
            thread_id = (await client.threads.create())["thread_id"]
            await client.runs.wait(thread_id, "approve", input={"log": ["start"]})

            async def shown() -> tuple[Any, ...]:
                return (
                    [row["thread_id"] for row in await client.threads.search()],
                    [run["status"] for run in await client.runs.list(thread_id)],
                    [state["values"] for state in await client.threads.get_history(thread_id)],
                    len(await client.assistants.search(limit=100)),
                )

            before = await shown()
            assert before[0] == [thread_id]
            assert before[1] == ["success"]
            assert before[2][0] == {"log": ["start"]}
            await until(lambda: reads(http.get("/metrics").text).get("replica", 0) >= 4)
            copy.kill()
            assert await shown() == before
            assert http.get("/ready").status_code == 200
        assert server.stop() == 0
        assert "Traceback" not in server.log


def reads(metrics: str) -> dict[str, float]:
    """`holdfast_reads_total` by its label."""
    lines = [line for line in metrics.splitlines() if line.startswith("holdfast_reads_total{")]
    return {line.split('"')[1]: float(line.split()[1]) for line in lines}
