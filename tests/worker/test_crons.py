"""The clock's rounds, with the database's clock moved."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
import uuid_utils.compat as uuids

from holdfast.db.crons import Crons, DueCron, Firing, NewCron
from holdfast.errors import Conflict, DatabaseUnavailable, Missing
from holdfast.rules.schedule import Schedule
from holdfast.worker.crons import POLL_SECONDS, Fire, fire_due
from tests.db.stage import ANN, ASSISTANT, Stage, new_run, opened, together

pytestmark = pytest.mark.anyio


class Time:
    """A database whose clock stands where it is told to."""

    def __init__(self, url: str) -> None:
        self.url = url

    @asynccontextmanager
    async def at(self, now: str) -> AsyncIterator[tuple[Stage, Crons]]:
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute(f"ALTER DATABASE {conn.info.dbname} SET holdfast.now = '2026-11-21 {now}+00'")  # type: ignore[arg-type]
        async with opened(self.url) as stage:
            yield stage, Crons(stage.database)


@pytest.fixture
def time(database_url: str) -> Time:
    return Time(database_url)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-21 {text}").replace(tzinfo=UTC)


async def added(crons: Crons, schedule: str, due: str, **given: Any) -> UUID:
    cron_id = uuids.uuid7()
    defaults: dict[str, Any] = {
        "assistant_id": ASSISTANT,
        "thread_id": None,
        "timezone": None,
        "end_time": None,
        "enabled": True,
        "on_run_completed": "delete",
        "metadata": {},
        "payload": b"{}",
    }
    await crons.create(ANN, NewCron(cron_id=cron_id, schedule=schedule, due=moment(due), **{**defaults, **given}))
    return cron_id


def starter(stage: Stage, before: Callable[[DueCron], Awaitable[None]] | None = None) -> Fire:
    """Starts a cron's run on a new thread, as `api/crons.fire` does, after `before`."""

    async def fire(cron: DueCron, schedule: Schedule) -> None:
        if before is not None:
            await before(cron)
        firing = Firing(cron.cron_id, cron.due, schedule.next_after(cron.now))
        await stage.admissions.admit(cron.caller, new_run(uuids.uuid7(), new_thread={}, firing=firing), worker_id=None)

    return fire


async def run_count(stage: Stage) -> int:
    [row] = await stage.sql("SELECT count(*) AS count FROM holdfast.runs")
    return int(row["count"])


async def test_a_cron_fires_once_per_due_time(time: Time) -> None:
    async with time.at("12:00:30") as (stage, crons):
        cron_id = await added(crons, "*/5 * * * *", "12:05:00")
        assert await fire_due(crons, starter(stage)) == POLL_SECONDS
        assert await run_count(stage) == 0
    async with time.at("12:04:58") as (stage, crons):
        assert await fire_due(crons, starter(stage)) == 2
    async with time.at("12:05:00") as (stage, crons):
        for _ in range(3):
            await fire_due(crons, starter(stage))
        assert await run_count(stage) == 1
        assert (await crons.get(ANN, cron_id))["next_run_date"] == moment("12:10:00")
    async with time.at("12:10:01") as (stage, crons):
        await fire_due(crons, starter(stage))
        assert await run_count(stage) == 2


@pytest.mark.requirement("crons.catch_up")
async def test_due_times_that_nobody_watched_are_folded_into_one(time: Time) -> None:
    async with time.at("12:00:00") as (stage, crons):
        cron_id = await added(crons, "* * * * *", "12:01:00")
    async with time.at("15:30:30") as (stage, crons):
        for _ in range(3):
            await fire_due(crons, starter(stage))
        assert await run_count(stage) == 1
        assert (await crons.get(ANN, cron_id))["next_run_date"] == moment("15:31:00")


@pytest.mark.requirement("crons.end_time")
async def test_a_cron_whose_end_has_passed_fires_no_more_not_even_late(time: Time) -> None:
    async with time.at("12:00:00") as (stage, crons):
        late = await added(crons, "* * * * *", "12:01:00", end_time=moment("12:02:00"))
        last = await added(crons, "* * * * *", "12:04:00", end_time=moment("12:05:00"))
    async with time.at("12:04:00") as (stage, crons):
        await fire_due(crons, starter(stage))
        assert await run_count(stage) == 1
        for cron_id in (late, last):
            row = await crons.get(ANN, cron_id)
            assert (row["next_run_date"], row["last_error"]) == (None, None)


@pytest.mark.requirement("crons.exactly_once")
async def test_two_workers_that_see_the_same_due_times_start_each_once(time: Time) -> None:
    async with time.at("12:00:00") as (stage, crons), opened(stage.url) as other:
        for _ in range(10):
            await added(crons, "*/5 * * * *", "12:00:00")
        rounds = [fire_due(crons, starter(stage)), fire_due(Crons(other.database), starter(other))]
        for seconds in await together(*rounds):
            assert isinstance(seconds, float), seconds
        assert await run_count(stage) == 10
        [row] = await stage.sql("SELECT count(last_error) AS failed FROM holdfast.crons")
        assert row["failed"] == 0


@pytest.mark.requirement("crons.failures")
async def test_a_cron_that_cannot_start_is_recorded_and_stops_nobody(time: Time) -> None:
    async def refuse(cron: DueCron) -> None:
        if cron.cron_id == broken:
            raise Missing("Assistant not found")
        if cron.cron_id == busy:
            raise Conflict("Thread is already running a task.")

    async with time.at("12:00:00") as (stage, crons):
        broken = await added(crons, "* * * * *", "11:00:00")
        busy = await added(crons, "*/2 * * * *", "11:30:00")
        nowhere = await added(crons, "* * * * *", "11:40:00", timezone="Atlantis/Capital")
        fine = await added(crons, "* * * * *", "12:00:00")
        await fire_due(crons, starter(stage, refuse))
        assert await run_count(stage) == 1
        seen = {cron_id: await crons.get(ANN, cron_id) for cron_id in (broken, busy, nowhere, fine)}
    assert seen[broken]["last_error"] == {"error": "Missing", "message": "Assistant not found"}
    assert seen[broken]["next_run_date"] == moment("12:01:00")
    assert seen[busy]["last_error"]["error"] == "Conflict"
    assert seen[busy]["next_run_date"] == moment("12:02:00")
    assert (seen[nowhere]["last_error"]["error"], seen[nowhere]["next_run_date"]) == ("Invalid", None)
    assert (seen[fine]["last_error"], seen[fine]["next_run_date"]) == (None, moment("12:01:00"))


async def test_a_database_that_is_away_costs_no_firing(time: Time) -> None:
    async def lose(_: DueCron) -> None:
        raise DatabaseUnavailable("gone")

    async with time.at("12:00:00") as (stage, crons):
        await added(crons, "* * * * *", "12:00:00")
        with pytest.raises(DatabaseUnavailable):
            await fire_due(crons, starter(stage, lose))
        await fire_due(crons, starter(stage))
        assert await run_count(stage) == 1
