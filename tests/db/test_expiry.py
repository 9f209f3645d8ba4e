"""Threads that go by themselves: by the database's clock, after their last activity, never while busy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
import uuid_utils.compat as uuids

from holdfast.db.admission import Admissions
from holdfast.db.pruning import Pruning
from holdfast.db.runs import RunEnd
from holdfast.db.sql import statements
from holdfast.db.threads import Threads
from holdfast.db.threadsearch import ThreadFilter
from holdfast.rules.run import RunStatus
from holdfast.rules.thread import Ttl
from tests.db.stage import ANN, Stage, new_run, opened, outcome

pytestmark = pytest.mark.anyio

NOON = "2031-01-01 12:00:00+00"
HOUR = Ttl(60)


@pytest.fixture
def clock(clean_url: str) -> Iterator[Any]:
    """Sets the database's clock for connections made from then on."""
    with psycopg.connect(clean_url, autocommit=True) as conn:
        name = conn.info.dbname

        def move(to: str) -> None:
            conn.execute(f"ALTER DATABASE {name} SET holdfast.now = '{to}'")  # type: ignore[arg-type]

        yield move
        conn.execute(f"ALTER DATABASE {name} RESET holdfast.now")  # type: ignore[arg-type]


async def made(stage: Stage, ttl: Ttl | None) -> UUID:
    thread_id = uuids.uuid7()
    await stage.threads.create(ANN, thread_id, {}, or_keep=False, ttl=ttl)
    return thread_id


async def left(stage: Stage) -> int:
    return await stage.threads.count(ANN, ThreadFilter())


async def test_a_thread_goes_when_its_time_is_up_and_not_before(clean_url: str, clock: Any) -> None:
    clock(NOON)
    async with opened(clean_url) as stage:
        await made(stage, HOUR)
        await made(stage, None)
        await made(stage, Ttl(120))
    for now, expired in (("12:59:59", 0), ("13:00:01", 1), ("13:00:02", 0), ("14:00:01", 1), ("23:00:00", 0)):
        clock(f"2031-01-01 {now}+00")
        async with opened(clean_url) as stage:
            assert len(await Pruning(stage.database).expire(limit=10)) == expired, now
    async with opened(clean_url) as stage:
        assert await left(stage) == 1


async def test_its_time_counts_from_the_last_activity(clean_url: str, clock: Any) -> None:
    clock(NOON)
    async with opened(clean_url) as stage:
        patched, edited, ran, idle = [await made(stage, HOUR) for _ in range(4)]
    clock("2031-01-01 12:30:00+00")
    async with opened(clean_url) as stage:
        await stage.threads.patch(ANN, patched, {"touched": True})
        token = await stage.threads.begin_edit(ANN, edited)
        await stage.threads.end_edit(edited, token, outcome())
        claim = await stage.started(ran)
        await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome()))
    clock("2031-01-01 13:10:00+00")
    async with opened(clean_url) as stage:
        assert len(await Pruning(stage.database).expire(limit=10)) == 1
        assert await stage.threads.count(ANN, ThreadFilter(ids=[patched, edited, ran])) == 3
        assert await stage.threads.count(ANN, ThreadFilter(ids=[idle])) == 0
        row = await stage.threads.get(ANN, ran)
        assert (row["ttl_minutes"], row["ttl_strategy"]) == (60.0, "delete")
        assert row["expires_at"].isoformat() == "2031-01-01T13:30:00+00:00"
    clock("2031-01-01 13:31:00+00")
    async with opened(clean_url) as stage:
        assert len(await Pruning(stage.database).expire(limit=10)) == 3


@pytest.mark.parametrize("strategy", ["delete", "keep_latest"])
async def test_a_busy_thread_stays_until_it_is_idle(clean_url: str, clock: Any, strategy: Any) -> None:
    clock(NOON)
    async with opened(clean_url) as stage:
        running, waiting = await made(stage, Ttl(1, strategy)), await made(stage, Ttl(1, strategy))
        claim = await stage.started(running)
        await stage.admit(waiting)
    clock("2031-01-02 12:00:00+00")
    async with opened(clean_url) as stage:
        assert await due(stage) == 0
        await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome()))
        assert await due(stage) == 0
    clock("2031-01-02 12:02:00+00")
    async with opened(clean_url) as stage:
        assert await due(stage) == 1


async def due(stage: Stage) -> int:
    pruning = Pruning(stage.database)
    return len(await pruning.expire(limit=10)) + len(await pruning.expired("keep_latest", limit=10))


