"""LangGraph's own RemoteGraph, unmodified, against the server."""

from __future__ import annotations

import uuid

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphInterrupt
from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel
from langgraph.pregel.remote import RemoteException, RemoteGraph
from langgraph.types import Command
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import LangGraphClient

from tests.support.project.graphs import Chat, Log
from tests.support.server import Server


@pytest.fixture
async def config(sdk: LangGraphClient) -> RunnableConfig:
    """The config of a new thread."""
    return {"configurable": {"thread_id": (await sdk.threads.create())["thread_id"]}}


def remote(sdk: LangGraphClient, graph: str) -> RemoteGraph:
    return RemoteGraph(graph, client=sdk)


@pytest.mark.requirement("remote_graph.invoke")
@pytest.mark.anyio
async def test_a_remote_graph_is_invoked(sdk: LangGraphClient, config: RunnableConfig) -> None:
    values = await remote(sdk, "echo").ainvoke({"messages": [HumanMessage("hi")]}, config)
    assert [message["content"] for message in values["messages"]] == ["hi", "you said: hi"]


@pytest.mark.requirement("remote_graph.stateless")
@pytest.mark.anyio
async def test_a_remote_graph_needs_no_thread(sdk: LangGraphClient) -> None:
    assert await remote(sdk, "steps").ainvoke({"count": 2}) == {"log": [0, 1], "count": 2}


@pytest.mark.requirement("remote_graph.creates_thread")
@pytest.mark.anyio
async def test_a_remote_graph_creates_its_thread(sdk: LangGraphClient) -> None:
    thread = "5f9f43ad-3a43-4a3e-9a5f-6c50f2a7a001"
    await remote(sdk, "steps").ainvoke({"count": 1}, {"configurable": {"thread_id": thread}})
    assert (await sdk.threads.get(thread))["values"] == {"log": [0], "count": 1}
    await sdk.threads.delete(thread)


@pytest.mark.requirement("remote_graph.stream")
@pytest.mark.anyio
async def test_a_remote_graph_streams(sdk: LangGraphClient, config: RunnableConfig) -> None:
    graph = remote(sdk, "steps")
    updates = [part async for part in graph.astream({"count": 2}, config, stream_mode="updates")]
    assert updates == [{"step": {"log": [0]}}, {"step": {"log": [1]}}]
    both = [part async for part in graph.astream({"count": 3}, config, stream_mode=["updates", "values"])]
    assert [part[0] for part in both] == ["values", "updates", "values"]


@pytest.mark.requirement("remote_graph.subgraphs")
@pytest.mark.anyio
async def test_a_remote_graph_streams_subgraphs_with_their_namespace(
    sdk: LangGraphClient, config: RunnableConfig
) -> None:
    given = {"messages": [HumanMessage("hi")]}
    parts = [part async for part in remote(sdk, "nested").astream(given, config, stream_mode="updates", subgraphs=True)]
    [inner, outer] = parts
    assert inner[0][0].startswith("child:")
    assert outer[0] == ()


@pytest.mark.requirement("remote_graph.resume")
@pytest.mark.anyio
async def test_a_remote_graph_asks_and_is_answered(sdk: LangGraphClient, config: RunnableConfig) -> None:
    graph = remote(sdk, "approve")
    asked = await graph.ainvoke({}, config)
    assert asked["__interrupt__"][0]["value"] == {"question": "may I?"}
    state = await graph.aget_state(config)
    assert state.next == ("ask",)
    assert state.interrupts[0].value == {"question": "may I?"}
    assert (await graph.ainvoke(Command(resume="yes"), config))["log"] == ["yes", "done"]


@pytest.mark.requirement("remote_graph.states")
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


@pytest.mark.requirement("remote_graph.history_before")
@pytest.mark.anyio
async def test_a_remote_graph_reads_the_history_before_a_checkpoint(
    sdk: LangGraphClient, config: RunnableConfig
) -> None:
    graph = remote(sdk, "steps")
    await graph.ainvoke({"count": 2}, config)
    history = [snapshot async for snapshot in graph.aget_state_history(config)]
    earlier = [snapshot async for snapshot in graph.aget_state_history(config, before=history[1].config)]
    assert [snapshot.config for snapshot in earlier] == [snapshot.config for snapshot in history[2:]]


