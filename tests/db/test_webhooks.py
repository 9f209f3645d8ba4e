"""The outbox: whoever ends a run that names a webhook, its delivery is there, and is taken until it is settled."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from holdfast.db.queue import Claimed
from holdfast.db.runs import RunEnd
from holdfast.db.sql import statements
from holdfast.db.webhooks import Deliveries
from holdfast.errors import FenceLost
from holdfast.rules.run import RunStatus
from tests.db.stage import ANN, Stage, outcome, together

pytestmark = pytest.mark.anyio
URL = "https://Hooks.example:8443/done?token=x"
LEASE = 60.0


@pytest.fixture
async def deliveries(stage: Stage) -> Deliveries:
    await stage.sql("DELETE FROM holdfast.deliveries")
    return Deliveries(stage.database)


async def rows(stage: Stage) -> list[dict[str, Any]]:
    return await stage.sql("SELECT * FROM holdfast.deliveries ORDER BY ended_at")


async def ended(stage: Stage, status: RunStatus = RunStatus.SUCCESS, **given: Any) -> Claimed:
    claim = await stage.started(webhook=URL, **given)
    await stage.runs.end(claim, RunEnd(status, outcome(), values=b'{"x":1}'))
    return claim


# --- what writes ---


@pytest.mark.parametrize("status", [RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.TIMEOUT, RunStatus.INTERRUPTED])
async def test_the_end_of_a_run_and_its_delivery_are_one(
    stage: Stage, deliveries: Deliveries, status: RunStatus
) -> None:
    error = {"error": "E", "message": "m"}
    claim = await stage.started(webhook=URL)
    await stage.runs.end(claim, RunEnd(status, outcome(), error, values=b'{"x":1}'))
    [row] = await rows(stage)
    assert (row["run_id"], row["thread_id"], row["status"]) == (claim.run_id, claim.thread_id, status)
    assert (row["url"], row["receiver"], row["state"]) == (URL, "hooks.example:8443", "waiting")
    assert (row["values"], row["error"]) == (b'{"x":1}', error)
    assert row["started_at"] <= row["ended_at"]


async def test_a_run_without_a_webhook_leaves_nothing(stage: Stage, deliveries: Deliveries) -> None:
    claim = await stage.started()
    await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome(), values=b"{}"))
    waiting, _ = await stage.admit(await stage.thread())
    [row] = await stage.sql("SELECT thread_id FROM holdfast.runs WHERE run_id = %s", waiting)
    await stage.runs.cancel(ANN, row["thread_id"], waiting, "interrupt")
    assert await rows(stage) == []


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
async def test_a_run_that_is_cancelled_before_it_starts_is_told(
    stage: Stage, deliveries: Deliveries, action: Any
) -> None:
    run_id, _ = await stage.admit(thread_id := await stage.thread(), webhook=URL)
    assert await stage.runs.cancel(ANN, thread_id, run_id, action) is False
    [row] = await rows(stage)
    assert (row["run_id"], row["status"], row["started_at"], row["values"]) == (run_id, "interrupted", None, None)


async def test_a_run_that_is_rolled_back_is_told_although_its_row_is_gone(stage: Stage, deliveries: Deliveries) -> None:
    claim = await stage.started(webhook=URL)
    await stage.runs.end(claim, RunEnd(RunStatus.INTERRUPTED, None, rollback=True))
    assert await stage.run_status(claim.run_id) is None
    [row] = await rows(stage)
    assert (row["run_id"], row["status"]) == (claim.run_id, "interrupted")


async def test_a_deleted_thread_takes_no_delivery_with_it(stage: Stage, deliveries: Deliveries) -> None:
    claim = await ended(stage)
    waiting, _ = await stage.admit(claim.thread_id, webhook=URL)
    await stage.runs.delete_thread(ANN, claim.thread_id)
    assert [(row["run_id"], row["status"]) for row in await rows(stage)] == [
        (claim.run_id, "success"),
        (waiting, "interrupted"),
    ]


async def test_an_end_that_is_refused_leaves_nothing(stage: Stage, deliveries: Deliveries) -> None:
    old = await stage.started(webhook=URL)
    await stage.queue.hand_back(old)
    newer = await stage.claim()
    with pytest.raises(FenceLost):
        await stage.runs.end(old, RunEnd(RunStatus.SUCCESS, outcome()))
    assert await rows(stage) == []
    await stage.runs.end(newer, RunEnd(RunStatus.SUCCESS, outcome()))
    await stage.runs.end(newer, RunEnd(RunStatus.SUCCESS, outcome()))
    assert len(await rows(stage)) == 1


async def test_a_recovered_run_started_when_it_was_claimed_first(stage: Stage, deliveries: Deliveries) -> None:
    first = await stage.started(webhook=URL)
    [before] = await stage.sql("SELECT started_at FROM holdfast.runs WHERE run_id = %s", first.run_id)
    await stage.queue.hand_back(first)
    again = await stage.claim()
    assert again.webhook == URL
    await stage.runs.end(again, RunEnd(RunStatus.SUCCESS, outcome()))
    assert [row["started_at"] for row in await rows(stage)] == [before["started_at"]]


# --- what sends ---


async def test_many_senders_take_every_delivery_once(stage: Stage, deliveries: Deliveries) -> None:
    expected = {(await ended(stage)).run_id for _ in range(20)}

    async def take_all() -> list[Any]:
        mine: list[Any] = []
        while taken := await deliveries.take(uuid4(), limit=3, lease=LEASE):
            mine += [row["run_id"] for row in taken]
        return mine

    taken = [run_id for mine in await together(*[take_all() for _ in range(6)]) for run_id in mine]
    assert len(taken) == len(expected)
    assert set(taken) == expected


async def test_what_is_taken_comes_up_again_when_its_lease_runs_out(stage: Stage, deliveries: Deliveries) -> None:
    await ended(stage)
    [first] = await deliveries.take(uuid4(), limit=5, lease=LEASE)
    assert await deliveries.take(uuid4(), limit=5, lease=LEASE) == []
    await stage.sql("UPDATE holdfast.deliveries SET due_at = due_at - interval '61 s'")
    [again] = await deliveries.take(uuid4(), limit=5, lease=LEASE)
    assert (again["delivery_id"], again["attempt"]) == (first["delivery_id"], 2)


async def test_what_a_dead_worker_took_is_due_at_once(stage: Stage, deliveries: Deliveries) -> None:
    dead, living = uuid4(), uuid4()
    for worker in (dead, living):
        await stage.register(worker)
        await ended(stage)
        assert len(await deliveries.take(worker, limit=5, lease=LEASE)) == 1
    assert await deliveries.release() == 0
    await stage.queue.requeue_dead([dead])
    assert await deliveries.release() == 1
    [again] = await deliveries.take(living, limit=5, lease=LEASE)
    assert (again["attempt"], again["sender"]) == (2, living)


async def test_busy_receivers_are_left_out(stage: Stage, deliveries: Deliveries) -> None:
    await ended(stage)
    assert await deliveries.take(uuid4(), limit=5, lease=LEASE, busy=["hooks.example:8443"]) == []
    assert len(await deliveries.take(uuid4(), limit=5, lease=LEASE, busy=["hooks.example"])) == 1


async def test_a_late_answer_counts_if_it_is_good_and_not_if_it_is_bad(stage: Stage, deliveries: Deliveries) -> None:
    await ended(stage)
    [first] = await deliveries.take(uuid4(), limit=1, lease=-1)
    [second] = await deliveries.take(uuid4(), limit=1, lease=LEASE)
    delivery_id = first["delivery_id"]
    await deliveries.postpone(delivery_id, first["attempt"], pause=0, error="late")
    await deliveries.give_up(delivery_id, first["attempt"], error="late")
    assert [(row["state"], row["due_at"]) for row in await rows(stage)] == [("waiting", second["due_at"])]
    await deliveries.deliver(delivery_id)
    await deliveries.postpone(delivery_id, second["attempt"], pause=0, error="later")
    assert [(row["state"], row["last_error"]) for row in await rows(stage)] == [("delivered", None)]


async def test_what_is_settled_keeps_no_state_and_goes_after_a_while(stage: Stage, deliveries: Deliveries) -> None:
    await ended(stage)
    await ended(stage)
    await ended(stage)
    taken = await deliveries.take(uuid4(), limit=2, lease=LEASE)
    await deliveries.deliver(taken[0]["delivery_id"])
    await deliveries.give_up(taken[1]["delivery_id"], 1, error="410")
    delivered, failed, waiting = sorted(await rows(stage), key=lambda row: str(row["state"]))
    assert (delivered["values"], delivered["kwargs"]) == (None, None)
    assert (failed["values"], failed["last_error"]) == (b'{"x":1}', "410")
    assert await deliveries.sweep(keep=3600, batch=10) == 0
    await stage.sql("UPDATE holdfast.deliveries SET settled_at = settled_at - interval '2 h'")
    assert await deliveries.sweep(keep=3600, batch=10) == 2
    assert [row["delivery_id"] for row in await rows(stage)] == [waiting["delivery_id"]]


async def test_due_deliveries_are_found_along_their_index(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as conn:
        conn.execute(
            """
            INSERT INTO holdfast.deliveries (delivery_id, url, receiver, state, due_at, run_id, thread_id, assistant_id,
                status, metadata, multitask_strategy, created_at, ended_at, settled_at)
            SELECT gen_random_uuid(), 'https://a', 'a', CASE WHEN n <= 9900 THEN 'delivered' ELSE 'waiting' END,
                   now() + n * interval '1 s' - interval '9950 s', gen_random_uuid(), gen_random_uuid(),
                   gen_random_uuid(), 'success', '{}', 'enqueue', now(), now(), CASE WHEN n <= 9900 THEN now() END
            FROM generate_series(1, 10000) n"""
        )
        conn.execute("ANALYZE holdfast.deliveries")
        sql = statements("webhooks")
        for verb, params in [
            ("take", {"sender": uuid4(), "limit": 5, "lease": 60, "busy": ["b"], "channels": ["alert:a"]}),
            ("release", {}),
            ("sweep", {"keep": 3600, "batch": 10}),
            ("give_up_unknown", {"keep": 3600}),
        ]:
            plan = conn.execute("EXPLAIN (FORMAT TEXT) " + sql[verb], params).fetchall()  # type: ignore[arg-type]
            assert "Seq Scan on deliveries" not in str(plan), verb
