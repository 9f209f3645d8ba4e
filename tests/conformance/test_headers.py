"""Headers that a run may see (`http.configurable_headers`), on a server whose project lists some."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import join, new_thread

SENT = {
    "X-Team": "a",
    "x-user-id": "7",
    "x-user-secret": "s",
    "x-other": "o",
    "x-api-key": "k",
    "authorization": "Bearer k",
    "cookie": "k=k",
    "x-tenant-id": "k",
    "langsmith-trace": "t",
    "baggage": "b",
}


@pytest.fixture(scope="module")
def listing(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server whose project lets some headers pass."""
    config = tmp_path_factory.mktemp("project") / "langgraph.json"
    patterns = {"includes": ["x-team", "x-user-*", "authorization", "cookie", "x-tenant-id"], "excludes": ["*secret"]}
    graphs = {"steps": f"{Path(PROJECT).parent / 'graphs.py'}:steps"}
    document = {"dependencies": ["."], "graphs": graphs, "http": {"configurable_headers": patterns}}
    config.write_text(json.dumps(document))
    with cluster.database() as url, Server(database_url=url, config=config) as running, running.http() as client:
        yield client


@pytest.mark.requirement("runs.headers")
@pytest.mark.parametrize("stateless", [True, False])
def test_listed_headers_reach_the_graph_under_lower_case_names(listing: httpx.Client, stateless: bool) -> None:
    path = "/runs" if stateless else f"/threads/{new_thread(listing)}/runs"
    body = {"assistant_id": "steps", "input": {"count": 1}, "on_completion": "keep"}
    run = listing.post(path, json=body, headers=SENT).json()
    join(listing, run["thread_id"], run["run_id"])
    passing = {"x-team": "a", "x-user-id": "7", "langsmith-trace": "t", "baggage": "b"}
    state = listing.get(f"/threads/{run['thread_id']}/state").json()
    for shown in (run["kwargs"]["config"]["configurable"], state["metadata"]):
        assert {name: shown.get(name.lower()) for name in SENT} == {name: passing.get(name.lower()) for name in SENT}


@pytest.mark.requirement("runs.headers")
def test_a_header_wins_over_what_the_body_says(listing: httpx.Client) -> None:
    body = {"assistant_id": "steps", "input": {"count": 1}, "config": {"configurable": {"x-user-id": "forged"}}}
    run = listing.post("/runs", json=body, headers=SENT).json()
    assert run["kwargs"]["config"]["configurable"]["x-user-id"] == "7"


@pytest.mark.requirement("runs.headers_default")
def test_without_a_list_only_the_trace_passes(http: httpx.Client) -> None:
    run = http.post("/runs", json={"assistant_id": "steps", "input": {"count": 1}}, headers=SENT).json()
    names = {name.lower() for name in SENT}
    configurable = run["kwargs"]["config"]["configurable"]
    assert {name: value for name, value in configurable.items() if name in names} == {
        "langsmith-trace": "t",
        "baggage": "b",
    }
