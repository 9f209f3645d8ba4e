from __future__ import annotations

from typing import Any

import pytest
from langgraph.types import Command, Interrupt, PregelTask, StateSnapshot

from holdfast.wire.codec import dumps, loads
from holdfast.wire.state import checkpoint_of, interrupts_by_task, public_config, thread_state
from tests.wire.graphs import INPUT, Graph, conversation, failing, thread, two_questions, two_questions_inside

FIELDS = {
    "values", "next", "tasks", "metadata", "created_at", "checkpoint", "parent_checkpoint", "interrupts",
    "checkpoint_id", "parent_checkpoint_id",
}  # fmt: skip


async def state_of(graph: Graph, **options: Any) -> dict[str, Any]:
    state = loads(dumps(thread_state(await graph.aget_state(thread(), **options))))
    assert isinstance(state, dict)
    return state


@pytest.mark.anyio
async def test_a_thread_without_a_checkpoint_is_empty() -> None:
    state = await state_of(conversation())
    assert state == dict.fromkeys(FIELDS) | {"values": {}, "next": [], "tasks": [], "interrupts": []}


@pytest.mark.anyio
async def test_an_unknown_checkpoint_is_empty_but_named() -> None:
    config = thread(checkpoint_ns="", checkpoint_id="1f000000-0000-6000-8000-000000000000")
    state = thread_state(await conversation().aget_state(config))
    assert state["values"] == {}
    assert state["checkpoint_id"] == "1f000000-0000-6000-8000-000000000000"
    assert state["checkpoint"] == config["configurable"]


@pytest.mark.anyio
async def test_a_finished_thread_shows_its_values_and_where_it_stands() -> None:
    graph = conversation()
    await graph.ainvoke(INPUT, thread(user="ann"))
    state = await state_of(graph)
    assert set(state) == FIELDS
    assert [message["id"] for message in state["values"]["messages"]] == ["h1", "a1", "t1", "a2"]
    assert (state["next"], state["tasks"], state["interrupts"]) == ([], [], [])
    assert state["metadata"] == {"source": "loop", "step": 3, "parents": {}, "user": "ann"}
    assert state["checkpoint"] == {"checkpoint_id": state["checkpoint_id"], "thread_id": "t", "checkpoint_ns": ""}
    assert state["parent_checkpoint"]["checkpoint_id"] == state["parent_checkpoint_id"] < state["checkpoint_id"]
    assert state["created_at"].endswith("+00:00")


@pytest.mark.anyio
async def test_history_rows_carry_the_results_of_their_tasks() -> None:
    graph = conversation()
    await graph.ainvoke(INPUT, thread())
    rows = [thread_state(snapshot) async for snapshot in graph.aget_state_history(thread())]
    results = {task["name"]: task["result"] for row in rows for task in row["tasks"]}
    assert results["tool"]["steps"] == ["tool"]
    assert rows[0]["parent_checkpoint_id"] == rows[1]["checkpoint_id"]
    assert rows[-1]["parent_checkpoint"] is None


@pytest.mark.anyio
async def test_two_open_questions_are_listed_three_times() -> None:
    graph = two_questions()
    await graph.ainvoke(INPUT, thread())
    snapshot = await graph.aget_state(thread())
    state = await state_of(graph)
    assert state["next"] == ["left", "right"]
    assert [set(interrupt) for interrupt in state["interrupts"]] == [{"id", "value"}] * 2
    assert [interrupt["value"] for interrupt in state["interrupts"]] == [{"question": "left?"}, {"question": "right?"}]
    assert [task["interrupts"] for task in state["tasks"]] == [[one] for one in state["interrupts"]]
    assert interrupts_by_task(snapshot) == {task["id"]: task["interrupts"] for task in state["tasks"]}
    assert state["tasks"][0] | {"id": "", "interrupts": []} == {
        "id": "", "name": "left", "path": ["__pregel_pull", "left"], "error": None, "interrupts": [],
        "checkpoint": None, "state": None, "result": None,
    }  # fmt: skip


