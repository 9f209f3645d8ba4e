"""Messages by callback are those that LangGraph's `messages` mode streams, wherever the model is called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.constants import TAG_NOSTREAM
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, Send
from typing_extensions import TypedDict

from holdfast.worker.tokens import Tokens

pytestmark = pytest.mark.anyio

Graph = CompiledStateGraph[Any, Any, Any, Any]


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def model(text: str = "one two three") -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage(text, id="said")]))


async def speaks(state: State) -> dict[str, Any]:
    return {"messages": [await model().ainvoke(state["messages"])]}


def speaks_in_a_thread(state: State) -> dict[str, Any]:
    return {"messages": [model().invoke(state["messages"])]}


async def whispers(state: State) -> dict[str, Any]:
    return {"messages": [await model().with_config(tags=[TAG_NOSTREAM]).ainvoke(state["messages"])]}


async def writes(state: State) -> dict[str, Any]:
    return {"messages": [AIMessage("by hand", id="hand"), state["messages"][-1]]}


async def commands(state: State) -> Command[Any]:
    return Command(update={"messages": [AIMessage("by command", id="command")]})


async def asks_another(state: State, config: RunnableConfig) -> dict[str, Any]:
    """A graph with a thread of its own, which begins at the root."""
    await one(speaks).ainvoke(state, {**config, "configurable": {"thread_id": "another"}})
    return {}


async def streams_another(state: State) -> dict[str, Any]:
    heard = [chunk async for chunk, _ in one(speaks).astream(state, stream_mode="messages")]
    return {"messages": [AIMessage(f"heard {len(heard)}", id="heard")]}


def one(node: Any) -> Graph:
    return StateGraph(State).add_node("node", node).add_edge(START, "node").compile(InMemorySaver())


def nested() -> Graph:
    inner = StateGraph(State).add_node("inner", speaks).add_edge(START, "inner").compile()
    return one(inner)


def several() -> Graph:
    builder = StateGraph(State).add_node("a", speaks).add_node("b", speaks_in_a_thread).add_node("last", writes)
    builder.add_conditional_edges(START, lambda state: [Send("a", state)])
    return builder.add_edge("a", "b").add_edge("b", "last").compile(InMemorySaver())


GRAPHS: dict[str, Callable[[], Graph]] = {
    "a coroutine": lambda: one(speaks),
    "a thread": lambda: one(speaks_in_a_thread),
    "not streamed": lambda: one(whispers),
    "by hand": lambda: one(writes),
    "by command": lambda: one(commands),
    "a subgraph": nested,
    "a graph with its own thread": lambda: one(asks_another),
    "a graph that is streamed inside": lambda: one(streams_another),
    "several": several,
}


def given() -> tuple[dict[str, Any], RunnableConfig]:
    return {"messages": [HumanMessage("hello", id="asked")]}, {"configurable": {"thread_id": "t"}}


def alike(message: Any, metadata: dict[str, Any]) -> tuple[Any, ...]:
    names = ("langgraph_node", "langgraph_step", "langgraph_triggers", "langgraph_path", "ls_provider", "tags")
    return message.content, type(message), [metadata.get(name) for name in names], sorted(metadata)


@pytest.mark.parametrize("name", GRAPHS)
async def test_what_is_said_is_what_langgraph_streams(name: str) -> None:
    state, config = given()
    streamed = [alike(*part) async for part in GRAPHS[name]().astream(state, config, stream_mode="messages")]
    said: list[tuple[Any, ...]] = []
    tokens = Tokens(lambda message: said.append(alike(*message)))
    async for _ in GRAPHS[name]().astream(state, {**config, "callbacks": [tokens]}, stream_mode="checkpoints"):
        pass
    assert said == streamed
    assert said or name == "a graph with its own thread"


async def test_what_is_said_in_a_thread_is_said_on_the_loop() -> None:
    state, config = given()
    loop, loops = asyncio.get_running_loop(), set()
    tokens = Tokens(lambda _: loops.add(asyncio.get_running_loop()))
    await one(speaks_in_a_thread).ainvoke(state, {**config, "callbacks": [tokens]})
    assert loops == {loop}
