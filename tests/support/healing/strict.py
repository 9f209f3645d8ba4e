"""Agents whose model refuses what providers refuse: calls of tools that nobody answered, answers that nobody asked for.

What a human says decides: "two" calls two tools, of which one hangs, "one" a tool that hangs, "ask" one that asks
first, "fail" one that raises; anything else is answered with what the history looks like.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Sequence
from typing import Annotated, Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Send, interrupt
from typing_extensions import TypedDict

from graph.messages import merge_messages

CALLS = {"two": ("quick", "hang"), "one": ("hang",), "ask": ("ask",), "fail": ("fail",)}


def refuse_dangling(messages: Sequence[BaseMessage]) -> None:
    """What OpenAI answers with 400."""
    open_calls: set[str] = set()
    for message in messages:
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in open_calls:
                raise ValueError(
                    "messages with role 'tool' must be a response to a preceding message with 'tool_calls'"
                )
            open_calls.discard(message.tool_call_id)
            continue
        if open_calls:
            raise ValueError("An assistant message with 'tool_calls' must be followed by tool messages")
        if isinstance(message, AIMessage):
            open_calls = {str(call["id"]) for call in message.tool_calls}
    if open_calls:
        raise ValueError("An assistant message with 'tool_calls' must be followed by tool messages")


def shape(messages: Sequence[BaseMessage]) -> str:
    """The types of the messages, a letter each."""
    return "".join(message.type[0] for message in messages)


def build(messages: Any) -> StateGraph[Any, Any, Any, Any]:
    """The agent over this kind of `messages` channel."""
    state: Any = TypedDict("state", {"messages": messages, "answers": Annotated[int, operator.add]}, total=False)

    async def agent(given: Any) -> Any:
        history = given["messages"]
        refuse_dangling(history)
        last = history[-1]
        words = str(last.content) if isinstance(last, HumanMessage) else ""
        calls = [
            {"name": name, "args": {}, "id": f"call-{len(history)}-{name}", "type": "tool_call"}
            for name in CALLS.get(words, ())
        ]
        return {"messages": [AIMessage("" if calls else shape(history), tool_calls=calls)], "answers": 1}

    async def tools(given: Any) -> Any:
        call = given["call"]
        if call["name"] == "hang":
            await asyncio.sleep(600)
        if call["name"] == "fail":
            raise ValueError("the tool fails")
        told = interrupt("may I?") if call["name"] == "ask" else "done"
        return {"messages": [ToolMessage(str(told), tool_call_id=call["id"], name=call["name"])]}

    def route(given: Any) -> Any:
        return [Send("tools", {"call": call}) for call in given["messages"][-1].tool_calls] or END

    return (
        StateGraph(state)
        .add_node("agent", agent)
        .add_node("tools", tools)
        .add_edge(START, "agent")
        .add_conditional_edges("agent", route, ["tools", END])
        .add_edge("tools", "agent")
    )


added = build(Annotated[list[BaseMessage], add_messages])
delta = build(Annotated[list[BaseMessage], DeltaChannel(merge_messages)])
