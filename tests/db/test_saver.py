"""The fenced saver beside the stock one: same tables, same values, and nothing without the fence."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from typing_extensions import TypedDict

from holdfast.db.checkpoints import NULL_TASK_ID, Fence, FencedSaver
from holdfast.db.queue import Claimed
from holdfast.db.runs import RunEnd
from holdfast.errors import Conflict, FenceLost
from holdfast.rules.run import RunStatus
from tests.db.savers import checkpoint_with, config_for, config_of, put, rows, saver, stock
from tests.db.stage import ANN, CHECKPOINT_TABLES, Stage, outcome, together, until

pytestmark = pytest.mark.anyio

Graph = CompiledStateGraph[Any, Any, Any, Any]
ROLLED_BACK = RunEnd(RunStatus.INTERRUPTED, None, {"error": "UserRollback", "message": "m"}, rollback=True)


VALUES: dict[str, Any] = {
    "text": "plain",
    "number": 3,
    "share": 0.25,
    "large": 1e22,
    "nothing": None,
    "yes": True,
    "list": [1, "two", {"three": 3.0}],
    "messages": [
        HumanMessage("hi", id="1"),
        AIMessage("", id="2", tool_calls=[{"id": "c", "name": "t", "args": {"a": 1}, "type": "tool_call"}]),
        ToolMessage("done", id="3", tool_call_id="c", artifact={"x": [1]}),
    ],
}
WRITES: Sequence[tuple[str, Any]] = [("list", ["more"]), ("text", "other"), ("messages", [AIMessage("yo", id="4")])]


@pytest.mark.parametrize("writer", ["ours", "theirs"])
async def test_either_saver_reads_what_the_other_wrote(stage: Stage, writer: str) -> None:
    claim = await stage.started()
    async with stock(stage) as theirs:
        ours = saver(stage, claim)
        writes, reads = (ours, theirs) if writer == "ours" else (theirs, ours)
        first = await put(writes, config_of(claim), VALUES, 0)
        second = await put(writes, first | {"metadata": {"user": "ann"}}, VALUES | {"number": 4}, 1)
        await writes.aput_writes(second, WRITES, str(UUID(int=1)), "path")
        await writes.aput_writes(second, [("__interrupt__", [1])], str(UUID(int=1)), "path")
        latest: RunnableConfig = {"configurable": {"thread_id": str(claim.thread_id), "checkpoint_ns": ""}}
        for config in (latest, first, second):
            read, written = await reads.aget_tuple(config), await writes.aget_tuple(config)
            assert read == written
            assert read is not None
        assert read.checkpoint["channel_values"] == VALUES | {"number": 4}
        assert [entry async for entry in reads.alist(latest)] == [entry async for entry in writes.alist(latest)]


async def test_both_savers_write_the_same_rows(stage: Stage) -> None:
    claim = await stage.started()
    inline_elsewhere = "large"
    checkpoint, versions = checkpoint_with({name: VALUES[name] for name in VALUES if name != inline_elsewhere})

    async def write(by: AsyncPostgresSaver) -> dict[str, list[Any]]:
        saved = await by.aput(config_of(claim), checkpoint, {"source": "loop", "step": 0}, versions)
        await by.aput_writes(saved, WRITES, str(UUID(int=1)), "path")
        return await rows(stage)

    ours = await write(saver(stage, claim))
    for table in CHECKPOINT_TABLES:
        await stage.sql(f"DELETE FROM {table}")
    async with stock(stage) as theirs:
        assert await write(theirs) == ours


async def lose_by_a_new_claim(stage: Stage, claim: Claimed) -> None:
    await stage.queue.hand_back(claim)
    await stage.claim()


async def lose_by_a_requeue(stage: Stage, claim: Claimed) -> None:
    await stage.queue.requeue_lost(stage.worker_id, [claim.run_id])


async def lose_by_the_end(stage: Stage, claim: Claimed) -> None:
    await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome()))


async def lose_by_deletion(stage: Stage, claim: Claimed) -> None:
    await stage.sql("DELETE FROM holdfast.threads WHERE thread_id = %s", claim.thread_id)


@pytest.mark.parametrize("lose", [lose_by_a_new_claim, lose_by_a_requeue, lose_by_the_end, lose_by_deletion])
async def test_without_the_fence_nothing_is_written(stage: Stage, lose: Any) -> None:
    claim = await stage.started()
    ours = saver(stage, claim)
    saved = await put(ours, config_of(claim), VALUES)
    before = await rows(stage)
    await lose(stage, claim)
    with pytest.raises(FenceLost):
        await put(ours, saved, VALUES, 1)
    with pytest.raises(FenceLost):
        await ours.aput_writes(saved, WRITES, str(UUID(int=1)))
    with pytest.raises(FenceLost):
        await ours.aput_writes(saved, WRITES, NULL_TASK_ID)
    assert await rows(stage) == before
    assert await stage.sql("SELECT 1 FROM holdfast.borrowed_writes") == []
    assert await stage.sql("SELECT 1 FROM holdfast.runs WHERE command_saved") == []


async def test_a_saver_without_a_fence_only_reads(stage: Stage) -> None:
    claim = await stage.started()
    await put(saver(stage, claim), config_of(claim), VALUES)
    reader = saver(stage)
    assert await reader.aget_tuple(config_of(claim)) is not None
    with pytest.raises(FenceLost):
        await put(reader, config_of(claim), VALUES)


async def test_a_sealed_saver_has_saved_what_was_under_way_and_saves_no_more(stage: Stage) -> None:
    claim = await stage.started()
    ours = saver(stage, claim)
    under_way = asyncio.create_task(put(ours, config_of(claim), VALUES))
    await ours.seal()
    saved = await under_way
    with pytest.raises(FenceLost):
        await ours.aput_writes(saved, WRITES, str(UUID(int=1)))
    found = await ours.aget_tuple(config_of(claim))
    assert found is not None
    assert (found.config["configurable"]["checkpoint_id"], found.pending_writes) == (
        saved["configurable"]["checkpoint_id"],
        [],
    )


async def test_saves_that_race_with_a_takeover_are_kept_whole_or_not_at_all(stage: Stage) -> None:
    claim = await stage.started()
    ours = saver(stage, claim)
    saved = await put(ours, config_of(claim), {"x": [0]})
    saves = [put(ours, saved, {"x": [step]}, step) for step in range(1, 9)]
    results = await together(*saves, stage.queue.requeue_lost(stage.worker_id, [claim.run_id]))
    kept = [result["configurable"]["checkpoint_id"] for result in results[:-1] if isinstance(result, dict)]
    assert all(isinstance(result, dict | FenceLost) for result in results[:-1])
    found = await stage.sql("SELECT checkpoint_id FROM checkpoints")
    assert {row["checkpoint_id"] for row in found} == {*kept, saved["configurable"]["checkpoint_id"]}
    assert len(await stage.sql("SELECT 1 FROM checkpoint_blobs")) == len(kept) + 1


async def test_a_takeover_that_is_under_way_is_waited_for_and_seen(stage: Stage) -> None:
    claim = await stage.started()
    async with stage.outside() as conn, conn.transaction():
        await conn.execute("UPDATE holdfast.runs SET status = 'pending', worker_id = NULL")
        saving = asyncio.create_task(put(saver(stage, claim), config_of(claim), VALUES))
        await until(lambda: waits_for_a_lock(stage))
    with pytest.raises(FenceLost):
        await saving
    assert (await rows(stage))["checkpoints"] == []


async def waits_for_a_lock(stage: Stage) -> bool:
    return bool(
        await stage.sql(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
    )


async def test_a_save_that_is_repeated_changes_nothing(stage: Stage) -> None:
    claim = await stage.started()
    ours = saver(stage, claim)
    checkpoint, versions = checkpoint_with(VALUES)
    seen = []
    for _ in range(2):
        saved = await ours.aput(config_of(claim), checkpoint, {"source": "loop", "step": 0}, versions)
        await ours.aput_writes(saved, WRITES, str(UUID(int=1)))
        seen.append(await rows(stage))
    assert seen[0] == seen[1]


async def test_the_writes_of_a_retried_task_replace_the_earlier_ones(stage: Stage) -> None:
    claim = await stage.started()
    ours = saver(stage, claim)
    saved = await put(ours, config_of(claim), {"x": [0]})
    task, other = str(UUID(int=1)), str(UUID(int=2))
    await ours.aput_writes(saved, [("x", 9)], other)
    await ours.aput_writes(saved, [("x", 1), ("x", 2), ("y", 3)], task)
    await ours.aput_writes(saved, [("__error__", "boom")], task)
    await ours.aput_writes(saved, [("z", 4)], task)
    read = await ours.aget_tuple(saved)
    assert read is not None
    assert read.pending_writes is not None
    assert sorted(read.pending_writes) == [(task, "__error__", "boom"), (task, "z", 4), (other, "x", 9)]


async def test_a_task_that_asked_twice_saves_its_last_answers(stage: Stage) -> None:
    claim = await stage.started()
    ours = saver(stage, claim)
    saved = await put(ours, config_of(claim), {"x": [0]})
    task = str(UUID(int=1))
    await ours.aput_writes(saved, [("__resume__", ["yes"]), ("__resume__", ["yes", "no"]), ("x", 1)], task)
    read = await ours.aget_tuple(saved)
    assert read is not None
    assert read.pending_writes is not None
    assert sorted(read.pending_writes) == [(task, "__resume__", ["yes", "no"]), (task, "x", 1)]


async def test_saving_no_writes_is_no_lost_fence(stage: Stage) -> None:
    claim = await stage.started()
    ours = saver(stage, claim)
    await ours.aput_writes(await put(ours, config_of(claim), {}), [], str(UUID(int=1)))


# -- state updates ------------------------------------------------------------------------------------------------


async def edit(stage: Stage) -> tuple[UUID, FencedSaver, int]:
    thread_id = await stage.thread()
    token = await stage.threads.begin_edit(ANN, thread_id)
    return thread_id, FencedSaver(stage.database, fence=Fence("edit", thread_id, token)), token


async def test_a_state_update_writes_while_nothing_runs(stage: Stage) -> None:
    thread_id, ours, token = await edit(stage)
    saved = await put(ours, config_for(thread_id), VALUES)
    await ours.aput_writes(saved, WRITES, str(UUID(int=1)))
    await stage.threads.end_edit(thread_id, token, outcome())
    assert await stage.sql("SELECT 1 FROM holdfast.borrowed_writes") == []


@pytest.mark.parametrize("running", [True, False])
async def test_a_state_update_is_refused_once_a_run_exists_and_stays_refused_after_it(
    stage: Stage, running: bool
) -> None:
    thread_id, ours, token = await edit(stage)
    saved = await put(ours, config_for(thread_id), {"x": [0]})
    before = await rows(stage)
    run_id, admitted = await stage.admit(thread_id, worker_id=stage.worker_id if running else None)
    for _ in range(2):
        with pytest.raises(FenceLost):
            await put(ours, saved, {"x": [1]}, 1)
        with pytest.raises(FenceLost):
            await ours.aput_writes(saved, WRITES, str(UUID(int=1)))
        with pytest.raises(Conflict):
            await stage.threads.end_edit(thread_id, token, outcome())
        if admitted.claimed and await stage.run_status(run_id) == "running":
            await stage.runs.end(admitted.claimed, RunEnd(RunStatus.SUCCESS, outcome()))
    assert await rows(stage) == before


async def test_the_newer_of_two_state_updates_wins(stage: Stage) -> None:
    thread_id, older, token = await edit(stage)
    await stage.threads.begin_edit(ANN, thread_id)
    with pytest.raises(FenceLost):
        await put(older, config_for(thread_id), VALUES)
    with pytest.raises(Conflict):
        await stage.threads.end_edit(thread_id, token, outcome())


@pytest.mark.parametrize("verb", ["put", "end_edit", "begin_edit"])
async def test_an_admission_under_way_is_waited_for_and_beats_the_state_update(stage: Stage, verb: str) -> None:
    thread_id, ours, token = await edit(stage)
    edits = {
        "put": lambda: put(ours, config_for(thread_id), VALUES),
        "end_edit": lambda: stage.threads.end_edit(thread_id, token, outcome()),
        "begin_edit": lambda: stage.threads.begin_edit(ANN, thread_id),
    }
    async with stage.outside() as conn:
        # The foreign key check of the admission's insert waits for this lock, with the thread already locked.
        await conn.execute("BEGIN; LOCK TABLE holdfast.runs IN SHARE ROW EXCLUSIVE MODE")
        admitting = asyncio.create_task(stage.admit(thread_id, thread_status=["idle"]))
        await until(lambda: waits_for_a_lock(stage))
        editing = asyncio.create_task(edits[verb]())
        await until(lambda: two_wait(stage))
        await conn.execute("COMMIT")
    await admitting
    with pytest.raises((FenceLost, Conflict)):
        await editing
    assert (await rows(stage))["checkpoints"] == []


async def two_wait(stage: Stage) -> bool:
    return (
        len(
            await stage.sql(
                "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
        )
        == 2
    )


# -- real graphs --------------------------------------------------------------------------------------------------


class Anything(TypedDict, total=False):
    value: Any
    seen: Any


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


POISON = {
    "NUL": "a\x00b",
    "NUL inside": {"k\x00": ["v\x00"]},
    "not a number": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "minus zero": -0.0,
    "a large float": 1e16,
    "a huge float": 1.7976931348623157e308,
    "a tiny float": 5e-324,
    "a wide integer": 2**64,
    "the widest unsigned integer": 2**64 - 1,
    "a very negative integer": -(2**70),
    "wide integers inside": {"a": [2**64, -(2**70)], "b": {"c": 2**65}},
    "a wide integer in a tool call": [
        AIMessage("", id="1", tool_calls=[{"id": "c", "name": "t", "args": {"n": 2**80}, "type": "tool_call"}])
    ],
    "the edges of 64 bits": [2**63 - 1, -(2**63)],
    "a long integer": 2**63 - 1,
    "bytes": b"\x00\xff",
    "a set": {1, 2},
    "a frozenset": frozenset({"a"}),
    "an id": uuid4(),
    "deep nesting": nested(200),
    "integer keys": {1: {2: 3}},
    "a string beside true": "true",
    "true": True,
    "the empty string": "",
}


@pytest.mark.parametrize("value", POISON.values(), ids=POISON)
async def test_a_value_survives_a_graph_exactly(stage: Stage, value: Any) -> None:
    async def look(state: Anything) -> Anything:
        return {"seen": state["value"]}

    claim = await stage.started()
    graph = (
        StateGraph(Anything)
        .add_node("make", lambda _: {"value": value})
        .add_node("look", look)
        .add_edge(START, "make")
        .add_edge("make", "look")
        .compile(checkpointer=saver(stage, claim), interrupt_before=["look"])
    )
    await graph.ainvoke({}, config_of(claim), durability="sync")
    graph.checkpointer = saver(stage, claim)
    await graph.ainvoke(None, config_of(claim), durability="sync")
    read = (await graph.aget_state(config_of(claim))).values
    assert same(read["value"], value)
    assert same(read["seen"], value)


def same(one: Any, other: Any) -> bool:
    """Equal and of the same type; -0.0 is not 0.0, and nan is nan."""
    return type(one) is type(other) and (repr(one) == repr(other) if isinstance(one, float) else one == other)


@pytest.mark.parametrize("text", ["a\x00b", "a\ud800b"])
async def test_metadata_that_postgres_refuses_does_not_fail_a_run(stage: Stage, text: str) -> None:
    claim = await stage.started()
    config = config_of(claim) | {"metadata": {"label": text, "nested": {"x": [text]}, "nan": math.nan, "big": 2**70}}
    saved = await put(saver(stage, claim), config, {"x": 1})
    read = await saver(stage).aget_tuple(saved)
    assert read is not None
    assert set(read.metadata["label"]) <= set("a\ufffdb")  # type: ignore[typeddict-item]


@dataclass
class Foreign:
    secret: int


async def test_a_foreign_class_does_not_come_back_as_an_object(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    claim = await stage.started()
    saved = await put(saver(stage, claim), config_of(claim), {"x": [Foreign(7)]})
    read = await saver(stage).aget_tuple(saved)
    assert read is not None
    (found,) = read.checkpoint["channel_values"]["x"]
    assert not isinstance(found, Foreign)


async def test_losing_every_connection_in_the_middle_of_a_run_costs_the_run_nothing(stage: Stage) -> None:
    calls: list[str] = []

    async def step(state: Anything) -> Anything:
        calls.append("step")
        await stage.cut_all_connections()
        return {"value": [state["value"]]}

    claim = await stage.started()
    graph = (
        StateGraph(Anything)
        .add_node("first", step)
        .add_node("second", step)
        .add_edge(START, "first")
        .add_edge("first", "second")
        .compile(checkpointer=saver(stage, claim))
    )
    assert await graph.ainvoke({"value": 1}, config_of(claim), durability="sync") == {"value": [[1]]}
    assert calls == ["step", "step"]
    await stage.cut_all_connections()
    await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, outcome()))
    assert (await graph.aget_state(config_of(claim))).values == {"value": [[1]]}


# -- rollback -----------------------------------------------------------------------------------------------------
