"""A process that was asked to stop says so, and is gone in time whatever its nodes do."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import psycopg

from tests.conftest import PROJECT
from tests.support.follow import following
from tests.support.server import Server
from tests.support.talk import new_thread, start, until, until_running, wait


def test_a_synchronous_node_that_does_not_end_does_not_keep_its_process(database_url: str) -> None:
    with Server(config=PROJECT, database_url=database_url, HOLDFAST_DRAIN_SECONDS="1") as server, server.http() as http:
        thread = new_thread(http)
        endless = {"log": [], "pause": 300, "count": 1, "blocking": True}
        run = start(http, thread, "steps", input=endless, stream_mode=["tasks"], stream_resumable=True)
        with following(server.url, f"/threads/{thread}/runs/{run}/stream", "-1") as follower:
            follower.until(lambda each: "tasks" in each.names, "the node has begun")
        assert server.stop() == 0
        assert "something does not end" in server.log
    with psycopg.connect(database_url) as conn:
        assert conn.execute("SELECT status FROM holdfast.runs WHERE run_id = %s", [run]).fetchone() == ("pending",)


def test_a_process_that_drains_is_not_ready_and_closes_its_connections(database_url: str) -> None:
    with Server(config=PROJECT, database_url=database_url) as server, server.http() as http:
        thread = new_thread(http)
        run = start(http, thread, "steps", input={"log": [], "pause": 3.0, "count": 2})
        until_running(http, thread, run)
        assert http.get("/ready").status_code == 200
        server.signal(signal.SIGTERM)
        stopping = until(lambda: [got for got in [http.get("/ready")] if got.status_code == 503], "it says so")[0]
        assert stopping.json() == {"ok": False, "services": {"process": "stopping"}}
        assert stopping.headers["connection"] == "close"
        assert http.get(f"/threads/{thread}/runs/{run}").status_code == 200, "requests are still answered"
        assert server.wait() == 0


def test_a_run_that_outlasts_the_drain_is_handed_back_in_the_middle(database_url: str) -> None:
    with Server(config=PROJECT, database_url=database_url, HOLDFAST_DRAIN_SECONDS="0.5") as server:
        with server.http() as http:
            thread = new_thread(http)
            run = start(http, thread, "steps", input={"log": [], "pause": 300, "count": 1})
            until_running(http, thread, run)
        assert server.stop() == 0
    with psycopg.connect(database_url) as conn:
        assert conn.execute("SELECT status FROM holdfast.runs WHERE run_id = %s", [run]).fetchone() == ("pending",)


def test_who_waits_for_a_short_run_hears_its_end_though_it_goes_on_elsewhere(database_url: str) -> None:
    with (
        Server(config=PROJECT, database_url=database_url),
        Server(config=PROJECT, database_url=database_url) as leaving,
        leaving.http() as http,
        ThreadPoolExecutor(1) as pool,
    ):
        thread = new_thread(http)
        answer = pool.submit(wait, http, thread, "steps", input={"log": [], "pause": 0.4, "count": 2})
        until(lambda: http.get(f"/threads/{thread}").json()["status"] == "busy", "the run is under way")
        assert leaving.stop() == 0
        assert len(answer.result()["log"]) == 2
        assert "was handed back" in leaving.log
