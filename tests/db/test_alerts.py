"""Alerts in the database: what is found, and that it is told once, by whichever process."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from holdfast.db.alerts import Alerts, firing
from holdfast.db.runs import RunEnd
from holdfast.db.sql import statements
from holdfast.db.webhooks import Deliveries
from holdfast.rules.alert import Sighting, Thresholds
from holdfast.rules.run import RunStatus
from tests.db.stage import Stage, opened, outcome, together

pytestmark = pytest.mark.anyio
CHANNELS = {"alert:slack-1": "slack.example", "alert:json-2": "own.example"}
OFF = Thresholds({"stuck_run": None, "queue_wait": None, "approval_wait": None}, 3600.0)
"""Without a worker in the table `no_worker` is always true."""

LIMITS = Thresholds({"stuck_run": 100.0, "queue_wait": 100.0, "approval_wait": 100.0}, 3600.0)
Clock = Callable[..., Awaitable[int | None]]

BUDGET = Sighting("budget", "t1", "budget", "spent", once=True)
SLOW = Sighting("slow", "", "Slow", "it is slow")


@pytest.fixture
async def alerts(stage: Stage) -> Alerts:
    await stage.sql("DELETE FROM holdfast.deliveries")
    await stage.sql("UPDATE holdfast.alert_rounds SET looked_at = '-infinity'")
    await stage.register(uuid4())
    return Alerts(stage.database)


@pytest.fixture
def clock(clean_url: str) -> Iterator[Clock]:
    """Looks at a time of the database's clock; what is given as well was seen, or happened, then."""
    with psycopg.connect(clean_url, autocommit=True) as conn:
        name = conn.info.dbname

        async def look_at(time: str, *seen: Sighting) -> int | None:
            conn.execute(f"ALTER DATABASE {name} SET holdfast.now = '2031-01-01 {time}+00'")  # type: ignore[arg-type]
            async with opened(clean_url, size=4) as then:
                await then.sql("UPDATE holdfast.workers SET lease_until = '2032-01-01'")
                return await look(Alerts(then.database), *seen)

        yield look_at
        conn.execute(f"ALTER DATABASE {name} RESET holdfast.now")  # type: ignore[arg-type]


async def look(alerts: Alerts, *seen: Sighting, thresholds: Thresholds = OFF) -> int | None:
    return await alerts.round(thresholds, CHANNELS, every=0, seen=seen)


async def told(stage: Stage) -> list[dict[str, Any]]:
    """What waits in the outbox for one of the channels, the oldest first."""
    rows = await stage.sql("SELECT body FROM holdfast.deliveries WHERE url = 'alert:slack-1' ORDER BY created_at, body")
    return [json.loads(bytes(row["body"])) for row in rows]


# --- what follows ---


async def test_what_goes_on_is_told_once_on_every_channel(stage: Stage, alerts: Alerts) -> None:
    assert await look(alerts, SLOW) == 2
    assert await look(alerts, SLOW) == 0
    [row] = await told(stage)
    assert (row["kind"], row["state"], row["items"]) == (
        "slow",
        "firing",
        [{"subject": "", "text": "it is slow", "times": 1}],
    )
    urls = await stage.sql("SELECT url, receiver FROM holdfast.deliveries ORDER BY url DESC")
    assert [(row["url"], row["receiver"]) for row in urls] == list(CHANNELS.items())
    goes_on = await firing(stage.database)
    assert {kind: count for kind, count in goes_on.items() if count} == {"other": 1}
    assert {"stuck_run", "no_worker", "breaker_open"} < set(goes_on)


async def test_its_end_is_told_and_then_it_is_forgotten(stage: Stage, alerts: Alerts, clock: Clock) -> None:
    assert await clock("12:00:00", SLOW) == 2
    assert await clock("12:00:59") == 0
    assert await clock("12:01:00") == 2
    assert [row["state"] for row in await told(stage)] == ["firing", "resolved"]
    assert await stage.sql("SELECT * FROM holdfast.alerts") == []
    assert await clock("12:01:15", SLOW) == 2


