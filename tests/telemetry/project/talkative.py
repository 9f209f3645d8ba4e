"""A graph that logs wherever code of a run can be: in async and sync nodes, in a tool, by structlog."""

from __future__ import annotations

import asyncio
import logging
import time

import structlog
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

logger = logging.getLogger("talkative")


class State(MessagesState):
    tag: str
    block: float
    """Seconds that `hear` blocks the event loop."""
    fails_with: str


@tool
def look(tag: str) -> str:
    """Look it up."""
    logger.info("said %s", tag)
    return tag


async def hear(state: State) -> dict[str, object]:
    logger.info("said %s", state["tag"], extra={"api_key": "a key under its name"})
    await asyncio.sleep(0.01)
    structlog.get_logger("talkative").info(f"said {state['tag']}")
    time.sleep(state.get("block", 0))  # noqa: ASYNC251 - what the watchdog looks for
    return {}


def think(state: State) -> dict[str, object]:
    logger.info("said %s", state["tag"])
    call = {"name": "look", "args": {"tag": state["tag"]}, "id": "1", "type": "tool_call"}
    return {"messages": [AIMessage("", tool_calls=[call])]}


def end(state: State) -> dict[str, object]:
    if problem := state.get("fails_with"):
        raise ValueError(problem)
    return {}


graph = StateGraph(State).add_sequence([hear, think, ("tools", ToolNode([look])), end]).add_edge(START, "hear")
