"""What a page that somebody visits can do with the server on their machine."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import Server, refusal_to_start
from tests.support.talk import refused

STUDIO, STRANGER = "https://smith.langchain.com", "https://evil.example"
TEXT = {"content-type": "text/plain;charset=UTF-8"}


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[Server]:
    """A developer's: nobody authenticates."""
    with cluster.database() as url, Server(database_url=url, config=PROJECT) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.http(timeout=30) as client:
        yield client


def project(place: Path, http: dict[str, object]) -> Path:
    """A project whose graph does nothing, with this section."""
    (place / "g.py").write_text(
        "from langgraph.graph import END, START, MessagesState, StateGraph\n"
        "graph = StateGraph(MessagesState).add_edge(START, END).compile()\n"
    )
    (place / "own.py").write_text(
        "from fastapi import FastAPI, WebSocket\n"
        "app = FastAPI()\n"
        "@app.websocket('/ws')\n"
        "async def echo(socket: WebSocket):\n"
        "    await socket.accept()\n"
        "    await socket.send_text(await socket.receive_text())\n"
    )
    config = place / "langgraph.json"
    config.write_text(json.dumps({"dependencies": ["."], "graphs": {"agent": "./g.py:graph"}, "http": http}))
    return config


def count(http: httpx.Client) -> int:
    return int(http.post("/threads/count", json={}).json())


@pytest.mark.parametrize("path", ["/threads", "/ok", "/info", "/docs", "/nowhere"])
def test_a_name_that_was_bound_anew_to_this_machine_is_not_answered(http: httpx.Client, path: str) -> None:
    for host in ("evil.example", "evil.example:2024"):
        assert "HOLDFAST_ALLOWED_HOSTS" in refused(http.get(path, headers={"host": host}), 421)
    assert http.get("/ok", headers={"host": "host.docker.internal:2024"}).status_code == 200


def test_a_strangers_page_starts_nothing_and_reads_nothing(http: httpx.Client) -> None:
    before = count(http)
    for headers in (TEXT, {"content-type": "application/json"}, {"content-type": "multipart/form-data; boundary=x"}):
        answer = http.post("/threads", content="{}", headers={**headers, "origin": STRANGER})
        assert "HOLDFAST_ALLOWED_ORIGINS" in refused(answer, 403)
    asked = {
        "origin": STRANGER,
        "access-control-request-method": "POST",
        "access-control-request-private-network": "true",
    }
    answer = http.options("/threads", headers=asked)
    refused(answer, 403)
    assert "access-control-allow-private-network" not in answer.headers
    assert count(http) == before
    assert "access-control-allow-origin" not in http.get("/info", headers={"origin": STRANGER}).headers


def test_studio_and_pages_of_this_machine_work(http: httpx.Client) -> None:
    for origin in (STUDIO, "http://localhost:3000"):
        assert http.post("/threads", content="{}", headers={**TEXT, "origin": origin}).status_code == 200
        asked = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-private-network": "true",
        }
        answer = http.options("/threads", headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-private-network"] == "true"


def test_what_is_configured_is_let_in(cluster: Cluster, tmp_path: Path) -> None:
    allowed = {"HOLDFAST_ALLOWED_HOSTS": "agents.example", "HOLDFAST_ALLOWED_ORIGINS": "https://chat.example"}
    with (
        cluster.database() as url,
        Server(database_url=url, config=PROJECT, **allowed) as server,
        server.http(timeout=30) as http,
    ):
        assert http.get("/ok", headers={"host": "agents.example"}).status_code == 200
        refused(http.get("/ok", headers={"host": "other.example"}), 421)
        assert http.post("/threads", json={}, headers={"origin": "https://chat.example"}).status_code == 200
        refused(http.post("/threads", json={}, headers={"origin": STRANGER}), 403)


def test_a_websocket_of_the_projects_is_opened_by_no_strangers_page_and_stays_open(
    cluster: Cluster, tmp_path: Path
) -> None:
    config = project(tmp_path, {"app": "./own.py:app"})
    short = {"HOLDFAST_HEAD_SECONDS": "1", "HOLDFAST_BODY_SECONDS": "1"}
    with cluster.database() as url, Server(database_url=url, config=config, **short) as server:
        address = f"ws://127.0.0.1:{server.port}/ws"
        with pytest.raises(InvalidStatus, match="403"), connect(address, origin=Origin(STRANGER)):
            pass
        with connect(address, origin=Origin("http://localhost:3000")) as socket:
            with pytest.raises(TimeoutError):
                socket.recv(timeout=2.5)  # longer than a request may take to say what it wants
            socket.send("still there")
            assert socket.recv(timeout=10) == "still there"


def test_with_keys_a_form_of_a_strangers_page_is_refused_whatever_it_brings(cluster: Cluster) -> None:
    with (
        cluster.database() as url,
        Server(database_url=url, config=PROJECT, HOLDFAST_API_KEYS="ada:key-a") as server,
        server.http(timeout=30, headers={"x-api-key": "key-a"}) as http,
    ):
        refused(http.post("/threads", content="{}", headers={**TEXT, "origin": STRANGER}), 403)
        assert http.post("/threads", json={}, headers={"origin": STRANGER}).status_code == 200
        assert http.get("/ok", headers={"host": "agents.example"}).status_code == 200


def test_credentials_for_any_page_are_refused_at_the_start(tmp_path: Path, database_url: str) -> None:
    config = project(tmp_path, {"cors": {"allow_credentials": True}})
    assert "any page could use them" in refusal_to_start(config, database_url)


def test_pages_of_ours_run_their_own_scripts_only(http: httpx.Client) -> None:
    page = http.get("/docs")
    policy = page.headers["content-security-policy"]
    scripts = re.findall(r"<script>(.+?)</script>", page.text, re.DOTALL)
    allowed = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert allowed
    assert "script-src 'self' " + " ".join(f"'sha256-{digest}'" for digest in allowed) + ";" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["x-frame-options"] == "DENY"
    assert not re.findall(r"\son\w+=|https?://", page.text.replace("http://www.w3.org", ""))


def test_nothing_says_what_serves(http: httpx.Client) -> None:
    for answer in (http.get("/ok"), http.get("/docs"), http.get("/nowhere")):
        assert not {"server", "x-powered-by"} & set(answer.headers)
