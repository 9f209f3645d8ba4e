"""The queue between owners and within one: turns, priorities, and what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from holdfast.db.queue import OWNERS_A_LOOK, Queue
from holdfast.db.runs import RunEnd
from holdfast.db.sql import statements
from holdfast.rules.caller import Caller
from holdfast.rules.run import RunStatus
from tests.db.stage import Stage, new_run, opened, outcome
from tests.db.test_claims import CLAIM, explained, rows_read

pytestmark = pytest.mark.anyio


async def queued(stage: Stage, owner: str, **given: Any) -> UUID:
    """A run of this owner on a thread of its own."""
    run = new_run(uuid4(), new_thread={}, **given)
    await stage.admissions.admit(Caller(owner), run, worker_id=None)
    return run.run_id


async def served(stage: Stage, looks: int, *, limit: int = 1) -> list[str]:
    """Whose runs come next, each ended before the next is claimed."""
    owners = []
    for _ in range(looks):
        for claim in await stage.queue.claim(stage.worker_id, limit=limit):
            owners.append(claim.owner)
            await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome()))
    return owners


async def test_with_one_slot_the_owners_take_turns(stage: Stage) -> None:
    for _ in range(6):
        await queued(stage, "ann")
    await queued(stage, "bob")
    await queued(stage, "cem")
    await queued(stage, "cem")
    assert await served(stage, 9) == ["ann", "bob", "cem", "ann", "cem", "ann", "ann", "ann", "ann"]


async def test_who_has_fewest_runs_running_anywhere_is_served_first(stage: Stage) -> None:
    for _ in range(4):
        await queued(stage, "ann")
    assert len(await stage.queue.claim(uuid4(), limit=2)) == 2
    await queued(stage, "bob")
    await queued(stage, "bob")
    elsewhere = Queue(stage.database)
    claimed = [(await elsewhere.claim(stage.worker_id, limit=1))[0].owner for _ in range(4)]
    assert claimed == ["bob", "bob", "ann", "ann"]


async def test_free_slots_are_shared_and_what_one_owner_does_not_need_the_others_get(stage: Stage) -> None:
    for _ in range(20):
        await queued(stage, "ann")
    for _ in range(3):
        await queued(stage, "bob")
    claimed = await stage.queue.claim(stage.worker_id, limit=10)
    claimed += await stage.queue.claim(stage.worker_id, limit=10 - len(claimed))
    assert Counter(claim.owner for claim in claimed) == {"ann": 7, "bob": 3}


async def test_an_owner_whose_runs_are_all_blocked_costs_nobody_a_slot(stage: Stage) -> None:
    thread_id = uuid4()
    for _ in range(3):
        await stage.admissions.admit(Caller("ann"), new_run(thread_id, new_thread={}), worker_id=None)
    await stage.claim()
    waiting = await queued(stage, "bob")
    await stage.runs.end(await stage.claim(), RunEnd(RunStatus.SUCCESS, outcome()))
    assert await stage.run_status(waiting) == "success"
    assert await stage.queue.claim(stage.worker_id, limit=4) == []


async def test_more_owners_than_one_look_sees_are_all_served_in_turn(stage: Stage) -> None:
    owners = [f"owner-{n:03}" for n in range(2 * OWNERS_A_LOOK + 3)]
    for owner in owners:
        await queued(stage, owner)
        await queued(stage, owner)
    assert await served(stage, 2 * len(owners)) == [*owners, *owners]


async def test_a_due_run_is_found_behind_many_owners_that_wait_for_theirs(stage: Stage) -> None:
    for n in range(2 * OWNERS_A_LOOK):
        await queued(stage, f"owner-{n:03}", after_seconds=3600)
    due = await queued(stage, "zoe")
    assert (await stage.claim()).run_id == due


async def test_a_higher_priority_goes_first_within_its_owner(stage: Stage) -> None:
    low, default, high = [await queued(stage, "ann", priority=priority) for priority in (-3, 0, 10)]
    assert [(await stage.claim()).run_id for _ in range(3)] == [high, default, low]


async def test_a_priority_never_overtakes_another_owner_whose_turn_it_is(stage: Stage) -> None:
    for _ in range(3):
        await queued(stage, "ann", priority=10)
    await queued(stage, "bob", priority=-10)
    assert await served(stage, 3) == ["ann", "bob", "ann"]


async def test_runs_of_one_thread_stay_in_order_whatever_their_priority(stage: Stage) -> None:
    thread_id = await stage.thread()
    admitted = [(await stage.admit(thread_id, priority=priority))[0] for priority in (-10, 0, 10)]
    order = []
    for _ in admitted:
        claim = await stage.claim()
        order.append(claim.run_id)
        await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome()))
    assert order == admitted


@pytest.fixture
def clock(clean_url: str) -> Iterator[Any]:
    """Opens a stage at a time of the database's clock."""
    with psycopg.connect(clean_url, autocommit=True) as conn:
        name = conn.info.dbname

        @asynccontextmanager
        async def at(time: str) -> AsyncIterator[Stage]:
            conn.execute(f"ALTER DATABASE {name} SET holdfast.now = '2031-01-01 {time}+00'")  # type: ignore[arg-type]
            async with opened(clean_url) as stage:
                yield stage

        yield at
        conn.execute(f"ALTER DATABASE {name} RESET holdfast.now")  # type: ignore[arg-type]


