"""Small real graphs that do one thing each, for the tests of this folder."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator
from typing import Annotated, Any

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import interrupt

from holdfast.wire.codec import dumps, loads
from holdfast.wire.modes import Modes

Graph = CompiledStateGraph[Any, Any, Any, Any]
INPUT = {"messages": [{"type": "human", "content": "hi", "id": "h1"}], "steps": []}


class State(MessagesState):
    steps: Annotated[list[Any], operator.add]


def _speaker(text: str, message_id: str) -> Any:
    async def speak(state: State, config: RunnableConfig) -> dict[str, Any]:
        model = GenericFakeChatModel(messages=iter([AIMessage(text, id=message_id)]))
        return {"messages": [await model.ainvoke(state["messages"], config)]}

    return speak


def _tool(state: State) -> dict[str, Any]:
    get_stream_writer()({"progress": 50})
    return {"messages": [ToolMessage("42", tool_call_id="c1", id="t1")], "steps": ["tool"]}


def _ask(question: str) -> Any:
    def ask(state: State) -> dict[str, Any]:
        return {"steps": [interrupt({"question": question})]}

    return ask


def _fail(state: State) -> dict[str, Any]:
    raise ValueError("boom")


def _compiled(builder: StateGraph[Any, Any, Any, Any]) -> Graph:
    return builder.compile(checkpointer=InMemorySaver())


def conversation() -> Graph:
    """agent (tokens) -> tool (custom event, whole message) -> sub (a subgraph whose node streams tokens)."""
    inner = StateGraph(State).add_node("inner", _speaker("deep words", "a2")).add_edge(START, "inner").compile()
    builder = StateGraph(State)
    builder.add_node("agent", _speaker("hello big world", "a1"))
    builder.add_node("tool", _tool)
    builder.add_node("sub", inner)
    builder.add_edge(START, "agent").add_edge("agent", "tool").add_edge("tool", "sub")
    return _compiled(builder)


def two_questions() -> Graph:
    builder = StateGraph(State).add_node("left", _ask("left?")).add_node("right", _ask("right?"))
    return _compiled(builder.add_edge(START, "left").add_edge(START, "right"))


def two_questions_inside() -> Graph:
    """One task of the outer graph stops at two questions of its subgraph."""
    inner = StateGraph(State).add_node("left", _ask("left?")).add_node("right", _ask("right?"))
    sub = inner.add_edge(START, "left").add_edge(START, "right").compile()
    return _compiled(StateGraph(State).add_node("sub", sub).add_edge(START, "sub"))


def failing() -> Graph:
    return _compiled(StateGraph(State).add_node("fail", _fail).add_edge(START, "fail"))


def thread(thread_id: str = "t", **configurable: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, **configurable}}


async def events_of(
    graph: Graph,
    modes: Modes,
    value: Any = INPUT,
    config: RunnableConfig | None = None,
    *,
    interrupt_before: list[str] | None = None,
    into: list[tuple[str, Any]] | None = None,
) -> list[tuple[str, Any]]:
    """What a client gets: every event's name, and its data after a trip through JSON.

    `into` keeps the events of a graph that fails.
    """
    arguments: dict[str, Any] = {
        "stream_mode": modes.graph_modes,
        "subgraphs": modes.graph_subgraphs,
        "interrupt_before": interrupt_before,
    }
    config = config or thread()
    seen: list[tuple[str, Any]] = [] if into is None else into
    async for name, data in _raw_events(graph, modes, value, config, arguments):
        seen.append((name, loads(dumps(data))))
    return seen


async def _raw_events(
    graph: Graph, modes: Modes, value: Any, config: RunnableConfig, arguments: dict[str, Any]
) -> AsyncIterator[tuple[str, Any]]:
    if modes.uses_events:
        async for item in graph.astream_events(value, config, version="v2", **arguments):
            for event in modes.langchain_event(item):
                yield event
        return
    async for part in graph.astream(value, config, **arguments):
        *ns, mode, chunk = part
        for event in modes.events(ns[0] if ns else (), mode, chunk):
            yield event
