"""Throw-away projects: files written to a directory, loaded, and forgotten again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore

from holdfast.errors import ProjectError
from holdfast.project import load_project
from holdfast.worker.graphs import Graphs

COUNTER = """
from typing_extensions import TypedDict
from langgraph.graph import END, START, StateGraph

class State(TypedDict):
    n: int

def add(state: State) -> State:
    return {"n": state["n"] + 1}

builder = StateGraph(State)
builder.add_node("add", add)
builder.add_edge(START, "add")
builder.add_edge("add", END)
graph = builder.compile()
"""


def write(directory: Path, files: dict[str, str], **config: Any) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
    path = directory / "langgraph.json"
    path.write_text(json.dumps({"graphs": {"agent": "./agent.py:graph"}, "dependencies": ["."], **config}))
    return path


@asynccontextmanager
async def loaded(directory: Path, files: dict[str, str], **config: Any) -> AsyncIterator[Graphs]:
    graphs = await Graphs.load(load_project(write(directory, files, **config)))
    try:
        yield graphs
    finally:
        graphs.close()


async def answer(graphs: Graphs, graph_id: str = "agent", value: Any = None, **configurable: Any) -> Any:
    config = {"configurable": {"thread_id": "1", **configurable}}
    async with graphs.open(graph_id, config, checkpointer=InMemorySaver(), store=InMemoryStore()) as graph:
        return await graph.ainvoke({"n": 1} if value is None else value, config)


async def failure(directory: Path, files: dict[str, str], **config: Any) -> str:
    with pytest.raises(ProjectError) as caught:
        await Graphs.load(load_project(write(directory, files, **config)))
    return str(caught.value)