async def test_who_waits_overtakes_higher_priorities_after_a_minute_for_each_step(clock: Any) -> None:
    async with clock("12:00:00") as stage:
        low = await queued(stage, "ann", priority=-10)
    async with clock("12:19:59") as stage:
        soon = await queued(stage, "ann", priority=10)
    async with clock("12:20:01") as stage:
        late = await queued(stage, "ann", priority=10)
        assert [(await stage.claim()).run_id for _ in range(3)] == [soon, low, late]


async def test_the_lowest_priority_is_claimed_at_once_where_nothing_else_waits(stage: Stage) -> None:
    lowest = await queued(stage, "ann", priority=-10)
    assert (await stage.claim()).run_id == lowest


async def test_a_priority_out_of_bounds_is_refused_by_the_table(stage: Stage) -> None:
    await queued(stage, "ann")
    with pytest.raises(psycopg.errors.CheckViolation, match="priority"):
        await stage.sql("UPDATE holdfast.runs SET priority = 11")


QUEUES = {
    "one owner": "SELECT n, 'ann', 0 FROM generate_series(1, 10000) n",
    "a long queue and one run": "SELECT n, CASE n WHEN 9 THEN 'bo' ELSE 'al' END, 0 FROM generate_series(1, 10000) n",
    "a thousand owners": "SELECT n, 'owner-' || n % 1000, 0 FROM generate_series(1, 10000) n",
    "many that are not due": "SELECT n, 'al', CASE WHEN n < 9900 THEN 7200 ELSE 0 END FROM generate_series(1, 10000) n",
}


@pytest.mark.parametrize("queue", QUEUES.values(), ids=QUEUES)
def test_a_turn_is_found_along_the_indexes_whatever_waits(database_url: str, queue: str) -> None:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row, prepare_threshold=0) as conn:
        conn.execute(
            f"""
            WITH queue (n, owner, seconds) AS ({queue}), made AS (
                INSERT INTO holdfast.threads (thread_id, owner, created_at, updated_at, state_updated_at)
                SELECT md5(n::text)::uuid, owner, now(), now(), now() FROM queue)
            INSERT INTO holdfast.runs (run_id, thread_id, owner, assistant_id, graph_id, status, kwargs,
                multitask_strategy, resumable, logged, ephemeral, available_at, created_at, updated_at)
            SELECT gen_random_uuid(), md5(n::text)::uuid, owner, gen_random_uuid(), 'talk', 'pending', '', 'enqueue',
                   false, true, false, now() + make_interval(secs => seconds), now(), now()
            FROM queue ORDER BY n"""  # type: ignore[arg-type]
        )
        conn.execute("VACUUM ANALYZE holdfast.runs")
        for mode in ("auto", "force_generic_plan"):
            conn.execute(f"SET plan_cache_mode = {mode}")  # type: ignore[arg-type]
            turns = explained(conn, statements("queue")["turns"], {"after": "", "owners": OWNERS_A_LOOK})
            assert {node["Node Type"] for node in turns} == {"Index Only Scan"}
            assert rows_read(turns) <= 2 * OWNERS_A_LOOK + 2
            row = conn.execute(statements("queue")["turns"], {"after": "", "owners": 1}).fetchone()
            assert row is not None
            claim = explained(conn, statements("queue")["claim"], {**CLAIM, "owner": row["owner"]})
            assert not [node for node in claim if node["Node Type"] == "Seq Scan"]
            assert rows_read(claim) <= 30