async def test_what_goes_on_for_long_is_told_again_every_so_often(stage: Stage, alerts: Alerts, clock: Clock) -> None:
    for time, messages in [("12:00:00", 2), ("12:59:59", 0), ("13:00:00", 2), ("13:00:15", 0), ("14:00:00", 2)]:
        assert await clock(time, SLOW) == messages, time
    assert [row["state"] for row in await told(stage)] == ["firing", "reminder", "reminder"]


async def test_what_happened_again_is_told_again_only_after_a_while(stage: Stage, alerts: Alerts, clock: Clock) -> None:
    assert await clock("12:00:00", BUDGET) == 2
    assert await clock("12:30:00", BUDGET, BUDGET) == 0
    assert await clock("13:00:00") == 2
    assert (await told(stage))[-1]["items"][0]["times"] == 2
    assert await clock("14:00:00") == 0
    assert await stage.sql("SELECT * FROM holdfast.alerts") == []


async def test_many_of_a_kind_are_one_message(stage: Stage, alerts: Alerts) -> None:
    await alerts.see([Sighting("budget", f"t{n}", "budget", "spent", once=True) for n in range(40)])
    assert await look(alerts) == 2
    [row] = await told(stage)
    assert (row["count"], len(row["items"])) == (40, 5)


async def test_many_processes_at_once_send_one_message(stage: Stage, alerts: Alerts) -> None:
    await alerts.see([BUDGET])
    made = await together(*[alerts.round(OFF, CHANNELS, every=15, seen=[SLOW]) for _ in range(8)])
    assert sorted(made, key=str) == [4, *[None] * 7]
    assert sorted(row["kind"] for row in await told(stage)) == ["budget", "slow"]


# --- what is found ---


async def kinds(stage: Stage, alerts: Alerts) -> dict[str, Any]:
    await look(alerts, thresholds=LIMITS)
    return {row["kind"]: row["items"][0]["text"] for row in await told(stage)}


async def test_nothing_is_wrong_where_runs_go_on(stage: Stage, alerts: Alerts) -> None:
    await stage.started()
    await stage.admit(await stage.thread())
    assert await kinds(stage, alerts) == {}


async def claimed_long_ago(stage: Stage) -> Any:
    claim = await stage.started()
    await stage.sql("UPDATE holdfast.runs SET updated_at = now() - interval '200 s' WHERE run_id = %s", claim.run_id)
    return claim


async def test_a_run_without_news_is_stuck(stage: Stage, alerts: Alerts) -> None:
    claim = await claimed_long_ago(stage)
    found = await kinds(stage, alerts)
    assert list(found) == ["stuck_run"]
    assert str(claim.run_id) in found["stuck_run"]
    assert "3 min" in found["stuck_run"]


@pytest.mark.parametrize(("news", "stuck"), [(10, False), (150, True)])
async def test_a_run_that_said_something_lately_is_not_stuck(
    stage: Stage, alerts: Alerts, news: int, stuck: bool
) -> None:
    claim = await claimed_long_ago(stage)
    await stage.sql(
        "INSERT INTO holdfast.event_blocks (thread_id, first_seq, last_seq, run_id, first_in_run, frames, created_at)"
        " VALUES (%s, 1, 1, %s, 1, '', now() - make_interval(secs => %s))",
        *(claim.thread_id, claim.run_id, news),
    )
    assert bool(await kinds(stage, alerts)) is stuck


@pytest.mark.parametrize(("news", "stuck"), [(10, False), (150, True)])
async def test_a_run_that_saved_a_checkpoint_lately_is_not_stuck(
    stage: Stage, alerts: Alerts, news: int, stuck: bool
) -> None:
    claim = await claimed_long_ago(stage)
    [row] = await stage.sql("SELECT extract(epoch FROM now())::float AS now")
    # UUIDv6 of a moment: LangGraph's ids of checkpoints, also of those of a subgraph.
    ticks = int((row["now"] - news) * 10_000_000) + 0x01B21DD213814000
    checkpoint = f"{ticks >> 28:08x}-{(ticks >> 12) & 0xFFFF:04x}-6{ticks & 0xFFF:03x}-8000-000000000000"
    await stage.sql(
        "INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)"
        " VALUES (%s, 'sub:1', %s, '{}', '{}')",
        *(str(claim.thread_id), checkpoint),
    )
    assert bool(await kinds(stage, alerts)) is stuck


