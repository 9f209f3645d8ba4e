"""What the API is told about graphs, also about those that are made for each use."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import BadRequest
from holdfast.worker.catalog import GraphCatalog
from tests.worker.project_files import COUNTER, loaded

pytestmark = pytest.mark.anyio

FACTORY = """
from typing_extensions import TypedDict
from langgraph.graph import START, StateGraph

def graph(config):
    name = config["configurable"].get("node", "plain")
    if name == "broken":
        raise ValueError("no such model")
    if name == "secret":
        raise OSError("password=s3cret")
    if name == "nothing":
        return None
    fields = TypedDict("State", {name: int})
    return StateGraph(fields).add_node(name + "_node", lambda _: {}).add_edge(START, name + "_node")
"""
FIVE = {"input_schema", "output_schema", "state_schema", "config_schema", "context_schema"}


async def test_a_graph_that_is_made_for_each_use_looks_as_the_assistants_settings_make_it(tmp_path: Path) -> None:
    async with loaded(tmp_path, {"agent.py": FACTORY}) as graphs:
        catalog = GraphCatalog(graphs)
        for configurable, name in ((None, "plain"), ({"node": "other"}, "other"), ({}, "plain")):
            drawn = await catalog.drawing("agent", xray=False, configurable=configurable)
            assert f"{name}_node" in {node["id"] for node in drawn["nodes"]}
            described = await catalog.schemas("agent", configurable=configurable)
            assert set(described["input_schema"]["properties"]) == {name}
        assert await catalog.subgraphs("agent", recurse=True, namespace=None, configurable={"node": "other"}) == {}


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ("broken", "Graph 'agent' cannot be described: ValueError: no such model"),
        ("secret", "Graph 'agent' cannot be described: OSError: An internal error occurred"),
        ("nothing", "Graph 'agent' cannot be described: ProjectError: An internal error occurred"),
    ],
)
async def test_a_graph_that_cannot_be_made_has_unknown_schemas_and_says_why_it_cannot_be_drawn(
    tmp_path: Path, node: str, said: str
) -> None:
    async with loaded(tmp_path, {"agent.py": FACTORY}) as graphs:
        catalog, configurable = GraphCatalog(graphs), {"node": node}
        unknown = await catalog.schemas("agent", configurable=configurable)
        assert unknown == {"graph_id": "agent", **dict.fromkeys(FIVE)}
        with pytest.raises(BadRequest, match=said):
            await catalog.drawing("agent", xray=True, configurable=configurable)
        with pytest.raises(BadRequest, match=said):
            await catalog.subgraphs("agent", recurse=False, namespace=None, configurable=configurable)


async def test_a_graph_is_described_once(tmp_path: Path) -> None:
    async with loaded(tmp_path, {"agent.py": COUNTER}) as graphs:
        catalog = GraphCatalog(graphs)
        assert await catalog.schemas("agent") is await catalog.schemas("agent", configurable={})
