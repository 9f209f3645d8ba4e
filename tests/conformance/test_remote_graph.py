"""LangGraph's own RemoteGraph, unmodified, against the server."""

from __future__ import annotations

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphInterrupt
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command
from langgraph_sdk.client import LangGraphClient


@pytest.fixture
async def config(sdk: LangGraphClient) -> RunnableConfig:
    """The config of a new thread."""
    return {"configurable": {"thread_id": (await sdk.threads.create())["thread_id"]}}


def remote(sdk: LangGraphClient, graph: str) -> RemoteGraph:
    return RemoteGraph(graph, client=sdk)


@pytest.mark.anyio
async def test_a_remote_graph_is_invoked(sdk: LangGraphClient, config: RunnableConfig) -> None:
    values = await remote(sdk, "echo").ainvoke({"messages": [HumanMessage("hi")]}, config)
    assert [message["content"] for message in values["messages"]] == ["hi", "you said: hi"]


@pytest.mark.anyio
async def test_a_remote_graph_needs_no_thread(sdk: LangGraphClient) -> None:
    assert await remote(sdk, "steps").ainvoke({"count": 2}) == {"log": [0, 1], "count": 2}


@pytest.mark.anyio
async def test_a_remote_graph_creates_its_thread(sdk: LangGraphClient) -> None:
    thread = "5f9f43ad-3a43-4a3e-9a5f-6c50f2a7a001"
    await remote(sdk, "steps").ainvoke({"count": 1}, {"configurable": {"thread_id": thread}})
    assert (await sdk.threads.get(thread))["values"] == {"log": [0], "count": 1}
    await sdk.threads.delete(thread)


@pytest.mark.anyio
async def test_a_remote_graph_streams(sdk: LangGraphClient, config: RunnableConfig) -> None:
    graph = remote(sdk, "steps")
    updates = [part async for part in graph.astream({"count": 2}, config, stream_mode="updates")]
    assert updates == [{"step": {"log": [0]}}, {"step": {"log": [1]}}]
    both = [part async for part in graph.astream({"count": 3}, config, stream_mode=["updates", "values"])]
    assert [part[0] for part in both] == ["values", "updates", "values"]


@pytest.mark.anyio
async def test_a_remote_graph_streams_subgraphs_with_their_namespace(
    sdk: LangGraphClient, config: RunnableConfig
) -> None:
    given = {"messages": [HumanMessage("hi")]}
    parts = [part async for part in remote(sdk, "nested").astream(given, config, stream_mode="updates", subgraphs=True)]
    [inner, outer] = parts
    assert inner[0][0].startswith("child:")
    assert outer[0] == ()


@pytest.mark.anyio
async def test_a_remote_graph_asks_and_is_answered(sdk: LangGraphClient, config: RunnableConfig) -> None:
    graph = remote(sdk, "approve")
    asked = await graph.ainvoke({}, config)
    assert asked["__interrupt__"][0]["value"] == {"question": "may I?"}
    state = await graph.aget_state(config)
    assert state.next == ("ask",)
    assert state.interrupts[0].value == {"question": "may I?"}
    assert (await graph.ainvoke(Command(resume="yes"), config))["log"] == ["yes", "done"]


@pytest.mark.anyio
async def test_a_remote_graph_reads_and_updates_states(sdk: LangGraphClient, config: RunnableConfig) -> None:
    graph = remote(sdk, "steps")
    await graph.ainvoke({"count": 1}, config)
    state = await graph.aget_state(config)
    assert state.values == {"log": [0], "count": 1}
    updated = await graph.aupdate_state(config, {"log": ["mine"]}, as_node="step")
    assert updated["configurable"]["checkpoint_id"] != state.config["configurable"]["checkpoint_id"]
    assert (await graph.aget_state(config)).values["log"] == [0, "mine"]
    history = [snapshot async for snapshot in graph.aget_state_history(config)]
    assert [len(snapshot.values.get("log", [])) for snapshot in history] == [2, 1, 0, 0]
    assert history[1].config["configurable"]["checkpoint_id"] == state.config["configurable"]["checkpoint_id"]
    earlier = [snapshot async for snapshot in graph.aget_state_history(config, before=history[1].config)]
    assert [snapshot.config for snapshot in earlier] == [snapshot.config for snapshot in history[2:]]


@pytest.mark.anyio
async def test_a_remote_graph_draws_itself(sdk: LangGraphClient) -> None:
    drawing = await remote(sdk, "steps").aget_graph()
    assert set(drawing.nodes) == {"__start__", "step", "__end__"}
    inside = await remote(sdk, "nested").aget_graph(xray=True)
    assert "child:inside" in inside.nodes


@pytest.mark.anyio
async def test_a_remote_graph_inside_a_graph_hands_its_question_up(
    sdk: LangGraphClient, config: RunnableConfig
) -> None:
    graph = remote(sdk, "approve")
    inner: RunnableConfig = {"configurable": {**config["configurable"], "checkpoint_ns": "outer:1"}}
    with pytest.raises(GraphInterrupt):
        async for _ in graph.astream({}, inner, stream_mode="updates"):
            pass