async def test_a_run_that_is_due_and_not_started_waits_too_long(stage: Stage, alerts: Alerts) -> None:
    run_id, _ = await stage.admit(thread := await stage.thread())
    await stage.admit(thread)
    await stage.sql(
        "UPDATE holdfast.runs SET available_at = now() - interval '1 h', updated_at = now() - interval '1 h'"
    )
    found = await kinds(stage, alerts)
    assert list(found) == ["queue_wait"]
    assert found["queue_wait"] == f"1 are due and not started, the oldest for 60 min: {run_id}"


async def test_runs_behind_another_run_of_their_thread_wait_for_no_slot(stage: Stage, alerts: Alerts) -> None:
    claim = await stage.started()
    waiting, _ = await stage.admit(claim.thread_id)
    await stage.sql(
        "UPDATE holdfast.runs SET available_at = now() - interval '1 h', updated_at = now() - interval '1 h'"
        " WHERE run_id = %s",
        waiting,
    )
    assert await kinds(stage, alerts) == {}


@pytest.mark.parametrize(("asked", "told_of"), [("10 s", False), ("1 h", True), ("8 days", False)])
async def test_a_question_that_waits_too_long_is_told_unless_it_is_abandoned(
    stage: Stage, alerts: Alerts, asked: str, told_of: bool
) -> None:
    claim = await stage.started()
    await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome(asks=("q1",))))
    await stage.sql("UPDATE holdfast.approvals SET asked_at = now() - %s::interval", asked)
    found = await kinds(stage, alerts)
    assert list(found) == (["approval_wait"] if told_of else [])
    assert not told_of or str(claim.thread_id) in found["approval_wait"]


async def test_deliveries_that_fail_are_told_by_receiver(stage: Stage, alerts: Alerts) -> None:
    for _ in range(3):
        claim = await stage.started(webhook="https://hooks.example/TOKEN")
        await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome()))
    deliveries = Deliveries(stage.database)
    first, second, _ = await deliveries.take(uuid4(), limit=5, lease=60)
    assert await kinds(stage, alerts) == {}
    await deliveries.give_up(first["delivery_id"], 1, error="410")
    await stage.sql("UPDATE holdfast.deliveries SET attempt = 4 WHERE delivery_id = %s", second["delivery_id"])
    found = await kinds(stage, alerts)
    assert list(found) == ["webhook_failing"]
    assert found["webhook_failing"].startswith("2 deliveries")
    assert "hooks.example" in found["webhook_failing"]
    assert "TOKEN" not in found["webhook_failing"]


async def test_that_no_worker_is_alive_is_told_after_half_a_minute(stage: Stage, alerts: Alerts, clock: Clock) -> None:
    await stage.sql("DELETE FROM holdfast.workers")
    assert [await clock(f"12:00:{seconds}") for seconds in ("00", "15", "30")] == [0, 0, 2]
    assert [(row["kind"], row["severity"]) for row in await told(stage)] == [("no_worker", "critical")]


# --- the outbox ---


async def test_alerts_are_taken_by_those_who_know_their_webhook(stage: Stage, alerts: Alerts) -> None:
    await look(alerts, SLOW)
    deliveries = Deliveries(stage.database)
    assert await deliveries.take(uuid4(), limit=5, lease=60) == []
    [taken] = await deliveries.take(uuid4(), limit=5, lease=60, channels=["alert:json-2", "alert:other"])
    assert taken["url"] == "alert:json-2"
    await stage.sql("UPDATE holdfast.deliveries SET due_at = due_at - interval '2 days' WHERE url = 'alert:slack-1'")
    await deliveries.sweep(keep=86_400, batch=10)
    states = await stage.sql("SELECT state, last_error FROM holdfast.deliveries WHERE url = 'alert:slack-1'")
    assert states == [{"state": "failed", "last_error": "no process knows this alert webhook"}]


