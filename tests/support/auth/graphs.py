"""Graphs that say for whom they work."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph_sdk.runtime import ServerRuntime
from typing_extensions import TypedDict


class Seen(TypedDict, total=False):
    identity: str
    token_length: int
    permissions: list[str]
    by_factory: str
    secret: bool


def _look(state: Seen, config: RunnableConfig) -> Seen:
    known = config["configurable"]
    user = known["langgraph_auth_user"]
    return {
        "identity": known["langgraph_auth_user_id"],
        "token_length": len(user.get("token", "")),
        "permissions": known["langgraph_auth_permissions"],
    }


def _graph(**more: Any) -> Any:
    def add(state: Seen) -> Seen:
        return more  # type: ignore[return-value]

    graph = StateGraph(Seen).add_node("look", _look).add_node("add", add)
    return graph.add_edge(START, "look").add_edge("look", "add").add_edge("add", END).compile()


whoami = _graph()


def made_for(runtime: ServerRuntime) -> Any:
    """A factory that asks who the graph is for."""
    return _graph(by_factory=runtime.user.identity if runtime.user else "nobody")


def hidden() -> Any:
    """A graph that a handler hides from everybody but the admin."""
    return _graph()