@pytest.mark.requirement("remote_graph.graph")
@pytest.mark.anyio
async def test_a_remote_graph_draws_itself(sdk: LangGraphClient) -> None:
    drawing = await remote(sdk, "steps").aget_graph()
    assert set(drawing.nodes) == {"__start__", "step", "__end__"}
    inside = await remote(sdk, "nested").aget_graph(xray=True)
    assert "child:inside" in inside.nodes


@pytest.mark.requirement("remote_graph.interrupt_up")
@pytest.mark.anyio
async def test_a_remote_graph_inside_a_graph_hands_its_question_up(
    sdk: LangGraphClient, config: RunnableConfig
) -> None:
    graph = remote(sdk, "approve")
    inner: RunnableConfig = {"configurable": {**config["configurable"], "checkpoint_ns": "outer:1"}}
    with pytest.raises(GraphInterrupt):
        async for _ in graph.astream({}, inner, stream_mode="updates"):
            pass


def parent_of(node: RemoteGraph, schema: type) -> Pregel:
    """A local graph with the remote one as its only node."""
    builder = StateGraph(schema).add_node("remote", node).add_edge(START, "remote")
    return builder.compile(checkpointer=InMemorySaver())


@pytest.mark.requirement("remote_graph.node")
@pytest.mark.anyio
async def test_a_remote_graph_is_a_node_of_a_local_one(sdk: LangGraphClient) -> None:
    graph = parent_of(remote(sdk, "echo"), Chat)
    config: RunnableConfig = {"configurable": {"thread_id": str(uuid.uuid4())}}
    given = {"messages": [HumanMessage("hi", id="one")]}
    parts = [part async for part in graph.astream(given, config, stream_mode="messages", subgraphs=True)]
    assert "".join(part[1][0]["content"] for part in parts).startswith("you said: hi")
    messages = (await graph.aget_state(config)).values["messages"]
    assert [message.content for message in messages] == ["hi", "you said: hi"]


@pytest.mark.requirement("remote_graph.nested_resume")
@pytest.mark.parametrize("name", ["approve", "nested_ask"])
@pytest.mark.anyio
async def test_a_question_of_a_remote_node_is_answered_through_its_parent(sdk: LangGraphClient, name: str) -> None:
    graph = parent_of(remote(sdk, name), Log)
    config: RunnableConfig = {"configurable": {"thread_id": str(uuid.uuid4())}}
    asked = await graph.ainvoke({"log": []}, config)
    [question] = asked["__interrupt__"]
    assert question.value == {"question": "may I?"}
    # A bare value never leaves the parent (RemoteGraph sends none): the question is asked again, not answered by it.
    again = await graph.ainvoke(Command(resume="bare"), config)
    assert [asked.id for asked in again["__interrupt__"]] == [question.id]
    answered = await graph.ainvoke(Command(resume={question.id: "yes"}), config)
    assert answered["log"][0] == "yes"
    assert "__interrupt__" not in answered


@pytest.mark.requirement("remote_graph.error")
@pytest.mark.anyio
async def test_a_failing_remote_node_fails_its_parent(sdk: LangGraphClient) -> None:
    graph = parent_of(remote(sdk, "failing"), Log)
    with pytest.raises(RemoteException, match="as told"):
        await graph.ainvoke({"log": []}, {"configurable": {"thread_id": str(uuid.uuid4())}})


@pytest.mark.requirement("remote_graph.sync")
def test_a_remote_graph_works_without_an_event_loop(server: Server) -> None:
    with get_sync_client(url=server.url) as client:
        graph = RemoteGraph("steps", sync_client=client)
        config: RunnableConfig = {"configurable": {"thread_id": str(uuid.uuid4())}}
        assert graph.invoke({"count": 1}, config) == {"log": [0], "count": 1}
        assert list(graph.stream({"count": 2}, config, stream_mode="updates")) == [{"step": {"log": [1]}}]
        state = graph.get_state(config)
        assert state.values["log"] == [0, 1]
        graph.update_state(config, {"log": ["mine"]}, as_node="step")
        assert graph.get_state(config).values["log"] == [0, 1, "mine"]
        assert len(list(graph.get_state_history(config, limit=3))) == 3
        assert set(graph.get_graph().nodes) == {"__start__", "step", "__end__"}
