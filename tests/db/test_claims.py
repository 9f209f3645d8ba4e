"""Claiming: each run once, one per thread, oldest first, when the database says that it is due."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from holdfast.db.queue import Claimed
from holdfast.db.runs import RunEnd
from holdfast.db.sql import statements
from holdfast.rules.recovery import SUSPECT_AFTER
from holdfast.rules.run import RunStatus
from tests.db.stage import ANN, ASSISTANT, Stage, opened, outcome, together

pytestmark = pytest.mark.anyio
CLAIM = {"worker_id": uuid4(), "limit": 1, "owner": "ann", "suspect_after": SUSPECT_AFTER}


async def test_many_claimers_at_once_claim_every_run_exactly_once(stage: Stage) -> None:
    admitted = {(await stage.admit(await stage.thread()))[0] for _ in range(40)}

    async def claim_all() -> list[Claimed]:
        mine: list[Claimed] = []
        while claims := await stage.queue.claim(uuid4(), limit=3):
            mine += claims
        return mine

    claimed = [claim for mine in await together(*[claim_all() for _ in range(8)]) for claim in mine]
    assert len(claimed) == len(admitted)
    assert {claim.run_id for claim in claimed} == admitted
    assert len({claim.fencing_token for claim in claimed}) == len(admitted)


async def test_claimers_that_race_for_busy_threads_never_run_two_at_once_there(stage: Stage) -> None:
    threads = [await stage.thread() for _ in range(3)]
    admitted = [(await stage.admit(thread_id))[0] for _ in range(6) for thread_id in threads]
    executed: list[Claimed] = []

    async def work() -> None:
        idle = 0
        while len(executed) < len(admitted) and idle < 500:
            claims = await stage.queue.claim(uuid4(), limit=2)
            idle = 0 if claims else idle + 1
            for claim in claims:
                executed.append(claim)
                await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome()))

    results = await together(*[work() for _ in range(4)])
    assert results == [None] * 4
    assert sorted(claim.run_id for claim in executed) == sorted(admitted)
    for thread_id in threads:
        mine = [claim.run_id for claim in executed if claim.thread_id == thread_id]
        assert mine == [run_id for run_id in admitted if run_id in mine]


async def test_every_claim_carries_a_larger_token_than_the_one_before(stage: Stage) -> None:
    claim = await stage.started()
    tokens = [claim.fencing_token]
    for _ in range(3):
        assert await stage.queue.hand_back(claim)
        claim = await stage.claim()
        tokens.append(claim.fencing_token)
    assert tokens == sorted(set(tokens))
    assert claim.attempt == 4


async def test_a_batch_takes_one_run_of_each_thread(stage: Stage) -> None:
    threads = [await stage.thread() for _ in range(3)]
    firsts = [(await stage.admit(thread_id))[0] for thread_id in threads]
    for thread_id in threads:
        await stage.admit(thread_id)
    claims = await stage.queue.claim(stage.worker_id, limit=10)
    assert {claim.run_id for claim in claims} == set(firsts)


async def test_no_more_runs_are_claimed_than_there_are_free_slots(stage: Stage) -> None:
    for _ in range(4):
        await stage.admit(await stage.thread())
    assert len(await stage.queue.claim(stage.worker_id, limit=3)) == 3


async def test_the_oldest_runs_come_first(stage: Stage) -> None:
    admitted = [(await stage.admit(await stage.thread()))[0] for _ in range(4)]
    claimed = [(await stage.claim()).run_id for _ in admitted]
    assert claimed == admitted


async def test_a_claim_brings_what_the_worker_needs(stage: Stage) -> None:
    run_id, _ = await stage.admit(await stage.thread(), resumable=True, ephemeral=True, logged=False)
    claim = await stage.claim()
    assert (claim.run_id, claim.owner, claim.assistant_id) == (run_id, "ann", ASSISTANT)
    assert (claim.kwargs, claim.metadata, claim.event_seq) == (b"{}", {}, 0)
    assert (claim.resumable, claim.ephemeral, claim.logged, claim.command_saved) == (True, True, False, False)
    assert (claim.attempt, claim.crashes, claim.cancel) == (1, 0, None)


async def test_what_a_worker_holds_is_listed_with_its_tokens(stage: Stage) -> None:
    claim = await stage.started()
    await stage.admit(await stage.thread(), worker_id=uuid4())
    assert await stage.queue.held(stage.worker_id) == {claim.run_id: claim.fencing_token}


async def test_lost_claims_return_to_the_queue_and_other_workers_keep_theirs(stage: Stage) -> None:
    mine, others = await stage.started(), uuid4()
    theirs, _ = await stage.admit(await stage.thread(), worker_id=others)
    await stage.queue.requeue_lost(stage.worker_id, [mine.run_id, theirs])
    assert await stage.run_status(mine.run_id) == "pending"
    assert await stage.run_status(theirs) == "running"


@pytest.fixture
def clock(clean_url: str) -> Iterator[Any]:
    """Sets the database's clock for connections made from then on."""
    with psycopg.connect(clean_url, autocommit=True) as conn:
        name = conn.info.dbname

        def move(to: str) -> None:
            conn.execute(f"ALTER DATABASE {name} SET holdfast.now = '{to}'")  # type: ignore[arg-type]

        yield move
        conn.execute(f"ALTER DATABASE {name} RESET holdfast.now")  # type: ignore[arg-type]


