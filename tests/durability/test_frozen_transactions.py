"""A process that is frozen in the middle of a transaction must not keep its locks from those who take over."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from holdfast.db.pool import FROZEN_SECONDS, Database
from tests.support.talk import eventually


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, size=4)
    await database.open()
    yield database
    await database.close()


@pytest.mark.anyio
async def test_postgres_is_told_to_end_the_transactions_of_frozen_processes(database: Database) -> None:
    async with database.connection("worker") as conn:
        row = await (await conn.execute("SHOW idle_in_transaction_session_timeout")).fetchone()
    assert row == {"idle_in_transaction_session_timeout": f"{FROZEN_SECONDS}s"}


@pytest.mark.anyio
async def test_work_whose_transaction_postgres_ended_is_done_again(database: Database) -> None:
    attempts = 0

    async def is_gone(backend: int) -> bool:
        async with database.connection("worker") as other:
            found = await other.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [backend])
            return await found.fetchone() is None

    async def work() -> int:
        nonlocal attempts
        attempts += 1
        async with database.transaction("worker") as conn:
            if attempts == 1:
                await conn.execute("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
                await eventually(lambda: is_gone(conn.info.backend_pid), "Postgres ends the transaction")
            await conn.execute("SELECT 1")
        return attempts

    assert await database.retrying(work, for_seconds=5) == 2
