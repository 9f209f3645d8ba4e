from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk
from langgraph.types import Command

from holdfast.errors import Invalid
from holdfast.wire import codec
from holdfast.wire.modes import STREAM_MODES, Modes, asked_modes
from tests.wire.graphs import (
    conversation,
    events_of,
    failing,
    thread,
    two_questions,
    two_questions_inside,
)

pytestmark = pytest.mark.anyio
MODES_OF_A_GRAPH = ["values", "updates", "custom", "tasks", "checkpoints", "debug", "messages-tuple"]


def modes(*requested: str, subgraphs: bool = False) -> Modes:
    return Modes(requested, subgraphs=subgraphs)


def named(events: Iterable[tuple[str, Any]], name: str) -> list[Any]:
    return [data for event, data in events if event == name]


def kinds(events: Iterable[tuple[str, Any]]) -> set[str]:
    return {event.partition("|")[0] for event, _ in events}


async def test_langgraph_is_asked_for_what_was_requested_in_one_order() -> None:
    assert modes("debug", "messages-tuple", "values").graph_modes == ["values", "messages", "debug"]
    assert modes("messages", "messages-tuple").graph_modes == ["messages"]
    assert (modes("events").graph_modes, modes("events").uses_events) == ([], True)
    assert not modes("values").uses_events
    assert len(STREAM_MODES) == 11
    lifecycle = modes("values", "lifecycle")
    assert (lifecycle.graph_modes, lifecycle.graph_subgraphs) == (["values", "tasks"], True)
    assert not modes("tools").graph_subgraphs


async def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="tool_calls"):
        modes("values", "tool_calls")


@pytest.mark.parametrize(
    "asked",
    [["values", "tasks"], ["values,tasks"], [" tasks , values,"], ['["tasks","values"]'], ["tasks", '["values"]']],
)
async def test_modes_are_asked_for_in_three_spellings(asked: list[str]) -> None:
    assert asked_modes(asked, STREAM_MODES) == {"values", "tasks"}


@pytest.mark.parametrize("asked", ["nope", "values,nope", "[", '["nope"]', "[1]", '[["values"]]', "[null]"])
async def test_what_is_no_mode_is_refused(asked: str) -> None:
    with pytest.raises(Invalid):
        asked_modes([asked], STREAM_MODES)
    assert asked_modes(["", "[]"], STREAM_MODES) == frozenset()


async def test_a_chunk_of_a_mode_that_nobody_asked_for_makes_no_event() -> None:
    assert list(modes("values").events((), "updates", {"a": 1})) == []


async def test_values_are_the_whole_state_after_each_step() -> None:
    events = await events_of(conversation(), modes("values"))
    assert [len(data["messages"]) for data in named(events, "values")] == [1, 2, 3, 4]
    assert named(events, "values")[1]["messages"][1]["type"] == "ai"


async def test_updates_and_custom_events_come_in_the_order_they_happened() -> None:
    events = await events_of(conversation(), modes("updates", "custom"))
    assert [(name, *data) for name, data in events] == [
        ("updates", "agent"),
        ("custom", "progress"),
        ("updates", "tool"),
        ("updates", "sub"),
    ]


async def test_tokens_are_sent_as_pairs_of_chunk_and_metadata() -> None:
    events = await events_of(conversation(), modes("messages-tuple"))
    assert kinds(events) == {"messages"}
    chunks = [chunk for chunk, _ in named(events, "messages") if chunk["type"] == "AIMessageChunk"]
    assert [chunk["content"] for chunk in chunks] == ["hello", " ", "big", " ", "world"]
    assert chunks[-1]["chunk_position"] == "last"
    whole, metadata = named(events, "messages")[5]
    assert (whole["type"], whole["id"], metadata["langgraph_node"]) == ("tool", "t1", "tool")


async def test_messages_are_added_up_and_their_metadata_comes_first_and_once() -> None:
    events = await events_of(conversation(), modes("messages"))
    assert [name for name, _ in events] == [
        "messages/metadata",
        *["messages/partial"] * 5,
        "messages/metadata",
        "messages/complete",
        # The subgraph's final message is part of what its node hands to the outer graph.
        "messages/metadata",
        "messages/complete",
    ]
    assert events[0][1]["a1"]["metadata"]["langgraph_node"] == "agent"
    partial = named(events, "messages/partial")
    assert [message["content"] for (message,) in partial][-2:] == ["hello big ", "hello big world"]
    assert {message["type"] for (message,) in partial} == {"ai"}
    assert "tool_call_chunks" not in partial[0][0]
    (complete,) = named(events, "messages/complete")[0]
    assert (complete["type"], complete["content"]) == ("tool", "42")


