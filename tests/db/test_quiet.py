"""The short way in and out of quiet threads: it leaves what the long way leaves, and takes only what is quiet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest

from holdfast.db.admission import _Arrival
from holdfast.db.admission import _columns as columns_of_arrivals
from holdfast.db.pool import ACQUIRE_SECONDS, GROUP_CONNECTIONS, GROUP_SECONDS
from holdfast.db.queue import Claimed
from holdfast.db.runs import RunEnd
from holdfast.db.runs import _columns as columns_of_ends
from holdfast.db.saves import Block, Save
from holdfast.db.saves import columns as columns_of_saves
from holdfast.db.sql import statements
from holdfast.rules.caller import Caller, Sight
from holdfast.rules.run import RunStatus
from tests.db.savers import config_of, put, saver
from tests.db.stage import ANN, BOB, Stage, new_run, outcome, together

pytestmark = pytest.mark.anyio

LONG_WAY = {"thread_status": ["idle"]}
"""A request for a thread of this status is decided under the thread's lock."""
NEVER_THE_SAME = {
    "run_id", "thread_id", "seq", "created_at", "updated_at", "state_updated_at", "available_at", "started_at",
    "fencing_token", "claimed_at", "thread_version",
}  # fmt: skip


def alike(row: Any) -> dict[str, Any]:
    items = row.items() if isinstance(row, dict) else {name: getattr(row, name) for name in row.__slots__}.items()
    return {name: value for name, value in items if name not in NEVER_THE_SAME}


async def rows_of(stage: Stage, *claims: Claimed) -> dict[str, list[dict[str, Any]]]:
    """What the database has of a thread and its runs, ids by other names."""
    ids = {claim.run_id: f"run {number}" for number, claim in enumerate(claims)}
    tables = {
        "runs": "ORDER BY seq",
        "threads": "",
        "thread_values": "ORDER BY channel, idx",
        "event_blocks": "ORDER BY last_seq",
    }
    found = {}
    for table, order in tables.items():
        rows = await stage.sql(f"SELECT * FROM holdfast.{table} WHERE thread_id = %s {order}", claims[0].thread_id)
        found[table] = [alike({name: _named(ids, value) for name, value in row.items()}) for row in rows]
        for row in found[table]:
            if "deleted_at" in row:
                row["deleted_at"] = row["deleted_at"] is not None
    return found


