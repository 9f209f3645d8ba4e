"""Whoever follows a long log, or expires a large one, reads what it needs by an index."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row

from holdfast.db.scope import scoped
from holdfast.db.sql import statements
from tests.db.stage import ANN, opened
from tests.support.postgres import Cluster

pytestmark = pytest.mark.anyio
THREADS, SHORT, LONG = 4000, 20, 2500
"""Threads of one run each, how many blocks they have, and how many one of them has."""
SECONDS = 3600
FILL = f"""
    INSERT INTO holdfast.threads (thread_id, owner, created_at, updated_at, state_updated_at)
    SELECT uuidv(t), 'ann', now(), now(), now() FROM generate_series(1, {THREADS}) t;
    INSERT INTO holdfast.runs (run_id, thread_id, owner, assistant_id, graph_id, status, kwargs, multitask_strategy,
                               resumable, logged, ephemeral, available_at, created_at, updated_at)
    SELECT uuidv(t), uuidv(t), 'ann', uuidv(0), 'talk', 'success', '', 'enqueue', true, true, false, now(), now(), now()
    FROM generate_series(1, {THREADS}) t;
    INSERT INTO holdfast.event_blocks (thread_id, first_seq, last_seq, run_id, first_in_run, frames, created_at)
    SELECT uuidv(t), 2 * b - 1, 2 * b, uuidv(t), 2 * b - 1, 'x',
           now() - make_interval(secs => {SECONDS} * (1 - t::float / {THREADS}))
    FROM generate_series(1, {THREADS}) t, generate_series(1, CASE t WHEN 7 THEN {LONG} ELSE {SHORT} END) b;
"""
UUIDV = """
    CREATE FUNCTION uuidv(n integer) RETURNS uuid LANGUAGE sql IMMUTABLE
    RETURN (lpad(to_hex(n), 8, '0') || '-0000-7000-8000-000000000000')::uuid;
"""
WANTED = UUID("00000007-0000-7000-8000-000000000000")


@pytest.fixture(scope="module")
def large_url(cluster: Cluster) -> Iterator[str]:
    """A database with a large event log."""
    with cluster.database() as url:
        with psycopg.connect(url, autocommit=True) as conn:
            # Without the foreign keys' triggers: so many checks are not what is tried here.
            conn.execute("SET session_replication_role = replica")
            conn.execute(UUIDV)
            conn.execute(FILL)
            conn.execute("VACUUM ANALYZE")
        yield url


@pytest.fixture(params=["auto", "force_generic_plan"])
async def conn(large_url: str, request: pytest.FixtureRequest) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection that plans for the values given, or once for all."""
    async with (
        opened(large_url),
        await psycopg.AsyncConnection.connect(large_url, autocommit=True, row_factory=dict_row) as conn,
    ):
        await conn.execute(f"SET plan_cache_mode = {request.param}")
        yield conn


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


async def explained(conn: psycopg.AsyncConnection[Any], query: str, params: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of the plan that was really executed, and then undone."""
    explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {query}"
    async with conn.transaction(force_rollback=True):
        row = await (await conn.execute(explain, params, prepare=True)).fetchone()
    [plan] = row["QUERY PLAN"] if isinstance(row["QUERY PLAN"], list) else json.loads(row["QUERY PLAN"])
    return list(nodes(plan["Plan"]))


def looked_at(plan: list[dict[str, Any]]) -> int:
    """How many rows of the event log were looked at."""
    assert [node for node in plan if node["Node Type"] == "Seq Scan"] == []
    scans = [node for node in plan if node.get("Relation Name") == "event_blocks"]
    assert scans
    return int(
        sum((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in scans)
    )


@pytest.mark.parametrize("after", [0, LONG, 2 * LONG - 5, 2 * LONG])
async def test_following_a_run_starts_where_the_follower_is(conn: Any, after: int) -> None:
    params = {"run_id": WANTED, "after": after, "limit": 64, "bytes": 2**18}
    assert looked_at(await explained(conn, statements("events")["read"], params)) <= 65


@pytest.mark.parametrize("after", [0, LONG, 2 * LONG - 5, 2 * LONG])
async def test_following_a_thread_starts_where_the_follower_is(conn: Any, after: int) -> None:
    query = scoped(ANN, statements("events")["read_thread"], thread_id=WANTED, after=after, limit=64, bytes=2**18)
    assert looked_at(await explained(conn, *query)) <= 65


@pytest.mark.parametrize("verb", ["newest", "newest_of_thread", "count_in_run"])
async def test_the_newest_number_is_one_look(conn: Any, verb: str) -> None:
    params = {"run_id": WANTED, "thread_id": WANTED}
    assert looked_at(await explained(conn, statements("events")[verb], params)) == 1


@pytest.mark.parametrize("ttl", [SECONDS, SECONDS - 5, SECONDS / 2])
async def test_expiry_looks_only_at_what_it_takes(conn: Any, ttl: float) -> None:
    plan = await explained(conn, statements("events")["expire"], {"ttl": float(ttl), "batch": 500})
    assert looked_at(plan) <= 2 * 500


@pytest.mark.parametrize("verb", ["grown_runs", "grown_threads"])
async def test_looking_for_all_who_wait_is_one_look_for_each(conn: Any, verb: str) -> None:
    ids = [UUID(f"{number:08x}-0000-7000-8000-000000000000") for number in range(1, 1001)]
    plan = await explained(conn, statements("events")[verb], {"ids": ids, "after": [2 * SHORT] * len(ids)})
    assert looked_at(plan) <= len(ids)