async def test_two_messages_that_interleave_are_kept_apart() -> None:
    accumulate = modes("messages")
    parts = [("x", "1"), ("y", "8"), ("x", "2"), ("y", "9")]
    events = [
        event
        for key, text in parts
        for event in accumulate.events((), "messages", (AIMessageChunk(text, id=key), {"node": key}))
    ]
    assert [data[0].content for name, data in events if name == "messages/partial"] == ["1", "8", "12", "89"]
    assert [codec.loads(codec.dumps(data)) for data in named(events, "messages/metadata")] == [
        {"x": {"metadata": {"node": "x"}}},
        {"y": {"metadata": {"node": "y"}}},
    ]


async def test_chunks_of_a_remote_subgraph_are_added_up_too() -> None:
    accumulate = modes("messages", subgraphs=True)
    events = [
        event
        for text in ("1", "2")
        for event in accumulate.events(("sub:1",), "messages", [AIMessageChunk(text, id="r").model_dump(), {}])
    ]
    partial = [data[0].content for name, data in events if name == "messages/partial"]
    assert partial == ["1", "12"]
    whole = {"type": "tool", "id": "t", "content": "x"}
    assert list(accumulate.events((), "messages", [whole, {}]))[-1] == ("messages/complete", [whole])


async def test_tuples_win_when_both_kinds_of_messages_are_asked_for() -> None:
    assert kinds(await events_of(conversation(), modes("messages", "messages-tuple"))) == {"messages"}


async def test_without_subgraphs_nothing_of_a_subgraph_is_sent() -> None:
    events = await events_of(conversation(), modes(*MODES_OF_A_GRAPH))
    assert not [name for name, _ in events if "|" in name]
    assert not [chunk for chunk, _ in named(events, "messages") if chunk["content"] == "deep"]
    quiet = modes("custom", "messages-tuple")
    assert list(quiet.events(("sub:1",), "custom", 1)) == []


async def test_with_subgraphs_the_name_says_where_an_event_comes_from() -> None:
    events = await events_of(conversation(), modes(*MODES_OF_A_GRAPH, subgraphs=True))
    task = next(data["id"] for data in named(events, "tasks") if data["name"] == "sub")
    nested = {name for name, _ in events if "|" in name}
    assert nested == {
        f"{mode}|sub:{task}" for mode in ("values", "updates", "tasks", "checkpoints", "debug", "messages")
    }
    tokens = [chunk["content"] for chunk, _ in named(events, f"messages|sub:{task}")]
    assert tokens == ["deep", " ", "words"]


async def test_the_name_of_an_event_stays_on_one_line() -> None:
    ((name, _),) = modes("custom", subgraphs=True).events(("a\r\nb:1", "c:2"), "custom", 1)
    assert name == "custom|a b:1|c:2"


@pytest.mark.parametrize("mode", ["values", "updates"])
async def test_each_stopped_task_shows_its_interrupt(mode: str) -> None:
    events = await events_of(two_questions(), modes(mode))
    stopped = [data["__interrupt__"] for data in named(events, mode) if "__interrupt__" in data]
    assert [[(one["value"], one["response_schema"]) for one in tasks] for tasks in stopped] == [
        [({"question": "left?"}, None)],
        [({"question": "right?"}, None)],
    ]
    assert all(set(one) == {"value", "id", "response_schema"} for tasks in stopped for one in tasks)
    if mode == "values":
        assert all(data["messages"] for data in named(events, mode))


async def test_the_questions_of_a_subgraph_reach_the_outer_graph_together() -> None:
    events = await events_of(two_questions_inside(), modes("updates", "values"))
    for mode in ("updates", "values"):
        (interrupts,) = [data["__interrupt__"] for data in named(events, mode) if "__interrupt__" in data]
        assert len(interrupts) == 2


async def test_a_static_breakpoint_is_an_empty_list_of_interrupts() -> None:
    events = await events_of(conversation(), modes("values", "updates"), interrupt_before=["tool"])
    assert events[-1] == ("updates", {"__interrupt__": []})
    assert not [data for data in named(events, "values") if "__interrupt__" in data]


async def test_a_resumed_run_streams_on() -> None:
    graph = two_questions()
    await events_of(graph, modes("values"))
    ids = [one.id for one in (await graph.aget_state(thread())).interrupts]
    events = await events_of(graph, modes("updates", "values"), Command(resume=dict.fromkeys(ids, "ok")))
    assert named(events, "updates") == [{"left": {"steps": ["ok"]}}, {"right": {"steps": ["ok"]}}]
    assert named(events, "values")[-1]["steps"] == ["ok", "ok"]


