"""What a server's lines say while it works: whose they are, and nothing that is secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import until

PROJECT = Path(__file__).parent / "project" / "langgraph.json"
AT_ONCE = 32
PLANTED = "planted-Secret-of-the-environment"


@pytest.fixture(scope="module")
def talkative(cluster: Cluster) -> Iterator[Server]:
    with (
        cluster.database() as url,
        Server(
            config=PROJECT,
            database_url=f"{url}{'&' if '?' in url else '?'}password={PLANTED}",
            LOG_FORMAT="json",
            SOME_API_KEY=PLANTED,
        ) as server,
    ):
        yield server


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]


def answered(server: Server, request_id: str) -> list[dict[str, Any]]:
    """The lines of a request, once the last of them, its access line, is there."""

    def mine() -> list[dict[str, Any]]:
        return [line for line in lines(server) if line.get("request_id") == request_id]

    until(lambda: any(line["logger"] == "holdfast.access" for line in mine()), "the answer is logged")
    return mine()


def run(server: Server, request_id: str, **given: Any) -> None:
    with server.http(timeout=60) as http:
        body = {"assistant_id": "talkative", "input": {"tag": request_id, **given}}
        answer = http.post("/runs/wait", json=body, headers={"x-request-id": request_id})
        assert answer.headers["x-request-id"] == request_id


def test_every_line_carries_the_ids_of_its_own_run(talkative: Server) -> None:
    together = Barrier(AT_ONCE)

    def one(number: int) -> str:
        together.wait(30)
        run(talkative, f"request {number}")
        return f"request {number}"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        requests = list(pool.map(one, range(AT_ONCE)))
    runs = set()
    for request in requests:
        mine = answered(talkative, request)
        said = [line for line in mine if line["logger"] == "talkative"]
        assert [line["event"] for line in said] == [f"said {request}"] * 4
        assert [line["node"] for line in said] == ["hear", "hear", "think", "tools"]
        [ids] = {(line["run_id"], line["thread_id"], line["assistant_id"], line["graph_id"]) for line in said}
        assert {line["user"] for line in mine} == {"local"}
        [access] = [line for line in mine if line["logger"] == "holdfast.access"]
        assert (access["run_id"], access["thread_id"], ids[3]) == (*ids[:2], "talkative")
        runs.add(ids[0])
    assert len(runs) == AT_ONCE


def test_lines_that_belong_to_no_run_carry_no_run(talkative: Server) -> None:
    run(talkative, "before")
    with talkative.http() as http:
        http.get("/assistants/nobody", headers={"x-request-id": "after"})
    assert not [line for line in answered(talkative, "after") if "run_id" in line or "thread_id" in line]


def test_an_answer_is_one_line(talkative: Server) -> None:
    with talkative.http() as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        headers = {"x-request-id": "of a thread", "x-shown": "yes", "x-private-note": "no"}
        got = http.get(f"/threads/{thread}", headers={**headers, "authorization": "Bearer unguessable"})
    [line] = answered(talkative, "of a thread")
    expected = {
        "event": "GET /threads/{thread_id} 200",
        "level": "info",
        "method": "GET",
        "route": "/threads/{thread_id}",
        "status": 200,
        "bytes": len(got.content),
        "ended": "complete",
        "client": "127.0.0.1",
        "user": "local",
        "thread_id": thread,
        "headers": {"x-request-id": "of a thread", "x-shown": "yes"},
    }
    assert {name: line[name] for name in expected} == expected
    assert line["duration_ms"] > 0


def test_a_stream_that_its_client_leaves_is_logged_as_cut(talkative: Server) -> None:
    with talkative.http(timeout=30) as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        with http.stream("GET", f"/threads/{thread}/stream", headers={"x-request-id": "left"}) as answer:
            assert answer.status_code == 200
    assert [line["ended"] for line in answered(talkative, "left")] == ["cut"]


def test_health_checks_are_not_worth_a_line(talkative: Server) -> None:
    with talkative.http() as http:
        assert http.get("/ok", headers={"x-request-id": "health"}).headers["x-request-id"] == "health"
        http.get("/info", headers={"x-request-id": "after health"})
    answered(talkative, "after health")
    assert not [line for line in lines(talkative) if line.get("request_id") == "health"]


@pytest.mark.parametrize("given", ["", "x" * 129, "tab\there"])
def test_an_id_that_cannot_be_repeated_is_replaced(talkative: Server, given: str) -> None:
    with talkative.http() as http:
        answer = http.get("/ok", headers={"x-request-id": given})
    assert answer.headers["x-request-id"] not in (given, "")


def test_what_is_secret_is_in_no_line(talkative: Server) -> None:
    secret = "sk-planted-abcdefghijklmnop"
    with talkative.http(timeout=30) as http:
        body = {"assistant_id": "talkative", "input": {"tag": f"{secret} {PLANTED}", "fails_with": f"no {secret}"}}
        headers = {"x-request-id": "with secrets", "x-note": secret, "authorization": f"Bearer {secret}"}
        http.post("/runs/wait", json=body, headers=headers)
    mine = answered(talkative, "with secrets")
    assert "ValueError: no [key]" in "".join(line.get("exception", "") for line in mine)
    assert "said [key] [secret]" in [line["event"] for line in mine]
    assert not [name for name in (secret, PLANTED, "a key under its name") if name in talkative.log]


def test_a_node_that_blocks_the_event_loop_is_named(talkative: Server) -> None:
    run(talkative, "blocking", block=1.0)

    def found() -> list[dict[str, Any]]:
        return [line for line in answered(talkative, "blocking") if line["logger"] == "holdfast.telemetry.looplag"]

    until(lambda: bool(found()), "the watchdog has said so")
    [warning] = found()
    assert (warning["level"], warning["node"], warning["graph_id"]) == ("warning", "hear", "talkative")
    assert "in hear (" in warning["event"]
    assert "time.sleep" in warning["stack"]
    with talkative.http() as http:
        assert "holdfast_loop_lag_seconds_bucket" in http.get("/metrics").text


def test_the_access_log_can_be_switched_off(cluster: Cluster) -> None:
    with (
        cluster.database() as url,
        Server(config=PROJECT, database_url=url, LOG_FORMAT="json", LOG_ACCESS="0") as server,
    ):
        run(server, "unseen")
        assert [line["request_id"] for line in lines(server) if line["logger"] == "talkative"] == ["unseen"] * 4
        assert not [line for line in lines(server) if line["logger"] == "holdfast.access"]
