"""Behind a transaction pooler, where sessions mean nothing, a conversation works the same."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from holdfast.db.migrate import migrate, migrations, pending
from tests.conftest import PROJECT
from tests.db.pgbouncer import binary, pgbouncer
from tests.support.server import Server

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(binary() is None, reason="there is no pgbouncer binary on this machine"),
]


@pytest.mark.parametrize("direct", [True, False], ids=["with a direct connection beside it", "alone"])
async def test_a_conversation_with_a_question_works_through_a_transaction_pooler(
    empty_database_url: str, direct: bool
) -> None:
    environment = {"HOLDFAST_POOLER": "transaction"}
    if direct:
        environment["DATABASE_DIRECT_URL"] = empty_database_url
    with (
        pgbouncer(empty_database_url) as pooled,
        Server(config=PROJECT, database_url=pooled, **environment) as server,
    ):
        async with server.client() as client:
            thread_id = (await client.threads.create())["thread_id"]
            await client.runs.wait(thread_id, "approve", input={"log": ["start"]})
            state = await client.threads.get_state(thread_id)
            assert [asked["value"] for asked in state["interrupts"]] == [{"question": "may I?"}]
            parts = [
                part
                async for part in client.runs.stream(
                    thread_id, "approve", command={"resume": "yes"}, stream_mode="values"
                )
            ]
            assert parts[-1].data["log"] == ["start", "yes", "done"]
            assert (await client.threads.get(thread_id))["status"] == "idle"
            background = [
                await client.runs.create((await client.threads.create())["thread_id"], "approve", input={"log": [n]})
                for n in range(20)
            ]
            for run in background:
                await client.runs.join(run["thread_id"], run["run_id"])
                assert (await client.runs.get(run["thread_id"], run["run_id"]))["status"] == "success"
        assert server.stop() == 0
        assert "Traceback" not in server.log


async def test_many_processes_may_migrate_through_a_transaction_pooler_at_once(empty_database_url: str) -> None:
    with pgbouncer(empty_database_url) as pooled:
        async with asyncio.timeout(30):
            applied = await asyncio.gather(*[migrate(pooled) for _ in range(8)])
        assert sorted(map(len, applied)) == [0] * 7 + [len(migrations())]
        assert await pending(pooled) == []
    with psycopg.connect(empty_database_url) as conn:
        left = conn.execute(
            "SELECT 1 FROM pg_locks JOIN pg_database d ON d.oid = database"
            " WHERE locktype = 'advisory' AND datname = current_database()"
        )
        assert left.fetchall() == []