def _named(ids: dict[UUID, str], value: Any) -> Any:
    return [ids[item] for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("slot", [True, False], ids=["with a slot", "without one"])
@pytest.mark.parametrize("new_thread", [None, {"color": "red"}], ids=["on a thread", "with a thread"])
async def test_both_ways_in_leave_the_same(stage: Stage, slot: bool, new_thread: dict[str, str] | None) -> None:
    left = []
    for way in ({}, LONG_WAY):
        given = way if new_thread is None else {**way, "new_thread": new_thread}
        thread_id = uuid4() if new_thread is not None else await stage.thread()
        worker_id = stage.worker_id if slot else None
        _, admitted = await stage.admit(thread_id, worker_id=worker_id, resumable=True, priority=3, **given)
        claim = admitted.claimed or await stage.claim()
        assert admitted.others.over == admitted.others.stopping == []
        (row,) = await stage.sql("SELECT xmin::text AS version FROM holdfast.threads WHERE thread_id = %s", thread_id)
        assert claim.thread_version == row["version"]
        left.append((alike(claim) | {"is_new": None}, await rows_of(stage, claim)))
    assert left[0] == left[1]


@pytest.mark.parametrize("frames", [b"", b"event: values\r\ndata: {}\r\n\r\n"], ids=["silent", "with a last block"])
@pytest.mark.parametrize("ephemeral", [False, True])
async def test_both_ways_out_leave_the_same(stage: Stage, frames: bytes, ephemeral: bool) -> None:
    left = []
    for is_plain in (True, False):
        thread_id, claims = await stage.thread(), list[Claimed]()
        for values in ({"messages": [b"1", b"2"], "gone": b"1"}, {"messages": [b"1", b"3", b"4"], "new": b'"\\u0000"'}):
            claim = await stage.started(thread_id, ephemeral=ephemeral and b"3" in values["messages"])
            last = claim.event_seq + bool(frames)
            block = Block(claim.fencing_token, last, last, 1, frames) if frames else None
            end = RunEnd(RunStatus.SUCCESS, outcome(values), None, block, last, is_plain=is_plain)
            assert await stage.runs.end(claim, end) is is_plain
            claims.append(claim)
        left.append(await rows_of(stage, *claims))
    assert left[0] == left[1]


@pytest.fixture(params=["busy", "asks", "unfinished", "hidden", "not theirs", "held by somebody"])
def trouble(request: pytest.FixtureRequest) -> str:
    return str(request.param)


MAKE_TROUBLE = {
    "busy": "UPDATE holdfast.threads SET status = 'busy' WHERE thread_id = %s",
    "asks": "UPDATE holdfast.threads SET interrupts = '{\"t\": []}' WHERE thread_id = %s",
    "unfinished": "UPDATE holdfast.threads SET status = 'interrupted', unfinished = true WHERE thread_id = %s",
    "hidden": "UPDATE holdfast.threads SET deleted_at = now() WHERE thread_id = %s",
    "not theirs": "UPDATE holdfast.threads SET owner = 'bob' WHERE thread_id = %s",
    "held by somebody": "SELECT FROM holdfast.threads WHERE thread_id = %s FOR NO KEY UPDATE",
}


async def test_what_is_not_quiet_is_not_let_in_and_keeps_nobody_waiting(stage: Stage, trouble: str) -> None:
    threads = [await stage.thread() for _ in range(3)]
    async with stage.outside() as conn:
        await conn.execute("BEGIN")
        await conn.execute(MAKE_TROUBLE[trouble], [threads[1]])
        if trouble != "held by somebody":
            await conn.execute("COMMIT")
        arrivals = [_Arrival(ANN, new_run(thread), stage.worker_id) for thread in threads]
        async with asyncio.timeout(5):
            admitted = await stage.admissions._admit_quiet(arrivals)
        assert admitted.keys() == {threads[0], threads[2]}


async def test_who_sees_everything_is_let_in_and_who_is_told_what_to_see_is_asked(stage: Stage) -> None:
    thread = await stage.thread(BOB)
    everything = _Arrival(Caller("ann", Sight.ALL), new_run(thread), None)
    assert (await stage.admissions._admit_quiet([everything])).keys() == {thread}
    assert not _Arrival(Caller("ann", Sight.MATCHING, ({"a": 1},)), new_run(thread), None).is_simple


async def test_an_end_that_another_admission_overtakes_leaves_the_thread_busy(stage: Stage) -> None:
    claim = await stage.started()
    run_id, _ = await stage.admit(claim.thread_id)
    assert await stage.runs._end_quiet([(claim, simple_end(claim))]) == {}
    assert not await stage.runs.end(claim, simple_end(claim))
    assert await stage.thread_status(claim.thread_id) == "busy"
    assert await stage.run_status(run_id) == "pending"


async def test_ends_and_admissions_that_meet_agree_about_the_thread(stage: Stage) -> None:
    """Whichever comes first: the thread is busy exactly while something is pending or running."""
    for _ in range(40):
        claim = await stage.started()
        ended, admitted = await together(
            stage.runs.end(claim, simple_end(claim)), stage.admit(claim.thread_id, strategy="reject")
        )
        assert not isinstance(ended, BaseException)
        refused = isinstance(admitted, BaseException)
        assert await stage.thread_status(claim.thread_id) == ("idle" if refused else "busy")


async def test_an_end_whose_fence_is_lost_ends_nothing(stage: Stage) -> None:
    claim = await stage.started()
    await stage.queue.hand_back(claim)
    assert await stage.runs._end_quiet([(claim, simple_end(claim))]) == {}
    await stage.claim()
    assert await stage.runs._end_quiet([(claim, simple_end(claim))]) == {}
    assert await stage.run_status(claim.run_id) == "running"


async def test_an_end_does_not_wait_for_a_row_that_somebody_holds(stage: Stage) -> None:
    claims = [await stage.started() for _ in range(2)]
    async with stage.outside() as conn:
        await conn.execute("BEGIN")
        await conn.execute("SELECT FROM holdfast.runs WHERE run_id = %s FOR UPDATE", [claims[0].run_id])
        async with asyncio.timeout(5):
            ended = await stage.runs._end_quiet([(claim, simple_end(claim)) for claim in claims])
    assert ended == {claims[1].run_id: True}


async def test_a_save_whose_run_somebody_holds_goes_alone_and_the_others_do_not_wait(stage: Stage) -> None:
    claims = [await stage.started() for _ in range(2)]
    async with stage.outside() as conn:
        await conn.execute("BEGIN")
        await conn.execute("SELECT FROM holdfast.runs WHERE run_id = %s FOR UPDATE", [claims[0].run_id])
        waiting = asyncio.create_task(put(saver(stage, claims[0]), config_of(claims[0]), {"x": [1]}))
        async with asyncio.timeout(5):
            await put(saver(stage, claims[1]), config_of(claims[1]), {"x": [1]})
        assert not waiting.done()
        await conn.execute("COMMIT")
    await waiting
    assert len(await stage.sql("SELECT 1 FROM checkpoints")) == 2


async def test_saves_of_many_runs_are_one_statement_and_a_lost_fence_is_told_to_its_run_alone(stage: Stage) -> None:
    claims = [await stage.started() for _ in range(20)]
    await stage.queue.hand_back(claims[7])
    results = await together(*(put(saver(stage, claim), config_of(claim), {"x": [1]}) for claim in claims))
    failed = [number for number, result in enumerate(results) if isinstance(result, BaseException)]
    assert failed == [7]
    saved = await stage.sql("SELECT DISTINCT xmin::text FROM checkpoints")
    assert len(saved) <= 3, "the first, and those that came meanwhile"


@pytest.mark.parametrize("known", [False, True], ids=["nothing", "that they are tiny"])
async def test_rows_are_looked_up_by_their_keys_whatever_postgres_knows_of_the_tables(
    stage: Stage, known: bool
) -> None:
    """The plans are made once, it may be on empty tables, and for a group of ten, as Postgres assumes."""
    claim = await stage.started()
    if known:
        await stage.runs.end(await stage.started(), simple_end(claim))
        for table in ("threads", "runs", "thread_values", "event_blocks"):
            await stage.sql(f"ANALYZE holdfast.{table}")
        await stage.sql("ANALYZE checkpoints")
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "admit": (
            statements("quiet")["admit"],
            columns_of_arrivals([_Arrival(ANN, new_run(uuid4()), None)] * 10)
            | {"ttl_seconds": None, "ttl_strategy": None},
        ),
        "end": (statements("quiet")["end"], columns_of_ends([(claim, simple_end(claim))] * 10)),
        "save": (statements("saves")["save_all"], columns_of_saves([Save(claim.run_id, n, n, []) for n in range(10)])),
    }
    for name, (statement, params) in asked.items():
        async with stage.database.connection("group") as conn:
            (row,) = await (await conn.execute(f"EXPLAIN (FORMAT JSON) {statement}", params)).fetchall()
        scans = list(scans_in(json.loads(row["QUERY PLAN"])[0]["Plan"]))
        assert scans, name
        for scan in scans:
            by_key = "Index Cond" in scan and scan["Index Name"] in KEYS
            assert by_key or "TID Cond" in scan, (name, scan)


