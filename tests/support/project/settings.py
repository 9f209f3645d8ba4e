"""A graph that answers with the settings it was started with."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict


class Settings(TypedDict, total=False):
    tone: str
    size: int


class Seen(TypedDict, total=False):
    seen: dict[str, Any]


def _look(state: Seen, config: RunnableConfig, runtime: Runtime[Settings]) -> Seen:
    configurable = {key: value for key, value in config["configurable"].items() if not key.startswith("__pregel")}
    return {
        "seen": {
            "configurable": configurable,
            "context": runtime.context,
            "metadata": config["metadata"],
            "tags": config.get("tags", []),
            "recursion_limit": config["recursion_limit"],
        }
    }


settings = (
    StateGraph(Seen, context_schema=Settings).add_node("look", _look).add_edge(START, "look").add_edge("look", END)
)
