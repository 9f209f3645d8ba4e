"""`serve --processes 2`: one address, one database, and no process that matters."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest

from holdfast.db.embedded import url_for
from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import Server, refusal_to_start, with_sections
from tests.support.talk import LONG, join, new_thread, run_status, start, stream, until, until_running, wait

TWO_SECONDS = {"input": {"log": [], "pause": 0.05, "count": 40}, "config": {"recursion_limit": 100}}


@pytest.fixture(scope="module")
def of_the_module(cluster: Cluster) -> Iterator[tuple[Server, str]]:
    with cluster.database() as url, Server(config=PROJECT, database_url=url, processes=2) as server:
        yield server, url


@pytest.fixture
def two(of_the_module: tuple[Server, str]) -> Server:
    return of_the_module[0]


@pytest.fixture
def url(of_the_module: tuple[Server, str]) -> str:
    return of_the_module[1]


def executing(url: str) -> dict[int, int]:
    """How many runs each process executes, by its pid, as the database sees it."""
    query = """SELECT w.pid, count(r.run_id) FROM holdfast.workers w
               LEFT JOIN holdfast.runs r ON r.worker_id = w.worker_id AND r.status = 'running' GROUP BY w.pid"""
    with psycopg.connect(url) as conn:
        return dict(conn.execute(query).fetchall())


def gone(pids: set[int]) -> bool:
    return not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids)


def test_both_are_at_one_address_and_say_once_that_they_are_ready(two: Server, url: str) -> None:
    assert len(two.siblings) == 2
    assert set(executing(url)) == two.siblings
    assert two.log.count("Holdfast is ready (serve, 2 processes)") == 1
    assert f"API       {two.url}" in two.log


def test_the_runs_of_one_connection_are_executed_by_both(two: Server, url: str) -> None:
    with two.http(limits=httpx.Limits(max_connections=1), timeout=30.0) as http:
        runs = [(thread := new_thread(http), start(http, thread, "steps", **LONG)) for _ in range(24)]
        until(lambda: sum(executing(url).values()) == 24, "all runs are executed")
        loads = executing(url)
        http.post("/runs/cancel", json={"status": "all"})
        for thread, run in runs:
            until(lambda thread=thread, run=run: run_status(http, thread, run) == "interrupted", "the run has stopped")
    assert min(loads.values()) >= 6, loads


def test_whoever_waits_or_streams_does_not_see_which_process_executes(two: Server) -> None:
    body = {"input": {"log": [], "count": 5, "pause": 0.05}}
    with two.http(timeout=30.0) as http, ThreadPoolExecutor(16) as pool:
        threads = [new_thread(http) for _ in range(32)]
        results = list(pool.map(lambda thread: wait(http, thread, "steps", **body)["log"], threads[:16]))
        streams = list(
            pool.map(
                lambda thread: stream(http, thread, "steps", stream_mode=["updates"], **body),  # type: ignore[arg-type]
                threads[16:],
            )
        )
    assert results == [list(range(5))] * 16
    steps = [[event.data["step"]["log"] for event in events if event.name == "updates"] for events in streams]
    assert steps == [[[number] for number in range(5)]] * 16


def test_a_killed_process_is_started_again_and_its_runs_go_on(two: Server, url: str) -> None:
    before = two.siblings
    with two.http(limits=httpx.Limits(max_keepalive_connections=0), timeout=30.0) as http:
        runs = [(thread := new_thread(http), start(http, thread, "steps", **TWO_SECONDS)) for _ in range(8)]
        loads = until(lambda: (now := executing(url)) and min(now.values()) > 0 and now, "both execute")
        victim = max(loads, key=loads.__getitem__)
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(two.siblings - {victim}) == 2, "another process is there")
        until(lambda: set(executing(url)) == two.siblings, "both work")
        results = [join(http, thread, run) for thread, run in runs]
    assert [result["log"] for result in results] == [list(range(40))] * 8
    assert before - two.siblings == {victim}
    assert "ended with status -9; it starts again" in two.log


def test_a_stopping_server_drains_and_leaves_nobody(cluster: Cluster) -> None:
    with cluster.database() as url, Server(config=PROJECT, database_url=url, processes=2) as server:
        pids = server.siblings
        with server.http() as http:
            runs = [(thread := new_thread(http), start(http, thread, "steps", **LONG)) for _ in range(6)]
            for thread, run in runs:
                until_running(http, thread, run)
        # As systemd does it, and a terminal: everybody is told. The processes listen to their supervisor alone.
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        assert server.stop() == 0
        assert gone(pids)
        with psycopg.connect(url) as conn:
            rows = conn.execute("SELECT DISTINCT status, worker_id, crashes FROM holdfast.runs").fetchall()
        assert rows == [("pending", None, 0)]


def test_nobody_outlives_a_killed_supervisor_and_its_runs_go_on_with_the_next(tmp_path: Path) -> None:
    with Server(config=PROJECT, data_dir=tmp_path / "data", processes=2) as server:
        with server.http() as http:
            thread = new_thread(http)
            run = start(http, thread, "steps", **TWO_SECONDS)
            until_running(http, thread, run)
        pids = server.siblings
        server.kill()
        until(lambda: gone(pids), "the processes have ended")
        server.start()
        with server.http(timeout=30.0) as http:
            assert join(http, thread, run)["log"] == list(range(40))
        assert server.stop() == 0
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url_for(tmp_path / "data" / "run"), connect_timeout=1)


def test_a_second_signal_does_not_wait_for_steps(cluster: Cluster) -> None:
    slow = {"input": {"log": [], "pause": 60, "count": 1}}
    with cluster.database() as url, Server(config=PROJECT, database_url=url, processes=2) as server:
        with server.http() as http:
            thread = new_thread(http)
            until_running(http, thread, start(http, thread, "steps", **slow))
        server.signal(signal.SIGINT)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.parametrize(("given", "said"), [("0", "greater than or equal to 1"), ("two", "valid integer")])
def test_a_number_of_processes_that_makes_no_sense_is_refused(given: str, said: str) -> None:
    line = refusal_to_start(PROJECT, HOLDFAST_PROCESSES=given)
    assert line.startswith("holdfast: HOLDFAST_PROCESSES: ")
    assert said in line


def test_a_project_that_does_not_load_ends_the_server(database_url: str, tmp_path: Path) -> None:
    config = with_sections(PROJECT, tmp_path, auth={"path": "./missing.py:auth"})
    line = refusal_to_start(config, database_url, HOLDFAST_PROCESSES="2")
    assert "ended with status 1; the server cannot go on" in line


def test_a_process_that_does_not_come_up_again_is_tried_while_another_serves(database_url: str, tmp_path: Path) -> None:
    config = with_sections(PROJECT, tmp_path)
    sound = config.read_text()
    with Server(config=config, database_url=database_url, processes=2) as server:
        config.write_text("broken")
        os.kill(min(server.siblings), signal.SIGKILL)
        until(lambda: "ended with status 1; it starts again" in server.log, "it was tried")
        assert httpx.get(f"{server.url}/ok").status_code == 200
        config.write_text(sound)
        until(lambda: set(executing(database_url)) == server.siblings and len(server.siblings) == 2, "both work")
        config.write_text("broken")
        for pid in server.siblings:
            os.kill(pid, signal.SIGKILL)
        assert server.wait() == 1
        assert "ended with status 1; the server cannot go on" in server.log


def test_another_server_does_not_share_the_address(two: Server, url: str) -> None:
    other = Server(config=PROJECT, database_url=url, port=two.port, processes=2)
    with pytest.raises(AssertionError, match=f"cannot listen on 127.0.0.1:{two.port}"):
        other.start()
