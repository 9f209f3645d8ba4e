"""MCP and A2A at the door: who may do what, what others see, and what the server's start does not pay for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.test_a2a import new, send
from tests.conformance.test_mcp import run
from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.rpc import ask, call, error, message
from tests.support.server import ROOT, Server
from tests.support.talk import get_thread, refused

KEYS = "ada:key-a,bob:key-b"
MANY = 230


@pytest.fixture(scope="module")
def guarded(cluster: Cluster) -> Iterator[Server]:
    with cluster.database() as url, Server(database_url=url, config=PROJECT, HOLDFAST_API_KEYS=KEYS) as running:
        yield running


@pytest.fixture(scope="module")
def ada(guarded: Server) -> Iterator[httpx.Client]:
    with guarded.http(headers={"x-api-key": "key-a"}, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def bob(guarded: Server) -> Iterator[httpx.Client]:
    with guarded.http(headers={"x-api-key": "key-b"}, timeout=30) as client:
        yield client


def hire(http: httpx.Client, *names: str) -> list[str]:
    """The ids of new assistants."""
    made = [http.post("/assistants", json={"graph_id": "steps", "name": name}).json() for name in names]
    return [assistant["assistant_id"] for assistant in made]


def tools(http: httpx.Client) -> list[str]:
    """The names of all tools, page by page."""
    names: list[str] = []
    params: dict[str, Any] = {}
    while True:
        page = call(http, "/mcp", "tools/list", params)
        names += [tool["name"] for tool in page["tools"]]
        assert len(page["tools"]) <= 100
        if "nextCursor" not in page:
            return names
        params = {"cursor": page["nextCursor"]}


# --- who ---


@pytest.mark.requirement("mcp.authentication", "a2a.authentication")
@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/a2a/echo", "/a2a/nonsense"])
def test_nobody_without_a_key_is_answered(guarded: Server, path: str) -> None:
    with guarded.http() as stranger:
        for content in (b"{", b"{}", json.dumps(message("ping", number=1)).encode()):
            refused(stranger.post(path, content=content), 401)
        refused(stranger.get(path), 401)
        refused(stranger.get("/.well-known/agent-card.json", params={"assistant_id": "echo"}), 401)


@pytest.mark.requirement("a2a.card")
def test_a_card_says_that_a_key_is_needed(ada: httpx.Client) -> None:
    card = ada.get("/a2a/echo").json()
    scheme = card["securitySchemes"]["apiKey"]
    assert scheme["apiKeySecurityScheme"] == {"location": "header", "name": "x-api-key"}
    assert card["securityRequirements"] == [{"schemes": {"apiKey": {}}}]


@pytest.mark.requirement("mcp.tool-names")
def test_every_assistant_is_one_tool_and_names_are_told_apart(ada: httpx.Client, bob: httpx.Client) -> None:
    others = tools(bob)
    mine = hire(ada, "helper", "twin", "twin", "steps")
    names = tools(ada)
    assert set(names) - set(others) == {name for name in names if name not in others}
    assert len(names) == len(set(names)) == len(others) + 4
    assert {"helper", "steps"} < set(names)
    assert "twin" not in names
    assert len([name for name in names if name.startswith("twin-")]) == 2
    for name in names[-4:]:
        assert run(ada, name, count=1)["structuredContent"]["log"] == [0]
    # Bob sees none of them, under whatever name.
    assert tools(bob) == others
    for name in ("helper", mine[0], *[name for name in names if name.startswith("twin-")]):
        assert error(bob, "/mcp", "tools/call", {"name": name})[0] == -32602
    assert error(ada, "/mcp", "tools/call", {"name": "twin"}) == (-32602, "Unknown tool: twin")


@pytest.mark.requirement("mcp.pages")
def test_many_tools_come_in_pages(bob: httpx.Client) -> None:
    before = tools(bob)
    hire(bob, *[f"agent {number}" for number in range(MANY)])
    names = tools(bob)
    assert len(names) == len(set(names)) == len(before) + MANY
    assert "agent_229" in names


@pytest.mark.requirement("mcp.other-people")
def test_other_peoples_questions_cannot_be_answered_through_a_tool(ada: httpx.Client, bob: httpx.Client) -> None:
    thread = run(ada, "approve")["structuredContent"]["thread_id"]
    refused(bob.get(f"/threads/{thread}"), 404)
    for arguments in ({"thread_id": thread, "resume": "yes"}, {"thread_id": thread}):
        assert "not found" in run(bob, "approve", **arguments)["content"][0]["text"]
    assert get_thread(ada, thread)["status"] == "interrupted"
    assert run(ada, "approve", thread_id=thread, resume="yes")["structuredContent"]["log"] == ["yes", "done"]


@pytest.mark.requirement("a2a.other-people")
def test_other_peoples_tasks_contexts_and_agents_do_not_exist(ada: httpx.Client, bob: httpx.Client) -> None:
    task = send(ada, "approve", {"log": ["private"]})
    for method in ("GetTask", "CancelTask", "SubscribeToTask", "tasks/get"):
        assert error(bob, "/a2a/approve", method, {"id": task["id"]})[0] == -32001
    assert error(bob, "/a2a/approve", "SendMessage", new("yes", taskId=task["id"]))[0] == -32001
    assert error(bob, "/a2a/approve", "SendMessage", new({"log": []}, contextId=task["contextId"]))[0] == -32001
    assert call(bob, "/a2a/approve", "ListTasks", {})["tasks"] == []
    assert call(bob, "/a2a/approve", "ListTasks", {"contextId": task["contextId"]})["totalSize"] == 0
    [agent] = hire(ada, "secret agent")
    assert error(bob, f"/a2a/{agent}", "SendMessage", new({"count": 1}))[0] == -32602
    refused(bob.get(f"/a2a/{agent}"), 404)
    assert ada.get(f"/a2a/{agent}").json()["name"] == "secret agent"
    assert send(ada, "approve", "yes", taskId=task["id"])["status"]["state"] == "TASK_STATE_COMPLETED"


FRAGILE = """
from langgraph.graph import START, StateGraph

