"""Assistants on the wire: one system assistant per graph, by UUID and by name."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.support.talk import UNKNOWN_ID, refused

NAMESPACE = uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
PROJECT = Path(__file__).parents[1] / "support" / "project" / "langgraph.json"
GRAPHS = sorted(json.loads(PROJECT.read_text())["graphs"])
SCHEMAS = {"graph_id", "input_schema", "output_schema", "state_schema", "config_schema", "context_schema"}
KEYS = {
    "assistant_id",
    "graph_id",
    "config",
    "context",
    "metadata",
    "name",
    "created_at",
    "updated_at",
    "version",
    "description",
}


def by_uuid(graph: str) -> str:
    return str(uuid.uuid5(NAMESPACE, graph))


@pytest.mark.requirement("assistants.get", "assistants.by_name")
@pytest.mark.parametrize("spelling", [by_uuid, str])
def test_an_assistant_is_found_by_uuid_and_by_name(http: httpx.Client, spelling: Any) -> None:
    found = http.get(f"/assistants/{spelling('echo')}").json()
    assert set(found) == KEYS
    assert found["assistant_id"] == by_uuid("echo")
    assert (found["graph_id"], found["name"], found["version"]) == ("echo", "echo", 1)
    assert found["description"] == "answers with what it was told, token by token"
    assert found["metadata"] == {"created_by": "system"}
    assert (found["config"], found["context"]) == ({}, {})


@pytest.mark.requirement("assistants.system")
@pytest.mark.anyio
async def test_every_graph_has_one_system_assistant(sdk: LangGraphClient) -> None:
    found = await sdk.assistants.search(metadata={"created_by": "system"}, limit=100)
    assert sorted(assistant["graph_id"] for assistant in found) == GRAPHS
    assert all(assistant["assistant_id"] == by_uuid(assistant["graph_id"]) for assistant in found)
    assert await sdk.assistants.count(metadata={"created_by": "system"}) == len(GRAPHS)
    assert await sdk.assistants.count(metadata={"created_by": "system"}, graph_id="echo") == 1
    assert await sdk.assistants.search(metadata={"created_by": "ada"}) == []


@pytest.mark.requirement("assistants.search_unknown_graph")
@pytest.mark.anyio
async def test_no_assistant_is_found_of_a_graph_that_is_not_there(sdk: LangGraphClient) -> None:
    assert await sdk.assistants.search(graph_id="nope") == []


@pytest.mark.requirement("assistants.search")
@pytest.mark.anyio
async def test_a_name_is_searched_as_part_and_in_any_case(sdk: LangGraphClient) -> None:
    found = await sdk.assistants.search(name="EST", metadata={"created_by": "system"})
    assert sorted(assistant["graph_id"] for assistant in found) == [name for name in GRAPHS if "est" in name]
    assert await sdk.assistants.search(name="%") == []
    assert await sdk.assistants.search(name="_cho") == []


@pytest.mark.requirement("assistants.pages")
@pytest.mark.anyio
async def test_assistants_come_in_pages(sdk: LangGraphClient) -> None:
    seen: list[str] = []
    offset: int | None = 0
    while offset is not None:
        page = await sdk.assistants.search(
            metadata={"created_by": "system"}, limit=3, offset=offset, response_format="object"
        )
        seen += [assistant["graph_id"] for assistant in page["assistants"]]
        offset = int(page["next"]) if page["next"] else None
    assert sorted(seen) == GRAPHS


@pytest.mark.requirement("assistants.graph", "assistants.by_name")
@pytest.mark.parametrize("spelling", [by_uuid, str])
def test_a_graph_is_drawn(http: httpx.Client, spelling: Any) -> None:
    drawn = http.get(f"/assistants/{spelling('steps')}/graph").json()
    assert [node["id"] for node in drawn["nodes"]] == ["__start__", "step", "__end__"]
    step = drawn["nodes"][1]
    assert (step["type"], step["data"]["name"]) == ("runnable", "step")
    assert {"source": "__start__", "target": "step"} in drawn["edges"]
    assert all(edge["conditional"] for edge in drawn["edges"] if edge["source"] == "step")


@pytest.mark.requirement("assistants.graph")
@pytest.mark.parametrize("xray", ["true", "1", "2"])
def test_xray_shows_what_is_inside(http: httpx.Client, xray: str) -> None:
    drawn = http.get("/assistants/nested/graph", params={"xray": xray}).json()
    assert "child:inside" in [node["id"] for node in drawn["nodes"]]
    drawn = http.get("/assistants/nested/graph", params={"xray": "false"}).json()
    assert [node["id"] for node in drawn["nodes"]] == ["__start__", "child", "__end__"]


@pytest.mark.requirement("assistants.graph")
@pytest.mark.parametrize("xray", ["0", "-1", "abc", "9" * 5000])
def test_a_bad_xray_is_refused(http: httpx.Client, xray: str) -> None:
    assert refused(http.get("/assistants/nested/graph", params={"xray": xray}), 422).startswith("Invalid xray value")


@pytest.mark.requirement("assistants.schemas", "assistants.by_name")
@pytest.mark.parametrize("spelling", [by_uuid, str])
@pytest.mark.parametrize("graph", GRAPHS)
def test_every_graph_has_schemas(http: httpx.Client, graph: str, spelling: Any) -> None:
    schemas = http.get(f"/assistants/{spelling(graph)}/schemas").json()
    assert set(schemas) == SCHEMAS
    assert schemas["graph_id"] == graph


@pytest.mark.anyio
@pytest.mark.requirement("assistants.graph", "assistants.schemas")
async def test_the_sdk_looks_into_an_assistant_of_ones_own(sdk: LangGraphClient) -> None:
    mine = (await sdk.assistants.create("nested"))["assistant_id"]
    for xray, inside in ((False, "child"), (True, "child:inside"), (1, "child:inside")):
        drawn = await sdk.assistants.get_graph(mine, xray=xray)
        assert {node["id"] for node in drawn["nodes"]} == {"__start__", inside, "__end__"}
    assert set((await sdk.assistants.get_schemas(mine))["input_schema"]["properties"]) == {"messages"}
    assert set(await sdk.assistants.get_subgraphs(mine, recurse=True)) == {"child"}
    await sdk.assistants.delete(mine)


@pytest.mark.requirement("assistants.schemas_derived")
def test_a_schema_names_the_states_fields(http: httpx.Client) -> None:
    schemas = http.get(f"/assistants/{by_uuid('steps')}/schemas").json()
    assert set(schemas["input_schema"]["properties"]) == {"log", "pause", "count", "blocking"}


@pytest.mark.requirement("assistants.subgraphs", "assistants.by_name")
@pytest.mark.anyio
async def test_subgraphs_are_described_by_their_namespace(sdk: LangGraphClient) -> None:
    for assistant in ("nested", by_uuid("nested")):
        every = await sdk.assistants.get_subgraphs(assistant)
        assert set(every) == {"child"}
        assert set(every["child"]) == SCHEMAS - {"graph_id"} | ({"graph_id"} & set(every["child"]))
        assert await sdk.assistants.get_subgraphs(assistant, namespace="child") == every
        assert await sdk.assistants.get_subgraphs(assistant, namespace="nobody") == {}
        assert await sdk.assistants.get_subgraphs(assistant, recurse=True) == every
    assert await sdk.assistants.get_subgraphs("steps") == {}


@pytest.mark.requirement("assistants.errors", "assistants.by_name")
@pytest.mark.parametrize("path", ["", "/graph", "/schemas", "/subgraphs", "/subgraphs/child"])
def test_an_unknown_assistant_is_404_and_an_unknown_name_422(http: httpx.Client, path: str) -> None:
    detail = refused(http.get(f"/assistants/{UNKNOWN_ID}{path}"), 404)
    assert detail == f"Assistant with ID {UNKNOWN_ID} not found"
    assert refused(http.get(f"/assistants/nope{path}"), 422).startswith("Invalid assistant: 'nope'")
