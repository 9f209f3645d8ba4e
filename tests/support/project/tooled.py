"""An agent whose tools talk while they work: one speaks twice, one fails, one is an agent itself."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, ToolCall
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, ToolRuntime
from langgraph.types import Send


@tool
def look(what: str, runtime: ToolRuntime) -> str:
    """Look for something."""
    for half in ("first", "second"):
        runtime.emit_output_delta(half)
    return f"found {what}"


@tool
def stumble() -> str:
    """Fail."""
    raise ValueError("as told")


def _done(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage("done")]}


_helper = StateGraph(MessagesState).add_node("help", _done).add_edge(START, "help").compile()


@tool
async def delegate(runtime: ToolRuntime) -> str:
    """Ask another agent."""
    config = {**runtime.config, "metadata": {"lc_agent_name": "helper"}}
    return str((await _helper.ainvoke({"messages": []}, config))["messages"][-1].content)


def _call(state: MessagesState) -> dict[str, Any]:
    calls = [
        ToolCall(name=name, args={"what": "it"} if name == "look" else {}, id=f"call-{name}", type="tool_call")
        for name in state["messages"][-1].text.split()
    ]
    return {"messages": [AIMessage("", tool_calls=calls)]}


def _each(state: MessagesState) -> list[Send]:
    """One task per call, as LangChain's agents do it."""
    return [
        Send("tools", {"__type": "tool_call_with_context", "tool_call": call, "state": state})
        for call in state["messages"][-1].tool_calls
    ]


tooled = (
    StateGraph(MessagesState)
    .add_node("agent", _call)
    .add_node("tools", ToolNode([look, stumble, delegate], handle_tool_errors=False))
    .add_edge(START, "agent")
    .add_conditional_edges("agent", _each, ["tools"])
)