async def test_without_a_worker_only_alerts_are_taken_and_nobody_cuts_their_lease_short(
    stage: Stage, alerts: Alerts
) -> None:
    claim = await stage.started(webhook="https://hooks.example/")
    await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome()))
    await look(alerts, SLOW)
    deliveries = Deliveries(stage.database)
    taken = await deliveries.take(None, limit=5, lease=60, channels=list(CHANNELS))
    assert {row["url"] for row in taken} == set(CHANNELS)
    await deliveries.release()
    [others] = await deliveries.take(uuid4(), limit=5, lease=60, channels=list(CHANNELS))
    assert others["run_id"] == claim.run_id


async def test_looking_reads_no_large_table_as_a_whole(database_url: str) -> None:
    """Ten thousand of everything that is over, a few that wait."""
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as conn:
        conn.execute(
            """
            INSERT INTO holdfast.threads (thread_id, owner, created_at, updated_at, state_updated_at)
            SELECT gen_random_uuid(), 'a', now(), now(), now() FROM generate_series(1, 10000);
            INSERT INTO holdfast.runs (run_id, thread_id, owner, assistant_id, status, kwargs, multitask_strategy,
                resumable, logged, ephemeral, available_at, created_at, updated_at, graph_id, worker_id, fencing_token)
            SELECT gen_random_uuid(), thread_id, 'a', gen_random_uuid(),
                   CASE WHEN n <= 9900 THEN 'success' WHEN n <= 9950 THEN 'running' ELSE 'pending' END, '', 'enqueue',
                   false, true, false, now() - interval '1 h', now(), now() - interval '1 h', 'g',
                   CASE WHEN n > 9900 AND n <= 9950 THEN gen_random_uuid() END,
                   CASE WHEN n > 9900 AND n <= 9950 THEN 1 END
            FROM (SELECT thread_id, row_number() OVER () AS n FROM holdfast.threads) t;
            INSERT INTO holdfast.approvals (approval_id, owner, metadata, thread_id, interrupt_id, task_id, question,
                asked_at, state, decided_at)
            SELECT gen_random_uuid(), 'a', '{}', gen_random_uuid(), n::text, 't', '', now() - interval '1 h',
                   CASE WHEN n <= 9900 THEN 'answered' ELSE 'pending' END, now()
            FROM generate_series(1, 10000) n;
            INSERT INTO holdfast.deliveries (delivery_id, url, receiver, state, due_at, run_id, thread_id, assistant_id,
                status, metadata, multitask_strategy, created_at, ended_at, settled_at)
            SELECT gen_random_uuid(), 'https://a', 'a', CASE WHEN n <= 9900 THEN 'delivered' ELSE 'waiting' END,
                   now(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'success', '{}', 'enqueue', now(),
                   now(), CASE WHEN n <= 9900 THEN now() END
            FROM generate_series(1, 10000) n;
            INSERT INTO holdfast.event_blocks (thread_id, first_seq, last_seq, run_id, first_in_run, frames, created_at)
            SELECT thread_id, 1, 1, run_id, 1, '', now() FROM holdfast.runs;
            INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)
            SELECT thread_id::text, '', '1f0d0000-0000-6000-8000-000000000000', '{}', '{}' FROM holdfast.threads;
            """
        )
        for table in ("runs", "approvals", "deliveries", "event_blocks"):
            conn.execute(f"ANALYZE holdfast.{table}")  # type: ignore[arg-type]
        conn.execute("ANALYZE checkpoints")
        params = {"limit": 100, "most": 1000, "abandoned": 7, "attempts": 4}
        for kind in ("stuck_run", "queue_wait", "approval_wait", "webhook_failing"):
            plan = conn.execute("EXPLAIN " + statements("alerts")[kind], params).fetchall()  # type: ignore[arg-type]
            assert "Seq Scan" not in str(plan), (kind, plan)
