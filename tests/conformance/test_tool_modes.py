"""The stream modes `tools` and `lifecycle`, in the shapes that the SDKs' types promise."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.conformance.test_streams import replay
from tests.support.talk import Event, stream


def asking(*tools: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": " ".join(tools)}]}


def said(events: list[Event], name: str) -> list[Any]:
    return [event.data for event in events if event.name.partition("|")[0] == name]


@pytest.mark.requirement("streams.tools")
def test_a_tools_progress_is_streamed(http: httpx.Client, thread: str) -> None:
    events = stream(http, thread, "tooled", input=asking("look"), stream_mode="tools")
    assert [event.name for event in events] == ["metadata"] + ["tools"] * 4
    who = {"toolCallId": "call-look", "name": "look"}
    *progress, end = said(events, "tools")
    assert progress == [
        {"event": "on_tool_start", **who, "input": {"what": "it"}},
        {"event": "on_tool_event", **who, "data": "first"},
        {"event": "on_tool_event", **who, "data": "second"},
    ]
    assert end.items() >= {"event": "on_tool_end", **who}.items()
    assert (end["output"]["type"], end["output"]["content"]) == ("tool", "found it")


@pytest.mark.requirement("streams.tools")
def test_a_tool_that_fails_says_why(http: httpx.Client, thread: str) -> None:
    events = stream(http, thread, "tooled", input=asking("stumble"), stream_mode=["tools"])
    assert said(events, "tools")[1:] == [
        {"event": "on_tool_error", "toolCallId": "call-stumble", "name": "stumble", "error": "as told"}
    ]
    assert events[-1].name == "error"


@pytest.mark.requirement("streams.lifecycle")
def test_a_subgraphs_start_and_end_name_the_tool_call_behind_it(http: httpx.Client, thread: str) -> None:
    events = stream(http, thread, "tooled", input=asking("delegate", "look"), stream_mode="lifecycle")
    start, end = said(events, "lifecycle")
    assert start["event"] == "started"
    assert start["graph_name"] == "helper"
    assert start["cause"] == {"type": "toolCall", "tool_call_id": "call-delegate"}
    assert start["namespace"] == [f"tools:{start['trigger_call_id']}"]
    assert end == {"event": "completed", "namespace": start["namespace"]}


@pytest.mark.requirement("streams.lifecycle")
@pytest.mark.parametrize(("graph", "ending"), [("nested", "completed"), ("nested_ask", "interrupted")])
def test_lifecycle_tells_of_subgraphs_and_shows_nothing_else_of_them(
    http: httpx.Client, thread: str, graph: str, ending: str
) -> None:
    given = asking("hello") if graph == "nested" else {}
    for subgraphs in (False, True):
        events = stream(
            http,
            thread,
            graph,
            input=given,
            stream_mode=["lifecycle", "values", "tasks"],
            stream_subgraphs=subgraphs,
            multitask_strategy="reject",
        )
        assert [data["event"] for data in said(events, "lifecycle")] == ["started", ending]
        assert any("|" in event.name for event in events) is subgraphs
    without = stream(http, thread, graph, input=given, stream_mode=["lifecycle", "values"])
    assert said(without, "tasks") == []


@pytest.mark.requirement("streams.join_filter")
def test_both_modes_are_filters_of_a_join(http: httpx.Client, thread: str) -> None:
    live = stream(http, thread, "tooled", input=asking("delegate"), stream_mode=["tools", "lifecycle", "updates"])
    for mode in ("tools", "lifecycle"):
        again = replay(http, thread, live[0].data["run_id"], stream_mode=mode)
        assert again.content == b"".join(event.raw for event in live if event.name == mode)
