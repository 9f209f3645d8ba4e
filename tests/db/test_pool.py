"""Lanes, translated errors, and calls that outlive a lost connection."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import psycopg
import pytest
from psycopg.types.json import Jsonb

from holdfast.db import pool as module
from holdfast.db.pool import WORKER_RESERVE, Database
from holdfast.errors import DatabaseError, DatabaseUnavailable, Unsaveable
from tests.db.stage import Stage, opened, until
from tests.support.server import free_port

pytestmark = pytest.mark.anyio

NOWHERE = "postgresql://127.0.0.1:{port}/nothing?connect_timeout=1"


async def test_requests_that_take_all_they_may_leave_the_worker_its_connections(clean_url: str) -> None:
    size = WORKER_RESERVE + 2
    async with opened(clean_url, size=size) as stage, AsyncExitStack() as stack:
        for _ in range(size - WORKER_RESERVE):
            await stack.enter_async_context(stage.database.connection("api"))
        starved = asyncio.create_task(stage.database.connection("api").__aenter__())
        async with asyncio.timeout(5):
            for _ in range(WORKER_RESERVE):
                conn = await stack.enter_async_context(stage.database.connection("worker"))
                await conn.execute("SELECT 1")
        assert not starved.done()
        starved.cancel()
        await asyncio.wait([starved])


async def test_a_connection_that_comes_back_serves_the_next_request(clean_url: str) -> None:
    async with opened(clean_url, size=WORKER_RESERVE + 1) as stage:

        async def ask() -> None:
            async with stage.database.connection("api") as conn:
                await conn.execute("SELECT 1")

        async with asyncio.timeout(10):
            await asyncio.gather(*[ask() for _ in range(30)])


async def test_a_call_that_finds_no_connection_is_told_so(clean_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACQUIRE_SECONDS", 0.1)
    async with opened(clean_url, size=4) as stage, AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(stage.database.connection("worker"))
        with pytest.raises(DatabaseUnavailable):
            await stage.sql("SELECT 1")


async def test_a_database_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACQUIRE_SECONDS", 0.3)
    database = Database(NOWHERE.format(port=free_port()), size=4)
    with pytest.raises(DatabaseUnavailable):
        await database.open()
    await database.close()


async def test_a_closed_pool_is_unavailable(stage: Stage) -> None:
    await stage.database.close()
    with pytest.raises(DatabaseUnavailable):
        await stage.sql("SELECT 1")


DEEP = "[" * 20_000 + "]" * 20_000


@pytest.mark.parametrize(
    ("statement", "params"),
    [
        ("SELECT %s", ("nul\x00",)),
        ("SELECT %s::jsonb", (r'"\u0000"',)),
        ("SELECT %s::jsonb", ("{",)),
        ("SELECT %s::jsonb", (DEEP,)),
        ("SELECT %s::integer", ("99999999999",)),
        ("SELECT %s::timestamptz", ("never",)),
    ],
    ids=["NUL", "NUL in JSON", "no JSON", "too deep", "out of range", "no time"],
)
async def test_a_value_that_postgres_refuses_is_unsaveable_and_not_retried(
    stage: Stage, statement: str, params: tuple[str, ...]
) -> None:
    calls = []

    async def save() -> None:
        calls.append(1)
        await stage.sql(statement, *params)

    with pytest.raises(Unsaveable):
        await stage.database.retrying(save, for_seconds=5)
    assert len(calls) == 1


@pytest.mark.parametrize("statement", ["SELEKT", "SELECT * FROM nothing", "DROP TABLE pg_class"])
async def test_other_errors_of_the_database_are_database_errors(stage: Stage, statement: str) -> None:
    with pytest.raises(DatabaseError) as raised:
        await stage.sql(statement)
    assert type(raised.value) is DatabaseError


async def test_a_violated_constraint_stays_what_it_is(stage: Stage) -> None:
    with pytest.raises(psycopg.IntegrityError):
        await stage.sql("INSERT INTO holdfast.threads (thread_id) VALUES (NULL)")


@pytest.mark.parametrize(
    "how", ["SELECT pg_terminate_backend(pg_backend_pid())", "SELECT pg_cancel_backend(pg_backend_pid())"]
)
async def test_a_cut_connection_is_unavailable_and_the_next_call_works(stage: Stage, how: str) -> None:
    with pytest.raises(DatabaseUnavailable):
        await stage.sql(how)
    assert await stage.sql("SELECT 1 AS one") == [{"one": 1}]


async def test_idempotent_work_is_repeated_until_it_succeeds(stage: Stage) -> None:
    calls: list[int] = []

    async def work() -> int:
        calls.append(len(calls))
        await stage.sql("SELECT pg_terminate_backend(pg_backend_pid()) WHERE %s", len(calls) < 4)
        return len(calls)

    assert await stage.database.retrying(work, for_seconds=10) == 4


async def test_idle_connections_that_were_cut_are_passed_over(stage: Stage) -> None:
    async def ask() -> None:
        await stage.sql("SELECT pg_sleep(0.05)")

    async def alone() -> bool:
        async with stage.outside() as conn:
            others = await conn.execute(
                "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return others.rowcount == 0

    for _ in range(3):
        await asyncio.gather(*[ask() for _ in range(6)])
        await stage.cut_all_connections()
        await until(alone, seconds=5)
        await asyncio.gather(*[ask() for _ in range(6)])


async def test_repeating_ends_with_its_time(stage: Stage) -> None:
    async def work() -> None:
        await stage.sql("SELECT pg_terminate_backend(pg_backend_pid())")

    async with asyncio.timeout(5):
        with pytest.raises(DatabaseUnavailable):
            await stage.database.retrying(work, for_seconds=0.2)


async def test_a_deadlock_is_a_reason_to_try_again(stage: Stage) -> None:
    await stage.sql("CREATE TABLE IF NOT EXISTS public.pair (id integer PRIMARY KEY, n integer DEFAULT 0)")
    await stage.sql("INSERT INTO public.pair VALUES (1), (2) ON CONFLICT (id) DO UPDATE SET n = 0")
    ready = asyncio.Barrier(2)
    attempts = 0

    async def both(first: int, second: int) -> None:
        nonlocal attempts
        attempts += 1
        async with stage.database.transaction("worker") as conn:
            await conn.execute("SET LOCAL deadlock_timeout = '10ms'")
            await conn.execute("UPDATE public.pair SET n = n + 1 WHERE id = %s", [first])
            if attempts <= 2:
                await ready.wait()
            await conn.execute("UPDATE public.pair SET n = n + 1 WHERE id = %s", [second])

    async with asyncio.timeout(10):
        await asyncio.gather(
            *[stage.database.retrying(lambda o=order: both(*o), for_seconds=5) for order in ((1, 2), (2, 1))]
        )
    assert await stage.sql("SELECT n FROM public.pair") == [{"n": 2}, {"n": 2}]
    assert attempts == 3


async def test_a_transaction_that_fails_leaves_nothing(stage: Stage) -> None:
    thread_id = await stage.thread()

    async def fail() -> None:
        async with stage.database.transaction("worker") as conn:
            await conn.execute("DELETE FROM holdfast.threads WHERE thread_id = %s", [thread_id])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await stage.thread_status(thread_id) == "idle"


async def test_json_goes_in_and_out_exactly_and_json_columns_come_as_bytes(stage: Stage) -> None:
    value = {"a": [1, 2.5, None, True, "ü"], "wide": 2**80}
    (row,) = await stage.sql("SELECT %s::jsonb AS b, %s::json AS raw", Jsonb(value | {"wide": 1}), Jsonb(value))
    assert row["b"] == value | {"wide": 1}
    assert row["raw"] == b'{"a": [1, 2.5, null, true, "\xc3\xbc"], "wide": 1208925819614629174706176}'


async def test_the_clock_is_one_function_that_a_session_can_set(stage: Stage) -> None:
    async with stage.outside() as conn:
        await conn.execute("SET holdfast.now = '2031-01-01 00:00:00+00'")
        row = await (await conn.execute("SELECT holdfast.now() AS now")).fetchone()
        assert row is not None
        assert row["now"].isoformat() == "2031-01-01T00:00:00+00:00"
        await conn.execute("SET holdfast.now = ''")
        row = await (await conn.execute("SELECT holdfast.now() - statement_timestamp() AS off")).fetchone()
        assert row is not None
        assert not row["off"]


async def test_a_restart_of_every_connection_is_survived_by_plain_calls_after_one_error(stage: Stage) -> None:
    await stage.sql("SELECT 1")
    await stage.cut_all_connections()

    async def works() -> bool:
        try:
            await stage.sql("SELECT 1")
        except DatabaseUnavailable:
            return False
        return True

    await until(works, seconds=5)
