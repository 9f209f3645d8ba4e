"""Cancelling many runs, and what reading and cancelling cost on a full table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import uuid_utils.compat as uuids
from psycopg.rows import dict_row

from holdfast.db import cancelling as module
from holdfast.db.runs import RunEnd
from holdfast.db.scope import scoped
from holdfast.db.sql import statements
from holdfast.errors import Missing
from holdfast.rules.caller import Caller, Sight
from holdfast.rules.recovery import SUSPECT_AFTER
from holdfast.rules.run import RunStatus
from tests.db.stage import ANN, BOB, Stage, outcome, together

pytestmark = pytest.mark.anyio

BOTH = ("pending", "running")


async def some_runs(stage: Stage) -> dict[str, UUID]:
    """Ann's: one running with one behind it, one alone, one over. Bob's: one waiting."""
    running = await stage.started()
    behind, _ = await stage.admit(running.thread_id)
    alone, _ = await stage.admit(await stage.thread())
    over = await stage.started()
    await stage.runs.end(over, RunEnd(RunStatus.SUCCESS, outcome()))
    bobs, _ = await stage.admit(await stage.thread(BOB), caller=BOB)
    return {"running": running.run_id, "behind": behind, "alone": alone, "over": over.run_id, "bobs": bobs}


async def statuses(stage: Stage, runs: dict[str, UUID]) -> dict[str, str | None]:
    return {name: await stage.run_status(run_id) for name, run_id in runs.items()}


@pytest.mark.parametrize(
    ("wanted", "ended", "told"),
    [
        (("pending",), {"behind", "alone"}, set()),
        (("running",), set(), {"running"}),
        (BOTH, {"behind", "alone"}, {"running"}),
    ],
)
async def test_the_callers_runs_in_a_status_are_cancelled_everywhere(
    stage: Stage, wanted: tuple[str, ...], ended: set[str], told: set[str]
) -> None:
    runs = await some_runs(stage)
    before = await statuses(stage, runs)
    cancelled = await stage.runs.cancel_everywhere(ANN, wanted, "interrupt")
    assert set(cancelled.over) == {runs[name] for name in ended}
    assert set(cancelled.stopping) == {runs[name] for name in told}
    assert await statuses(stage, runs) == before | dict.fromkeys(ended, "interrupted")
    assert set(await stage.queue.cancelled_here(stage.worker_id)) == {runs[name] for name in told}


async def test_a_rollback_everywhere_deletes_what_waited(stage: Stage) -> None:
    runs = await some_runs(stage)
    await stage.runs.cancel_everywhere(ANN, ("pending",), "rollback")
    left = await statuses(stage, runs)
    assert left == {"running": "running", "behind": None, "alone": None, "over": "success", "bobs": "pending"}


async def test_threads_come_to_rest_unless_something_is_left_on_them(stage: Stage) -> None:
    running = await stage.started()
    await stage.admit(running.thread_id)
    alone = await stage.thread()
    await stage.admit(alone)
    await stage.runs.cancel_everywhere(ANN, ("pending",), "interrupt")
    assert await stage.thread_status(running.thread_id) == "busy"
    assert await stage.thread_status(alone) == "idle"


async def test_cancelling_nothing_is_missing(stage: Stage) -> None:
    runs = await some_runs(stage)
    for caller, wanted in ((BOB, ("running",)), (Caller("nobody"), BOTH)):
        with pytest.raises(Missing):
            await stage.runs.cancel_everywhere(caller, wanted, "interrupt")
    assert (await statuses(stage, runs))["running"] == "running"


async def test_every_batch_of_threads_is_reached(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "THREADS_AT_ONCE", 3)
    nil = UUID(int=0)
    await stage.threads.create(ANN, nil, {}, or_keep=False)
    waiting = [(await stage.admit(nil))[0]] + [(await stage.admit(await stage.thread()))[0] for _ in range(9)]
    running = await stage.started()
    cancelled = await stage.runs.cancel_everywhere(ANN, BOTH, "interrupt")
    assert sorted(cancelled.over) == sorted(waiting)
    assert set(cancelled.stopping) == {running.run_id}


async def test_some_runs_of_a_thread_are_cancelled_and_the_others_stay(stage: Stage) -> None:
    thread_id = await stage.thread()
    first, second, third = [(await stage.admit(thread_id))[0] for _ in range(3)]
    cancelled = await stage.runs.cancel_these(ANN, thread_id, [first, third, uuids.uuid7()], "interrupt")
    assert set(cancelled.over) == {first, third}
    assert await stage.run_status(second) == "pending"
    for caller, run_ids in ((ANN, [first]), (ANN, [uuids.uuid7()]), (BOB, [second])):
        with pytest.raises(Missing):
            await stage.runs.cancel_these(caller, thread_id, run_ids, "interrupt")
    assert await stage.run_status(second) == "pending"


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
async def test_a_stateless_run_that_never_started_takes_its_thread_along(
    stage: Stage, action: module.CancelAction
) -> None:
    thread_id = uuids.uuid7()
    run_id, _ = await stage.admit(thread_id, new_thread={}, ephemeral=True)
    await stage.runs.cancel(ANN, thread_id, run_id, action)
    with pytest.raises(Missing):
        await stage.threads.get(ANN, thread_id)


async def test_cancelling_everything_twice_at_once_while_runs_come_in_ends_without_a_deadlock(stage: Stage) -> None:
    threads = [await stage.thread() for _ in range(12)]
    for thread_id in threads:
        await stage.admit(thread_id)
    results = await together(
        *[stage.runs.cancel_everywhere(ANN, BOTH, "interrupt") for _ in range(3)],
        *[stage.admit(thread_id, strategy="rollback") for thread_id in threads],
    )
    assert {type(result) for result in results if isinstance(result, Exception)} <= {Missing}
    for thread_id in threads:
        active = await stage.sql(
            "SELECT true FROM holdfast.runs WHERE thread_id = %s AND status IN ('pending', 'running')", thread_id
        )
        assert (await stage.thread_status(thread_id) == "busy") is bool(active)


# --- plans ---


@pytest.fixture(scope="module")
def full(cluster: Any) -> Iterator[psycopg.Connection[Any]]:
    """A database with 20,000 runs of 2,000 threads of 20 owners, of which 10,000 wait; current statistics."""
    with cluster.database() as url, psycopg.connect(url, autocommit=True, row_factory=dict_row) as conn:
        conn.execute(
            "INSERT INTO holdfast.threads (thread_id, owner, created_at, updated_at, state_updated_at)"
            " SELECT md5(n::text)::uuid, 'owner ' || n % 20, now(), now(), now() FROM generate_series(0, 1999) n"
        )
        conn.execute(
            """
            INSERT INTO holdfast.runs (run_id, thread_id, owner, assistant_id, graph_id, status, kwargs,
                multitask_strategy, resumable, logged, ephemeral, available_at, created_at, updated_at)
            SELECT md5('run' || n)::uuid, md5((n % 2000)::text)::uuid, 'owner ' || n % 20, gen_random_uuid(), 'talk',
                   CASE WHEN n < 10000 THEN 'success' ELSE 'pending' END, '', 'enqueue',
                   false, true, false, now(), now(), now()
            FROM generate_series(0, 19999) n"""
        )
        conn.execute("ANALYZE")
        yield conn


def a_run(conn: psycopg.Connection[Any]) -> dict[str, UUID]:
    row = conn.execute("SELECT run_id, thread_id FROM holdfast.runs WHERE owner = 'owner 7' LIMIT 1").fetchone()
    assert row is not None
    return dict(row)


VIEW = statements("runs")["view"]
CALLERS = {
    "own": Caller("owner 7"),
    "all": Caller("owner 7", sight=Sight.ALL),
    "matching": Caller("owner 7", sight=Sight.MATCHING, filters=({"team": "a"},)),
}
QUERIES: dict[str, tuple[str, dict[str, Any], int]] = {
    "list": (VIEW + statements("runs")["of_thread"], {"status": None, "limit": 10, "offset": 0}, 20),
    "list by status": (VIEW + statements("runs")["of_thread"], {"status": "error", "limit": 10, "offset": 0}, 30),
    "get": (VIEW + statements("runs")["one_of_thread"], {}, 2),
    "get by id": (VIEW + statements("runs")["by_id"], {}, 2),
    "find": (statements("runs")["find"], {}, 2),
}
"""A query, its parameters beside a run's ids, and how many rows of runs it may touch."""


