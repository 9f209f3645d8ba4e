"""Assistants: text and numbers at the edges, and what a start of the server makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import refused

GRAPH = "from tests.support.project.graphs import steps as graph\n"


@pytest.mark.parametrize(
    "body",
    [
        {"name": "a\x00b"},
        {"description": "\x00"},
        {"context": {"a": ["\x00"]}},
        {"context": {"\x00": 1}},
        {"config": {"configurable": {"a": "\x00"}}},
        {"config": {"tags": ["\x00"]}},
        {"metadata": {"a": "\x00"}},
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_text_that_the_database_cannot_hold_is_refused(http: httpx.Client, method: str, body: dict[str, Any]) -> None:
    path = "/assistants" if method == "POST" else "/assistants/mirror"
    before = http.get("/assistants/mirror").json()
    assert "NUL" in refused(http.request(method, path, json={"graph_id": "mirror", **body}), 422)
    assert http.get("/assistants/mirror").json() == before


def test_search_terms_with_nul_are_refused(http: httpx.Client) -> None:
    for path in ("/assistants/search", "/assistants/count"):
        for terms in ({"name": "\x00"}, {"graph_id": "\x00"}, {"metadata": {"\x00": 1}}):
            refused(http.post(path, json=terms), 422)


def test_any_other_text_and_any_number_is_kept(http: httpx.Client) -> None:
    values = {"a": "🧨 \u2028 \\u0000 '; --", "b": [2**63, -(2**63), 0.1, None, True], "": {"": {}}}
    body = {"graph_id": "steps", "name": "🧨" * 100_000, "description": "", "context": values, "metadata": values}
    made = http.post("/assistants", json=body).json()
    for row in (made, http.get(f"/assistants/{made['assistant_id']}").json()):
        assert {key: row[key] for key in body} == body
        assert row["config"] == {"configurable": values}
    [found] = http.post("/assistants/search", json={"name": "🧨🧨", "sort_by": "name"}).json()
    assert found["assistant_id"] == made["assistant_id"]
    assert http.delete(f"/assistants/{made['assistant_id']}").status_code == 204


@pytest.mark.parametrize("version", [2**31, 2**63, 2**64 - 1, -(2**63)])
def test_a_version_of_any_size_is_just_not_there(http: httpx.Client, version: int) -> None:
    refused(http.post("/assistants/mirror/latest", json={"version": version}), 404)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30])
def test_a_version_over_64_bits_is_refused(http: httpx.Client, number: int) -> None:
    refused(http.post("/assistants/mirror/latest", json={"version": number}), 422)
    assert http.post("/assistants/mirror/latest", params={"version": number}).status_code in (404, 422)


@pytest.mark.parametrize("body", [{}, {"assistant_id": None}])
@pytest.mark.parametrize("path", ["/runs", "/runs/stream", "/runs/wait"])
def test_a_run_needs_an_assistant(http: httpx.Client, thread: str, path: str, body: dict[str, Any]) -> None:
    refused(http.post(f"/threads/{thread}{path}", json=body), 422)


@pytest.mark.requirement("assistants.system")
def test_what_was_changed_outlives_a_restart_until_langgraph_json_says_something_else(
    cluster: Cluster, tmp_path: Path
) -> None:
    config = tmp_path / "langgraph.json"

    def declare(description: str) -> None:
        graphs = {"agent": {"path": "./agent.py:graph", "description": description}}
        config.write_text(json.dumps({"dependencies": ["."], "graphs": graphs}))

    (tmp_path / "agent.py").write_text(GRAPH)
    declare("as declared")
    with cluster.database() as url:
        with Server(database_url=url, config=config) as server, server.http(timeout=30) as http:
            assert http.get("/assistants/agent").json()["description"] == "as declared"
            http.patch("/assistants/agent", json={"description": "as changed", "context": {"a": 1}})
            mine = http.post("/assistants", json={"graph_id": "agent", "name": "mine"}).json()
        with Server(database_url=url, config=config) as server, server.http(timeout=30) as http:
            row = http.get("/assistants/agent").json()
            assert (row["description"], row["context"], row["version"]) == ("as changed", {"a": 1}, 2)
            assert http.get(f"/assistants/{mine['assistant_id']}").json() == mine
        declare("as declared anew")
        with Server(database_url=url, config=config) as server, server.http(timeout=30) as http:
            row = http.get("/assistants/agent").json()
            assert (row["description"], row["context"], row["version"]) == ("as declared anew", {"a": 1}, 3)
