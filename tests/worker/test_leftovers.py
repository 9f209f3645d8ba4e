"""A run that is over is gone: what it has made, a large state too, does not wait for the garbage collector."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.postgres import Cluster
from tests.support.server import Server

GRAPH = """
import gc

from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

MODEL = FakeListChatModel(responses=["so much"])


async def talk(state: MessagesState) -> MessagesState:
    # As rarely as can be.
    gc.disable()
    return {"messages": [await MODEL.ainvoke(state["messages"])]}


def count(state: MessagesState) -> MessagesState:
    there = [thing for thing in gc.get_objects() if type(thing).__name__ == "Execution"]
    return {"messages": [AIMessage(str(len(there)))]}


def asked(state: MessagesState) -> str:
    return state["messages"][-1].content


graph = (
    StateGraph(MessagesState)
    .add_node("talk", talk)
    .add_node("count", count)
    .add_conditional_edges(START, asked, ["talk", "count"])
    .add_edge("talk", END)
    .add_edge("count", END)
    .compile()
)
"""
RUNS = 10


@pytest.mark.parametrize("how", ["wait", "stream"])
def test_runs_that_are_over_leave_nothing_in_circles(cluster: Cluster, tmp_path: Path, how: str) -> None:
    (tmp_path / "agent.py").write_text(GRAPH)
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"dependencies": ["."], "graphs": {"agent": "./agent.py:graph"}}))

    def body(text: str) -> dict[str, object]:
        return {"assistant_id": "agent", "input": {"messages": [{"role": "user", "content": text}]}}

    with (
        cluster.database() as url,
        Server(database_url=url, config=config) as server,
        server.http(timeout=30) as http,
    ):
        for _ in range(RUNS):
            modes = {"stream_mode": ["messages-tuple", "values", "updates"]} if how == "stream" else {}
            http.post(f"/runs/{how}", json=body("talk") | modes).raise_for_status()
        counted = http.post("/runs/wait", json=body("count")).json()
    # The run that counts, and one whose last callbacks may not have come yet.
    assert int(counted["messages"][-1]["content"]) <= 2