@pytest.mark.parametrize("caller", CALLERS.values(), ids=CALLERS)
@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
async def test_runs_are_read_along_indexes(
    full: psycopg.Connection[Any], caller: Caller, query: tuple[str, dict[str, Any], int]
) -> None:
    statement, given, at_most = query
    ids = a_run(full)
    nodes = explained(full, *scoped(caller, statement, **ids, run_ids=[ids["run_id"]], **given))
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan"]
    assert touched(nodes, "runs") <= at_most


@pytest.mark.parametrize("caller", CALLERS.values(), ids=CALLERS)
async def test_what_is_active_is_found_along_its_index(full: psycopg.Connection[Any], caller: Caller) -> None:
    params = {"statuses": list(BOTH), "first": UUID(int=0), "limit": 10}
    nodes = explained(full, *scoped(caller, statements("runs")["lock_active_threads"], **params))
    assert "Seq Scan" not in {node["Node Type"] for node in nodes if node.get("Relation Name") == "runs"}


async def test_cancelling_touches_what_it_cancels(full: psycopg.Connection[Any]) -> None:
    some = full.execute("SELECT run_id, thread_id FROM holdfast.runs WHERE status = 'pending' LIMIT 50").fetchall()
    run_ids, thread_ids = [row["run_id"] for row in some], [row["thread_id"] for row in some]
    verbs = statements("runs")
    for statement, params, at_most in [
        (verbs["active_among"], {"statuses": list(BOTH), "thread_ids": thread_ids}, 50 * 10),
        (verbs["cancel_pending"], {"run_ids": run_ids, "action": "interrupt"}, 100),
        (verbs["request_cancel"], {"run_ids": run_ids, "action": "interrupt"}, 100),
        (verbs["erase"], {"run_ids": run_ids}, 100),
        (verbs["release_answers"], {"run_ids": run_ids, "still_asked": None}, 0),
    ]:
        nodes = explained(full, statement, params)
        assert not [node for node in nodes if node["Node Type"] == "Seq Scan" and node["Relation Name"] == "runs"]
        assert touched(nodes, "runs") <= at_most


async def test_a_claim_from_ten_thousand_waiting_runs_stays_an_index_scan(full: psycopg.Connection[Any]) -> None:
    wanted = {"worker_id": uuid4(), "limit": 10, "owner": "ann", "suspect_after": SUSPECT_AFTER}
    nodes = explained(full, statements("queue")["claim"], wanted)
    assert "Seq Scan" not in {node["Node Type"] for node in nodes if node.get("Relation Name") == "runs"}
    assert touched(nodes, "runs") <= 200


def explained(conn: psycopg.Connection[Any], query: str, params: dict[str, Any]) -> list[dict[str, Any]]:
    """All nodes of the plan, with what they really did; nothing of it stays."""
    with conn.transaction(force_rollback=True):
        row = conn.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + query, params).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return list(_nodes(row["QUERY PLAN"][0]["Plan"]))


def touched(nodes: list[dict[str, Any]], table: str) -> float:
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes
        if node.get("Relation Name") == table
    )


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
