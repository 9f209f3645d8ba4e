"""Graphs whose traces are looked at: one asks in the middle, one calls a model and a tool, one fails, and one
looks at the trace that it is in."""

from __future__ import annotations

import asyncio
from operator import add
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt
from opentelemetry.trace import format_span_id, format_trace_id, get_current_span


class Work(TypedDict, total=False):
    done: Annotated[list[str], add]
    pause: float
    """Seconds that `work` takes."""
    blob: str


def prepare(_: Work) -> Work:
    return {"done": ["prepare"]}


async def work(state: Work) -> Work:
    await asyncio.sleep(state.get("pause", 0))
    return {"done": ["work"]}


def ask(_: Work) -> Work:
    return {"done": [str(interrupt({"question": "may I?"}))]}


def finish(_: Work) -> Work:
    return {"done": ["finish"]}


careful = StateGraph(Work).add_sequence([prepare, work, ask, finish]).add_edge(START, "prepare")
plain = StateGraph(Work).add_sequence([prepare, work, finish]).add_edge(START, "prepare")


@tool
def look(what: str) -> str:
    """Look it up."""
    return f"{what} found"


async def think(state: MessagesState) -> dict[str, Any]:
    calls = [{"name": "look", "args": {"what": str(state["messages"][-1].text)}, "id": "1", "type": "tool_call"}]
    usage = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
    said = AIMessage("looking", tool_calls=calls, usage_metadata=usage, response_metadata={"model_name": "stand-in"})
    return {"messages": [await GenericFakeChatModel(messages=iter([said])).ainvoke(state["messages"])]}


chat = StateGraph(MessagesState).add_sequence([think, ("tools", ToolNode([look]))]).add_edge(START, "think")


def fail(state: MessagesState) -> dict[str, Any]:
    [asked] = state["messages"]
    assert isinstance(asked, HumanMessage)
    raise ValueError(asked.text)


failing = StateGraph(MessagesState).add_node("fail", fail).add_edge(START, "fail")


async def trace(_: Work) -> Work:
    seen = get_current_span().get_span_context()
    return {"done": [f"{format_trace_id(seen.trace_id)} {format_span_id(seen.span_id)}"]}


tracing = StateGraph(Work).add_node("trace", trace).add_edge(START, "trace")
