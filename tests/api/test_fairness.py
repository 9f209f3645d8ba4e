"""Whose run is next, on a real server: two people, few slots."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import new_thread, run_status, start, until, until_running, wait

KEYS = "ada:key-a,bob:key-b"
SLOW: dict[str, Any] = {"input": {"log": [], "pause": 0.05, "count": 3}}


@pytest.fixture(params=[1, 2])
def server(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with few slots, and a key for each of two people."""
    environment = {"HOLDFAST_API_KEYS": KEYS, "HOLDFAST_SLOTS": str(request.param)}
    with cluster.database() as url, Server(database_url=url, config=PROJECT, **environment) as running:
        yield running


@pytest.fixture
def ada(server: Server) -> Iterator[httpx.Client]:
    with server.http(headers={"x-api-key": "key-a"}, timeout=60) as client:
        yield client


@pytest.fixture
def bob(server: Server) -> Iterator[httpx.Client]:
    with server.http(headers={"x-api-key": "key-b"}, timeout=60) as client:
        yield client


def waiting(client: httpx.Client) -> int:
    return int(client.get("/metrics?format=json").json()["queue"]["n_pending"])


def test_a_long_queue_of_one_does_not_starve_the_first_run_of_another(ada: httpx.Client, bob: httpx.Client) -> None:
    batch = [{"assistant_id": "steps", **SLOW}] * 300
    assert ada.post("/runs/batch", json=batch).status_code == 200
    assert wait(bob, new_thread(bob), "steps", **SLOW)["log"] == [0, 1, 2]
    assert waiting(bob) > 250


def test_requests_that_come_all_the_time_do_not_overtake_what_is_queued(ada: httpx.Client, bob: httpx.Client) -> None:
    stop, done = threading.Event(), 0
    threads = [new_thread(ada) for _ in range(6)]

    def post_on_and_on(thread: str) -> None:
        nonlocal done
        while not stop.is_set():
            wait(ada, thread, "steps", **SLOW)
            done += 1

    posting = [threading.Thread(target=post_on_and_on, args=[thread]) for thread in threads]
    for each in posting:
        each.start()
    try:
        until(lambda: done >= 4, "ada is at it")
        before = done
        assert wait(bob, new_thread(bob), "steps", **SLOW)["log"] == [0, 1, 2]
        assert done - before <= 12
    finally:
        stop.set()
        for each in posting:
            each.join(60)


@pytest.mark.parametrize("server", [1], indirect=True)
def test_of_ones_own_runs_the_higher_priority_comes_first(ada: httpx.Client) -> None:
    blocker, long = new_thread(ada), {"input": {"log": [], "pause": 0.05, "count": 40}}
    until_running(ada, blocker, start(ada, blocker, "steps", **long))
    threads = [new_thread(ada) for _ in range(3)]
    low, default, high = [
        start(ada, thread, "steps", priority=priority, **SLOW)
        for thread, priority in zip(threads, (-5, None, 5), strict=True)
    ]
    until(lambda: run_status(ada, threads[2], high) == "success", "the first has ended", seconds=60)
    assert run_status(ada, threads[0], low) == "pending"
    until(lambda: run_status(ada, threads[1], default) == "success", "the second has ended", seconds=60)
    assert run_status(ada, threads[0], low) in ("pending", "running")