KEYS = {
    "threads_pkey",
    "runs_pkey",
    "active_runs_by_thread",
    "runs_by_thread",
    "thread_values_pkey",
    "event_blocks_pkey",
    "checkpoints_pkey",
    "checkpoints_thread_id_idx",
}


def scans_in(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "Relation Name" in plan and plan["Node Type"] not in ("ModifyTable",):
        yield plan
    for below in plan.get("Plans", ()):
        yield from scans_in(below)


def simple_end(claim: Claimed) -> RunEnd:
    return RunEnd(RunStatus.SUCCESS, outcome({"n": b"1"}), event_seq=claim.event_seq, is_plain=True)


async def test_a_group_that_finds_no_connection_gives_way_soon(stage: Stage) -> None:
    thread_id = await stage.thread()
    async with AsyncExitStack() as taken:
        for _ in range(GROUP_CONNECTIONS):
            await taken.enter_async_context(stage.database.connection("group"))
        async with asyncio.timeout(GROUP_SECONDS + ACQUIRE_SECONDS / 2):
            claim = await stage.started(thread_id)
            await put(saver(stage, claim), config_of(claim), {"x": [1]})


async def test_runs_that_come_together_come_in_together(stage: Stage) -> None:
    threads = [await stage.thread() for _ in range(30)]
    admitted = await together(*(stage.admit(thread, worker_id=stage.worker_id) for thread in threads))
    tokens = {given.claimed.fencing_token for _, given in admitted}
    assert len(tokens) == 30
    assert len(await stage.sql("SELECT DISTINCT xmin::text FROM holdfast.runs")) <= 3
