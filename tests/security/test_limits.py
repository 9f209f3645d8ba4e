"""One caller's flood is refused before it does anything, and is no matter of another's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.redis import redis_server
from tests.support.server import Server, free_port, refusal_to_start
from tests.support.talk import LONG, new_thread, refused, start, until, until_running

KEYS = {"HOLDFAST_API_KEYS": "ada:key-a,bob:key-b"}


def as_(server: Server, key: str) -> httpx.Client:
    return server.http(headers={"x-api-key": key}, timeout=30)


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[Server]:
    limit = {"HOLDFAST_RATE_LIMIT": "20/minute"}
    with cluster.database() as url, Server(database_url=url, config=PROJECT, **KEYS, **limit) as running:
        yield running


@pytest.fixture
def free(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with one limit."""
    with cluster.database() as url, Server(database_url=url, config=PROJECT, **KEYS, **request.param) as running:
        yield running


def test_a_rate_is_an_owners_and_says_when_to_come_again(server: Server) -> None:
    with as_(server, "key-a") as ada, as_(server, "key-b") as bob:
        answers = [ada.get("/threads/nonsense") for _ in range(24)]
        limited = [answer for answer in answers if answer.status_code == 429]
        assert 2 <= len(limited) <= 6
        assert "More than 20 per 1 minute" in refused(limited[-1], 429)
        assert 1 <= int(limited[-1].headers["retry-after"]) <= 60
        assert bob.post("/threads/count", json={}).status_code == 200
        assert ada.get("/ok").status_code == 200
        assert 'holdfast_limited_total{limit="rate"}' in ada.get("/metrics").text


@pytest.mark.parametrize("free", [{"HOLDFAST_MAX_RUNS_PER_OWNER": "2"}], indirect=True)
def test_so_many_runs_of_one_owner_and_no_more_but_answers_are_taken(free: Server) -> None:
    with as_(free, "key-a") as ada, as_(free, "key-b") as bob:
        asks = new_thread(ada)
        ada.post(f"/threads/{asks}/runs/wait", json={"assistant_id": "approve", "input": {}})
        threads = [new_thread(ada) for _ in range(2)]
        runs = [start(ada, thread, "steps", **LONG) for thread in threads]
        before = ada.post("/threads/count", json={}).json()
        body = {"assistant_id": "steps", "input": {"count": 1}}
        for path, what in (("/runs", body), ("/runs/wait", body), ("/runs/batch", [body] * 3)):
            answer = ada.post(path, json=what)
            assert "No more than 2 runs" in refused(answer, 429)
            assert int(answer.headers["retry-after"]) >= 1
        assert ada.post("/threads/count", json={}).json() == before
        assert bob.post("/runs/wait", json=body).status_code == 200
        answered = ada.post(
            f"/threads/{asks}/runs/wait", json={"assistant_id": "approve", "command": {"resume": "yes"}}
        )
        assert answered.status_code == 200
        ada.post(f"/threads/{threads[0]}/runs/{runs[0]}/cancel", params={"wait": 1})
        assert ada.post("/runs/wait", json=body).status_code == 200


@pytest.mark.parametrize("free", [{"HOLDFAST_MAX_STREAMS_PER_OWNER": "2"}], indirect=True)
def test_so_many_streams_of_one_owner_and_no_more(free: Server) -> None:
    key = {"x-api-key": "key-a"}
    with as_(free, "key-a") as ada, as_(free, "key-b") as bob:
        thread = new_thread(ada)
        run = start(ada, thread, "steps", **LONG)
        until_running(ada, thread, run)
        with (
            ada.stream("GET", f"/threads/{thread}/stream") as one,
            ada.stream("GET", f"/threads/{thread}/stream") as two,
        ):
            assert (one.status_code, two.status_code) == (200, 200)
            before = ada.get(f"/threads/{thread}/runs").json()
            body = {"assistant_id": "steps", "input": {"count": 1}}
            assert "already followed" in refused(ada.post(f"/threads/{thread}/runs/stream", json=body), 429)
            assert len(ada.get(f"/threads/{thread}/runs").json()) == len(before)
            assert bob.post("/runs/stream", json=body).status_code == 200
        until(lambda: ada.get(f"/runs/{run}", headers=key).status_code == 200, "one more request is answered")

        def is_free() -> bool:
            with ada.stream("GET", f"/threads/{thread}/stream") as again:
                return again.status_code == 200

        until(is_free, "there is room again")


@pytest.mark.parametrize("free", [{"HOLDFAST_UNREAD_SECONDS": "1"}], indirect=True)
def test_who_does_not_read_is_let_go(free: Server) -> None:
    with as_(free, "key-a") as ada:
        thread = new_thread(ada)
        said = {"count": 6, "log": ["x" * 2_000_000]}
        body = {"assistant_id": "steps", "input": said, "stream_mode": ["values"]}
        run = ada.post(f"/threads/{thread}/runs", json={**body, "stream_resumable": True}).json()["run_id"]
        ada.get(f"/threads/{thread}/runs/{run}/join")
        path = f"/threads/{thread}/runs/{run}/stream"
        request = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: key-a\r\nlast-event-id: -1\r\n\r\n".encode()
        deaf = [socket.create_connection(("127.0.0.1", free.port)) for _ in range(20)]
        try:
            for one in deaf:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                one.sendall(request)
            until(lambda: free.log.count("ended=cut") == len(deaf), "they are let go", seconds=30)
            assert ada.get(f"/threads/{thread}").status_code == 200
        finally:
            for one in deaf:
                one.close()


def test_two_servers_share_a_rate_by_a_redis_and_go_on_without_it(cluster: Cluster, tmp_path: Path) -> None:
    port = free_port()
    with ExitStack() as stack:
        database = stack.enter_context(cluster.database())
        shared = {**KEYS, "HOLDFAST_RATE_LIMIT": "6/minute", "HOLDFAST_LIMITS_URL": f"redis://127.0.0.1:{port}"}
        with redis_server(tmp_path, port):
            one, two = [stack.enter_context(Server(database_url=database, config=PROJECT, **shared)) for _ in range(2)]
            ada, there = as_(one, "key-a"), as_(two, "key-a")
            statuses = [client.get("/threads/nonsense").status_code for _ in range(5) for client in (ada, there)]
            assert 5 <= statuses.count(422) <= 7
        bob = stack.enter_context(as_(one, "key-b"))
        assert bob.post("/threads/count", json={}).status_code == 200
        assert "rates cannot be counted for all processes" in one.log
        ada.close()
        there.close()


@pytest.mark.parametrize(
    ("name", "value"), [("HOLDFAST_RATE_LIMIT", "many"), ("HOLDFAST_LIMITS_URL", "carrier-pigeon://here")]
)
def test_what_is_no_limit_is_refused_at_the_start(database_url: str, name: str, value: str) -> None:
    assert name in refusal_to_start(PROJECT, database_url, **{name: value})