async def test_tasks_report_their_start_and_their_end() -> None:
    config = thread() | {"metadata": {"team": "red", "handle": object(), "langgraph_auth_user_id": "ann"}}
    events = await events_of(conversation(), modes("tasks"), config=config)
    start, end = named(events, "tasks")[:2]
    assert start | {"input": None} == {
        "id": end["id"],
        "name": "agent",
        "input": None,
        "triggers": ["branch:to:agent"],
        "metadata": {"team": "red"},
    }
    assert set(end) == {"id", "name", "error", "result", "interrupts"}


async def test_a_failed_task_reports_its_error_as_an_object() -> None:
    seen: list[tuple[str, Any]] = []
    with pytest.raises(ValueError, match="boom"):
        await events_of(failing(), modes("tasks"), into=seen)
    assert named(seen, "tasks")[-1]["error"] == {"error": "ValueError", "message": "boom"}


async def test_debug_checkpoints_say_which_checkpoint_they_are() -> None:
    events = await events_of(conversation(), modes("debug", "checkpoints"))
    payloads = [data["payload"] for data in named(events, "debug") if data["type"] == "checkpoint"]
    assert payloads[0]["parent_checkpoint"] is None
    for earlier, later in pairwise(payloads):
        assert later["parent_checkpoint"] == earlier["checkpoint"]
    assert set(payloads[0]["checkpoint"]) == {"checkpoint_id", "thread_id", "checkpoint_ns"}
    (task,) = next(payload["tasks"] for payload in payloads if payload["next"] == ["sub"])
    assert task["checkpoint"] == {"thread_id": "t", "checkpoint_ns": f"sub:{task['id']}"}
    assert "state" not in task
    assert {data["type"] for data in named(events, "debug")} == {"checkpoint", "task", "task_result"}


async def test_checkpoints_are_langgraphs_own() -> None:
    events = await events_of(conversation(), modes("checkpoints"))
    payload = next(data for data in named(events, "checkpoints") if data["next"] == ["sub"])
    assert set(payload) == {"config", "parent_config", "values", "metadata", "next", "tasks"}
    (task,) = payload["tasks"]
    assert task["state"]["configurable"]["checkpoint_ns"] == f"sub:{task['id']}"


async def test_a_nested_checkpoint_carries_its_map() -> None:
    events = await events_of(conversation(), modes("debug", subgraphs=True))
    nested = next(data for name, data in events if "|" in name and data["type"] == "checkpoint")
    assert "" in nested["payload"]["checkpoint"]["checkpoint_map"]


async def test_no_internal_key_and_no_live_object_leaves_the_server() -> None:
    config = thread(langgraph_auth_user={"token": "hush"}, handle=object(), __pregel_note="x", user="ann")
    config["metadata"] = {"langgraph_auth_user_id": "hush", "handle": object()}
    events = await events_of(conversation(), modes(*MODES_OF_A_GRAPH, "events", subgraphs=True), config=config)
    text = repr(events)
    assert "hush" not in text
    assert "object at" not in text
    # These two occur as values too: a task's path begins with the first.
    assert "'__pregel_note'" not in text
    first = named(events, "checkpoints")[0]
    assert first["config"]["configurable"]["user"] == "ann"


async def test_events_carry_the_chunks_of_the_other_modes_along() -> None:
    plain = await events_of(conversation(), modes("values", "messages-tuple", subgraphs=True))
    events = await events_of(conversation(), modes("values", "messages-tuple", "events", subgraphs=True))
    others = [name.partition(":")[0] for name, _ in events if name != "events"]
    assert others == [name.partition(":")[0] for name, _ in plain]
    seen = {data["event"] for data in named(events, "events")}
    assert {"on_chain_start", "on_chat_model_stream", "on_chain_end"} <= seen
    roots = [data for data in named(events, "events") if not data["parent_ids"]]
    assert [data["event"] for data in roots] == ["on_chain_start", "on_chain_end"]


async def test_events_alone_need_no_mode_of_the_graph() -> None:
    events = await events_of(conversation(), modes("events"))
    assert kinds(events) == {"events"}
    tokens = [data["data"]["chunk"]["content"] for data in named(events, "events") if "model_stream" in data["event"]]
    assert tokens[:3] == ["hello", " ", "big"]


async def test_hidden_runs_are_dropped_from_events() -> None:
    read = modes("events")
    item: Any = {"event": "on_chain_start", "run_id": "1", "metadata": {}, "data": {}, "parent_ids": []}
    assert list(read.langchain_event(item | {"tags": []})) != []
    assert list(read.langchain_event(item | {"run_id": "2", "tags": ["langsmith:hidden"]})) == []