@pytest.mark.anyio
async def test_an_answered_question_is_no_longer_open_while_its_neighbour_waits() -> None:
    graph = two_questions()
    await graph.ainvoke(INPUT, thread())
    left, right = (await graph.aget_state(thread())).tasks
    await graph.ainvoke(Command(resume={left.interrupts[0].id: "yes"}), thread())
    snapshot = await graph.aget_state(thread())
    assert interrupts_by_task(snapshot) == {right.id: [{"id": right.interrupts[0].id, "value": {"question": "right?"}}]}
    by_id = await graph.aget_state(snapshot.config)
    assert interrupts_by_task(by_id) == interrupts_by_task(snapshot)


@pytest.mark.anyio
async def test_a_task_with_two_questions_keeps_the_one_that_is_left() -> None:
    graph = two_questions_inside()
    await graph.ainvoke(INPUT, thread())
    (task,) = (await graph.aget_state(thread())).tasks
    assert len(task.interrupts) == 2
    answered, left = task.interrupts
    await graph.ainvoke(Command(resume={answered.id: "yes"}), thread())
    assert interrupts_by_task(await graph.aget_state(thread())) == {task.id: [{"id": left.id, "value": left.value}]}


@pytest.mark.anyio
async def test_a_subgraphs_task_has_a_checkpoint_or_on_request_its_state() -> None:
    graph = two_questions_inside()
    await graph.ainvoke(INPUT, thread())
    (task,) = (await state_of(graph))["tasks"]
    assert (task["checkpoint"], task["state"]) == ({"thread_id": "t", "checkpoint_ns": f"sub:{task['id']}"}, None)
    (task,) = (await state_of(graph, subgraphs=True))["tasks"]
    assert task["checkpoint"] is None
    assert set(task["state"]) == FIELDS
    assert task["state"]["next"] == ["left", "right"]
    assert task["state"]["checkpoint"]["checkpoint_ns"] == f"sub:{task['id']}"
    assert set(task["state"]["checkpoint"]["checkpoint_map"]) == {"", f"sub:{task['id']}"}


@pytest.mark.anyio
async def test_a_failed_task_shows_its_error_as_text() -> None:
    graph = failing()
    with pytest.raises(ValueError, match="boom"):
        await graph.ainvoke(INPUT, thread())
    (task,) = (await state_of(graph))["tasks"]
    assert task["error"] == "ValueError('boom')"
    exception = PregelTask("1", "fail", (), error=ValueError("boom"))
    snapshot = StateSnapshot({}, (), thread(), None, None, None, (exception,), ())
    assert thread_state(snapshot)["tasks"][0]["error"] == "ValueError('boom')"


def test_a_response_schema_is_shown_only_when_there_is_one() -> None:
    interrupts = (Interrupt(1, id="a"), Interrupt(2, id="b", response_schema={"type": "integer"}))
    snapshot = StateSnapshot({}, (), thread(), None, None, None, (), interrupts)
    assert thread_state(snapshot)["interrupts"] == [
        {"id": "a", "value": 1},
        {"id": "b", "value": 2, "response_schema": {"type": "integer"}},
    ]


def test_a_checkpoint_holds_only_what_the_config_says() -> None:
    assert checkpoint_of(thread(checkpoint_ns="", user="ann")) == {"thread_id": "t", "checkpoint_ns": ""}
    assert checkpoint_of({}) == {}


def test_a_public_config_has_no_internals_no_credentials_and_no_live_objects() -> None:
    config = thread(
        user="ann",
        tags=["a", ("b", 1)],
        client=object(),
        nested={"client": object()},
        langgraph_auth_user={"token": "x"},
        langgraph_auth_permissions=["all"],
        __pregel_send=print,
    )
    assert public_config(config) == {"configurable": {"thread_id": "t", "user": "ann", "tags": ["a", ("b", 1)]}}


def test_metadata_that_never_ends_is_left_out() -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    assert public_config(thread(loop=loop)) == {"configurable": {"thread_id": "t"}}