async def test_a_delayed_run_is_due_by_the_clock_of_the_database(clean_url: str, clock: Any) -> None:
    clock("2031-01-01 12:00:00+00")
    async with opened(clean_url) as noon:
        run_id, admitted = await noon.admit(await noon.thread(), worker_id=noon.worker_id, after_seconds=60)
        assert admitted.claimed is None
        assert await noon.queue.claim(noon.worker_id, limit=1) == []
        assert await noon.queue.next_due() == 60
    clock("2031-01-01 12:00:59.9+00")
    async with opened(clean_url) as almost:
        assert await almost.queue.claim(almost.worker_id, limit=1) == []
        assert await almost.queue.next_due() == pytest.approx(0.1)
    clock("2031-01-01 12:01:00+00")
    async with opened(clean_url) as due:
        assert (await due.claim()).run_id == run_id
        assert await due.queue.next_due() is None


async def test_a_run_that_is_not_due_yet_lets_later_ones_of_its_thread_pass(stage: Stage) -> None:
    thread_id = await stage.thread()
    await stage.admit(thread_id, after_seconds=3600)
    now, _ = await stage.admit(thread_id)
    claims = await stage.queue.claim(stage.worker_id, limit=10)
    assert [claim.run_id for claim in claims] == [now]


async def test_the_creation_time_of_a_delayed_run_is_when_it_is_due(clean_url: str, clock: Any) -> None:
    clock("2031-01-01 12:00:00+00")
    async with opened(clean_url) as noon:
        run_id, _ = await noon.admit(thread_id := await noon.thread(), after_seconds=60)
        created = (await noon.runs.get(ANN, thread_id, run_id))["created_at"]
        assert created.isoformat() == "2031-01-01T12:01:00+00:00"


QUEUES = {
    "of many threads": "SELECT n, n, 'pending' FROM generate_series(1, 10000) n",
    "of few threads": "SELECT n, n % 100, 'pending' FROM generate_series(1, 10000) n",
    "behind long histories": "SELECT n, n % 10, CASE WHEN n <= 9900 THEN 'success' ELSE 'pending' END"
    " FROM generate_series(1, 10000) n",
}


@pytest.fixture(params=QUEUES.values(), ids=QUEUES)
def long_queue(database_url: str, request: pytest.FixtureRequest) -> str:
    """A database with 10,000 runs and current statistics."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO holdfast.threads (thread_id, owner, created_at, updated_at, state_updated_at)"
            " SELECT md5(n::text)::uuid, 'ann', now(), now(), now() FROM generate_series(0, 10000) n"
        )
        conn.execute(
            f"""
            INSERT INTO holdfast.runs (run_id, thread_id, owner, assistant_id, graph_id, status, kwargs,
                multitask_strategy, resumable, logged, ephemeral, available_at, created_at, updated_at)
            SELECT gen_random_uuid(), md5(thread::text)::uuid, 'ann', gen_random_uuid(), 'talk', status, '', 'enqueue',
                   false, true, false, now(), now(), now()
            FROM ({request.param}) AS queue (n, thread, status) ORDER BY n"""  # type: ignore[arg-type]
        )
        conn.execute("ANALYZE")
    return database_url


async def test_a_long_queue_is_worked_along_its_indexes(long_queue: str) -> None:
    with psycopg.connect(long_queue, row_factory=dict_row) as conn:
        row = conn.execute("SELECT run_id, thread_id FROM holdfast.runs WHERE status = 'pending' LIMIT 1").fetchone()
        assert row is not None
        for query, params, at_most in [
            (statements("queue")["claim"], {**CLAIM, "limit": 10}, 200),
            (statements("queue")["claim_this"], {**CLAIM, "run_id": row["run_id"]}, 10),
            (statements("queue")["reserve_suspect"], {**CLAIM, "seconds": 10}, 10),
            (statements("runs")["active"], {"thread_id": row["thread_id"]}, 100),
        ]:
            nodes = explained(conn, query, params)
            assert not [node for node in nodes if node["Node Type"] == "Seq Scan"]
            assert rows_read(nodes) <= at_most
            conn.rollback()


def explained(conn: psycopg.Connection[Any], query: LiteralString, params: dict[str, Any]) -> list[dict[str, Any]]:
    """The plan's nodes that touch runs, with what they really did."""
    row = conn.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + query, params).fetchone()
    assert row is not None
    return [node for node in _nodes(row["QUERY PLAN"][0]["Plan"]) if node.get("Relation Name") == "runs"]


def rows_read(nodes: list[dict[str, Any]]) -> float:
    return sum((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in nodes)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