async def test_an_expired_thread_is_swept_with_its_checkpoints(clean_url: str, clock: Any) -> None:
    clock(NOON)
    async with opened(clean_url) as stage:
        thread_id = await made(stage, HOUR)
        await stage.sql(
            "INSERT INTO checkpoints (thread_id, checkpoint_id, checkpoint) VALUES (%s, 'c', '{}')", str(thread_id)
        )
    clock("2031-01-01 13:01:00+00")
    async with opened(clean_url) as stage:
        assert len(await Pruning(stage.database).expire(limit=10)) == 1
        assert await stage.threads.sweep(grace=120, batch=10) == 0
    clock("2031-01-01 13:04:00+00")
    async with opened(clean_url) as stage:
        assert await stage.threads.sweep(grace=120, batch=10) == 1
        assert await stage.sql("SELECT FROM checkpoints") == []


async def test_a_history_that_was_pruned_is_due_again_after_the_next_activity_only(clean_url: str, clock: Any) -> None:
    clock(NOON)
    async with opened(clean_url) as stage:
        thread_id = await made(stage, Ttl(60, "keep_latest"))
    clock("2031-01-01 13:01:00+00")
    async with opened(clean_url) as stage:
        pruning = Pruning(stage.database)
        assert await pruning.expire(limit=10) == []
        assert await pruning.expired("keep_latest", limit=10) == [thread_id]
        await pruning.keep_latest(thread_id, await stage.threads.begin_edit(ANN, thread_id), [])
        assert await pruning.expired("keep_latest", limit=10) == []
    clock("2031-01-02 13:00:00+00")
    async with opened(clean_url) as stage:
        assert await due(stage) == 0
        await stage.threads.patch(ANN, thread_id, {"touched": True})
        assert await due(stage) == 0
    clock("2031-01-02 14:01:00+00")
    async with opened(clean_url) as stage:
        assert await due(stage) == 1


async def test_no_more_go_at_once_than_the_limit_and_the_oldest_go_first(clean_url: str, clock: Any) -> None:
    created = []
    for minute in range(4):
        clock(f"2031-01-01 12:0{minute}:00+00")
        async with opened(clean_url) as stage:
            created.append(await made(stage, HOUR))
    clock("2031-01-02 12:00:00+00")
    async with opened(clean_url) as stage:
        assert len(await Pruning(stage.database).expire(limit=3)) == 3
        assert await stage.threads.count(ANN, ThreadFilter(ids=created[3:])) == 1
        assert await left(stage) == 1


async def test_every_new_thread_gets_the_default_and_a_given_one_wins(stage: Stage) -> None:
    with_default = Threads(stage.database, Ttl(30, "keep_latest"))
    first, second, third = (uuids.uuid7() for _ in range(3))
    await with_default.create(ANN, first, {}, or_keep=False)
    await with_default.create(ANN, second, {}, or_keep=False, ttl=Ttl(5))
    await Admissions(stage.database, Ttl(30, "keep_latest")).admit(ANN, new_run(third, new_thread={}), worker_id=None)
    found = [await stage.threads.get(ANN, one) for one in (first, second, third)]
    assert [(row["ttl_minutes"], row["ttl_strategy"]) for row in found] == [
        (30.0, "keep_latest"),
        (5.0, "delete"),
        (30.0, "keep_latest"),
    ]


async def test_a_patch_sets_replaces_or_leaves_the_time_to_live(stage: Stage) -> None:
    thread_id = await made(stage, None)
    steps: list[tuple[Ttl | None, tuple[float, str]]] = [
        (Ttl(5), (5.0, "delete")),
        (None, (5.0, "delete")),
        (Ttl(0.5, "keep_latest"), (0.5, "keep_latest")),
    ]
    for given, expected in steps:
        await stage.threads.patch(ANN, thread_id, {}, ttl=given)
        row = await stage.threads.get(ANN, thread_id)
        assert (row["ttl_minutes"], row["ttl_strategy"]) == expected


async def test_the_sweep_finds_what_is_due_by_its_index(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO holdfast.threads"
            " (thread_id, owner, created_at, updated_at, state_updated_at, ttl, ttl_strategy)"
            " SELECT gen_random_uuid(), 'ann', now(), now() - make_interval(mins => n), now(),"
            " interval '19999 minutes', CASE WHEN n % 2 = 0 THEN 'delete' ELSE 'keep_latest' END"
            " FROM generate_series(1, 20000) n"
        )
        conn.execute("ANALYZE")
        for verb in ("expire", "expired"):
            terms = {"limit": 100, "status": "idle", "strategy": "delete"}
            rows = conn.execute(f"EXPLAIN {statements('pruning')[verb]}", terms).fetchall()  # type: ignore[arg-type]
            assert "threads_to_expire" in "\n".join(row[0] for row in rows)