sound = StateGraph(dict).add_node("a", lambda state: {"said": "hi"}).add_edge(START, "a")


def fragile(config):
    raise RuntimeError("needs a key that is not there")
"""


def test_a_graph_that_cannot_be_made_hides_no_other_and_is_the_only_one_to_fail(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "graphs.py").write_text(FRAGILE)
    graphs = {"sound": "./graphs.py:sound", "fragile": "./graphs.py:fragile"}
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"dependencies": ["."], "graphs": graphs}))
    with cluster.database() as url, Server(database_url=url, config=config) as running, running.http() as http:
        assert tools(http) == ["fragile", "sound"]
        assert run(http, "sound")["isError"] is False
        assert "needs a key" in run(http, "fragile")["content"][0]["text"]
        failed = send(http, "fragile", {"a": 1})
        assert failed["status"]["state"] == "TASK_STATE_FAILED"
        assert http.get("/a2a/fragile").json()["name"] == "fragile"


def test_a_body_over_the_limit_is_refused(cluster: Cluster) -> None:
    with (
        cluster.database() as url,
        Server(database_url=url, config=PROJECT, HOLDFAST_MAX_BODY_BYTES="2000") as small,
        small.http() as http,
    ):
        for path in ("/mcp", "/a2a/echo"):
            refused(http.post(path, content=b" " * 2001), 413)
        assert ask(http, "/mcp", "ping")["result"] == {}


# --- the start, and answers that take a while ---


@pytest.mark.requirement("mcp.start")
def test_the_servers_start_imports_neither_sdk() -> None:
    code = "import sys, holdfast.app; print(sorted({'mcp', 'a2a', 'mcp_types', 'sse_starlette'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "server")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.requirement("mcp.start")
def test_many_first_requests_at_once_are_all_answered(cluster: Cluster) -> None:
    with cluster.database() as url, Server(database_url=url, config=PROJECT) as fresh:

        def first(number: int) -> Any:
            with fresh.http(timeout=30) as http:
                if number % 2:
                    return run(http, "steps", count=1)["structuredContent"]["log"]
                return send(http, "steps", {"count": 1})["artifacts"][0]["parts"][0]["data"]["log"]

        with ThreadPoolExecutor(12) as pool:
            assert list(pool.map(first, range(12))) == [[0]] * 12


@pytest.mark.requirement("mcp.keep-alive", "a2a.keep-alive")
def test_an_answer_that_takes_a_while_is_kept_alive(guarded: Server) -> None:
    slow = {"count": 3, "pause": 2}
    asked = {
        "/mcp": message("tools/call", {"name": "steps", "arguments": slow}, 1),
        "/a2a/steps": message("SendMessage", new(slow), 1),
    }

    def post(path: str) -> httpx.Response:
        with guarded.http(headers={"x-api-key": "key-a"}, timeout=30) as http:
            return http.post(path, json=asked[path])

    with ThreadPoolExecutor(2) as pool:
        for answer in pool.map(post, asked):
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("application/json")
            # Its head went out before the result was there.
            assert answer.headers["transfer-encoding"] == "chunked"
            assert "result" in answer.json()


def test_an_answer_that_takes_a_while_breaks_off_when_the_server_stops(cluster: Cluster) -> None:
    with cluster.database() as url, Server(database_url=url, config=PROJECT) as going:
        body = message("tools/call", {"name": "steps", "arguments": {"count": 1000, "pause": 0.5}}, 1)
        with going.http(timeout=30) as http, http.stream("POST", "/mcp", json=body) as answer:
            beats = answer.iter_raw()
            assert next(beats) == b"\n"
            assert going.stop() == 0
            with pytest.raises(httpx.RemoteProtocolError):
                list(beats)


@pytest.mark.parametrize("path", ["/a2a/echo", "/a2a/nonsense", "/mcp"])
def test_an_answer_repeats_no_id_that_cannot_be_one(http: httpx.Client, path: str) -> None:
    for wrong in ([1], {"a": 1}, True, 1.5):
        answer = http.post(
            path, json={"jsonrpc": "2.0", "id": wrong, "method": "GetTask", "params": {"id": "x"}}
        ).json()
        assert answer["id"] is None, (wrong, answer)
        assert "error" in answer
    for right in (7, "seven"):
        answer = http.post(
            path, json={"jsonrpc": "2.0", "id": right, "method": "GetTask", "params": {"id": "x"}}
        ).json()
        assert answer["id"] == right
