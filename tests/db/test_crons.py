"""Crons in the database: a due time and its run are one fact, whoever tries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import uuid_utils.compat as uuids
from psycopg.rows import dict_row

from holdfast.db.crons import CronFilter, Crons, DueCron, Firing, NewCron
from holdfast.db.sql import statements
from holdfast.errors import Conflict, Missing
from holdfast.rules.caller import Caller, Sight
from tests.db.stage import ANN, ASSISTANT, BOB, Stage, new_run, opened, together

pytestmark = pytest.mark.anyio
PAST = datetime(2026, 1, 1, 12, tzinfo=UTC)
NEXT = PAST + timedelta(days=3650)


@pytest.fixture
async def crons(stage: Stage) -> Crons:
    await stage.sql("DELETE FROM holdfast.crons")
    return Crons(stage.database)


async def added(crons: Crons, caller: Caller = ANN, **given: Any) -> UUID:
    cron_id = uuids.uuid7()
    thread_id = given.get("thread_id")
    defaults: dict[str, Any] = {
        "cron_id": cron_id,
        "assistant_id": ASSISTANT,
        "thread_id": None,
        "schedule": "* * * * *",
        "timezone": None,
        "end_time": None,
        "enabled": True,
        "on_run_completed": None if thread_id else "delete",
        "metadata": {},
        "payload": b"{}",
        "due": PAST,
    }
    await crons.create(caller, NewCron(**{**defaults, **given}))
    return cron_id


async def fire(stage: Stage, cron: DueCron, thread_id: UUID | None = None) -> UUID:
    new = new_run(
        thread_id or cron.thread_id or uuids.uuid7(),
        new_thread=None if cron.thread_id else {},
        firing=Firing(cron.cron_id, cron.due, NEXT),
    )
    await stage.admissions.admit(cron.caller, new, worker_id=None)
    return new.run_id


async def run_count(stage: Stage) -> int:
    [row] = await stage.sql("SELECT count(*) AS count FROM holdfast.runs")
    return int(row["count"])


async def test_a_firing_admits_its_run_and_moves_the_due_time_on(stage: Stage, crons: Crons) -> None:
    cron_id = await added(crons, thread_id=(thread_id := await stage.thread()))
    [cron] = await crons.due(limit=10)
    assert (cron.cron_id, cron.caller, cron.thread_id, cron.due) == (cron_id, ANN, thread_id, PAST)
    assert await stage.run_status(await fire(stage, cron)) == "pending"
    assert (await crons.get(ANN, cron_id))["next_run_date"] == NEXT
    assert await crons.due(limit=10) == []
    assert (await crons.seconds_to_next() or 0) > 0


async def test_many_who_see_the_same_due_time_start_one_run(stage: Stage, crons: Crons) -> None:
    await added(crons, thread_id=await stage.thread())
    await added(crons)
    for cron in await crons.due(limit=10):
        tried = await together(*[fire(stage, cron) for _ in range(6)])
        started = [run for run in tried if isinstance(run, UUID)]
        refused = [error for error in tried if isinstance(error, Conflict)]
        assert (len(started), len(refused)) == (1, 5), tried
    assert await run_count(stage) == 2
    # What the losers had begun went with them.
    [row] = await stage.sql("SELECT count(*) AS count FROM holdfast.threads")
    assert row["count"] == 2


async def test_a_firing_that_is_refused_leaves_the_due_time_where_it_was(stage: Stage, crons: Crons) -> None:
    thread_id = await stage.thread()
    await stage.admit(thread_id)
    cron_id = await added(crons, thread_id=thread_id)
    [cron] = await crons.due(limit=10)
    new = new_run(thread_id, strategy="reject", firing=Firing(cron_id, PAST, NEXT))
    with pytest.raises(Conflict):
        await stage.admissions.admit(ANN, new, worker_id=None)
    assert (await crons.get(ANN, cron_id))["next_run_date"] == PAST
    error = {"error": "Conflict", "message": "busy"}
    assert await crons.pass_over(cron_id, cron.due, NEXT, error=error) is True
    assert await crons.pass_over(cron_id, cron.due, NEXT, error=error) is False
    row = await crons.get(ANN, cron_id)
    assert (row["next_run_date"], row["last_error"]) == (NEXT, error)


async def test_a_run_that_starts_forgets_why_the_last_one_did_not(stage: Stage, crons: Crons) -> None:
    cron_id = await added(crons)
    await crons.pass_over(cron_id, PAST, PAST + timedelta(minutes=1), error={"error": "E", "message": "m"})
    [cron] = await crons.due(limit=10)
    await fire(stage, cron)
    assert (await crons.get(ANN, cron_id))["last_error"] is None


@pytest.mark.parametrize("change", ["deleted", "disabled", "moved"])
async def test_a_cron_that_was_changed_meanwhile_is_not_fired(stage: Stage, crons: Crons, change: str) -> None:
    cron_id = await added(crons)
    [cron] = await crons.due(limit=10)
    if change == "deleted":
        await crons.delete(ANN, cron_id)
    elif change == "disabled":
        await crons.update(ANN, cron_id, lambda _: {"enabled": False, "next_run_date": None})
    else:
        await crons.update(ANN, cron_id, lambda _: {"next_run_date": NEXT})
    with pytest.raises(Conflict):
        await fire(stage, cron)
    assert await run_count(stage) == 0


async def test_a_killed_admission_leaves_the_cron_due(stage: Stage, crons: Crons) -> None:
    await added(crons)
    [cron] = await crons.due(limit=10)
    async with stage.outside() as conn, conn.transaction(force_rollback=True):
        # Everything up to the commit, then the connection is gone with its process.
        await conn.execute(
            statements("crons")["advance"],
            {"cron_id": cron.cron_id, "due": cron.due, "next_due": NEXT, "error": None},
        )
    assert [again.due for again in await crons.due(limit=10)] == [PAST]
    await fire(stage, cron)
    assert await run_count(stage) == 1


async def test_crons_go_with_their_thread_even_while_it_is_busy(stage: Stage, crons: Crons) -> None:
    idle, busy = await stage.thread(), (await stage.started()).thread_id
    gone = [await added(crons, thread_id=thread_id) for thread_id in (idle, busy)]
    kept = await added(crons)
    with pytest.raises(Missing):
        await stage.runs.delete_thread(BOB, idle)
    assert len(await crons.due(limit=10)) == 3
    for thread_id in (idle, busy):
        await stage.runs.delete_thread(ANN, thread_id)
    assert [cron.cron_id for cron in await crons.due(limit=10)] == [kept]
    for cron_id in gone:
        with pytest.raises(Missing):
            await crons.get(ANN, cron_id)


async def test_other_peoples_crons_and_threads_do_not_exist(stage: Stage, crons: Crons) -> None:
    cron_id = await added(crons)
    for attempt in (
        crons.get(BOB, cron_id),
        crons.delete(BOB, cron_id),
        crons.update(BOB, cron_id, lambda _: {"enabled": False, "next_run_date": None}),
        added(crons, BOB, thread_id=await stage.thread(ANN)),
        added(crons, ANN, thread_id=uuid4()),
    ):
        with pytest.raises(Missing):
            await attempt
    assert await crons.search(BOB, CronFilter(), limit=10) == []
    assert await crons.count(BOB, CronFilter()) == 0
    assert await crons.count(ANN, CronFilter()) == 1


async def test_a_cron_acts_as_who_made_it(stage: Stage, crons: Crons) -> None:
    caller = Caller("cleo", Sight.MATCHING, ({"team": "a"},), {"identity": "cleo", "roles": ["x"]}, ("crons:create",))
    cron_id = await added(crons, caller, metadata={"team": "a"})
    [cron] = await crons.due(limit=10)
    assert cron.caller == caller
    assert (await crons.get(caller, cron_id))["owner"] == "cleo"


async def test_a_change_sees_the_row_that_it_changes(stage: Stage, crons: Crons) -> None:
    cron_id = await added(crons, metadata={"n": 0})

    def one_more(row: Any) -> dict[str, Any]:
        return {"metadata": {"n": row["metadata"]["n"] + 1}}

    assert await together(*[crons.update(ANN, cron_id, one_more) for _ in range(5)]) == [None] * 5
    assert (await crons.get(ANN, cron_id))["metadata"] == {"n": 5}


async def test_the_clock_of_the_database_says_what_is_due(clean_url: str) -> None:
    with psycopg.connect(clean_url, autocommit=True) as conn:
        conn.execute("DELETE FROM holdfast.crons")
        name = conn.info.dbname
        try:
            for now, due in [("2026-01-01 11:59:59.9+00", 0), ("2026-01-01 12:00:00+00", 1)]:
                conn.execute(f"ALTER DATABASE {name} SET holdfast.now = '{now}'")  # type: ignore[arg-type]
                async with opened(clean_url) as stage:
                    crons = Crons(stage.database)
                    if not due:
                        await added(crons)
                        assert await crons.seconds_to_next() == pytest.approx(0.1)
                    assert len(await crons.due(limit=10)) == due
                    assert (await crons.now()).isoformat() == datetime.fromisoformat(now).isoformat()
        finally:
            conn.execute(f"ALTER DATABASE {name} RESET holdfast.now")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    ["enabled = false", "on_run_completed = NULL", "on_run_completed = 'maybe'", "thread_id = gen_random_uuid()"],
)
async def test_the_table_itself_refuses_a_row_that_means_nothing(stage: Stage, crons: Crons, change: str) -> None:
    await added(crons)
    async with stage.outside() as conn:
        with pytest.raises(psycopg.IntegrityError):
            await conn.execute(f"UPDATE holdfast.crons SET {change}")  # type: ignore[arg-type]


async def test_due_crons_are_found_along_their_index(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as conn:
        conn.execute(
            """
            INSERT INTO holdfast.crons (cron_id, owner, caller, assistant_id, schedule, enabled, on_run_completed,
                payload, next_run_date, created_at, updated_at)
            SELECT gen_random_uuid(), 'ann', '{}', gen_random_uuid(), '* * * * *', true, 'delete', '',
                   now() + n * interval '1 s' - interval '10 s', now(), now()
            FROM generate_series(1, 10000) n"""
        )
        conn.execute("ANALYZE holdfast.crons")
        for verb, params in [("due", {"limit": 100}), ("next_due", {})]:
            query = "EXPLAIN (ANALYZE, FORMAT TEXT) " + statements("crons")[verb]
            plan = str(conn.execute(query, params).fetchall())  # type: ignore[arg-type]
            assert "crons_due" in plan, verb
            assert "Seq Scan" not in plan, verb
