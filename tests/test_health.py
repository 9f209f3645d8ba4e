"""What load balancers and orchestrators are told: alive, ready, and which part is not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg

from tests.conftest import PROJECT
from tests.support.proxy import Proxy
from tests.support.server import Server, free_port
from tests.support.talk import new_thread, start, until, until_running

WELL = {"database": "healthy", "schema": "healthy", "pool": "healthy"}


def services(at: httpx.Client) -> dict[str, str]:
    """What `/ready` says of the parts; its status agrees."""
    answer = at.get("/ready")
    found: dict[str, Any] = answer.json()
    assert found["ok"] == (answer.status_code == 200)
    assert found["ok"] == (set(found["services"].values()) == {"healthy"})
    return dict(found["services"])


def test_a_process_without_a_worker_does_not_speak_of_one(database_url: str) -> None:
    with Server(config=PROJECT, database_url=database_url, part="api") as server, server.http() as http:
        assert services(http) == WELL


def test_a_worker_answers_probes_and_nothing_else_at_its_health_port(database_url: str) -> None:
    port = free_port()
    with (
        Server(config=PROJECT, database_url=database_url, part="worker", HOLDFAST_HEALTH_PORT=str(port)) as worker,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        assert [http.get(path).status_code for path in ("/ok", "/health", "/ready")] == [200, 200, 200]
        assert services(http) == {**WELL, "worker": "healthy"}
        assert "holdfast_queue_n_pending" in http.get("/metrics").text
        assert [http.post("/threads", json={}).status_code, http.get("/docs").status_code] == [404, 404]
        assert worker.stop() == 0


def test_a_worker_that_drains_says_so_at_its_health_port(database_url: str) -> None:
    port = free_port()
    with (
        Server(config=PROJECT, database_url=database_url, part="api") as api,
        Server(config=PROJECT, database_url=database_url, part="worker", HOLDFAST_HEALTH_PORT=str(port)) as worker,
        api.http() as http,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as probe,
        ThreadPoolExecutor(1) as pool,
    ):
        thread = new_thread(http)
        run = start(http, thread, "steps", input={"log": [], "pause": 3.0, "count": 2})
        until_running(http, thread, run)
        stopped = pool.submit(worker.stop)
        until(lambda: services(probe) == {"process": "stopping"}, "it says so")
        assert probe.get("/ok").status_code == 200
        assert stopped.result() == 0


def test_a_schema_that_lacks_a_migration_makes_a_process_unready(database_url: str) -> None:
    with (
        Server(config=PROJECT, database_url=database_url) as server,
        server.http() as http,
        psycopg.connect(database_url, autocommit=True) as conn,
    ):
        gone = "DELETE FROM holdfast.migrations WHERE version = (SELECT max(version) FROM holdfast.migrations)"
        conn.execute(gone)
        assert services(http) == {**WELL, "schema": "unhealthy", "worker": "healthy"}
        assert http.get("/ok").status_code == 200, "and it is alive"


def test_a_worker_whose_lease_ran_out_makes_its_process_unready_until_it_is_back(database_url: str) -> None:
    with (
        Proxy(database_url) as proxy,
        Server(
            config=PROJECT, database_url=database_url, DATABASE_DIRECT_URL=proxy.url, HOLDFAST_LEASE_SECONDS="1"
        ) as server,
        server.http() as http,
    ):
        assert services(http) == {**WELL, "worker": "healthy"}
        proxy.cut(refuse=True)
        until(lambda: services(http) == {**WELL, "worker": "unhealthy"}, "the lease has run out")
        proxy.heal()
        until(lambda: services(http) == {**WELL, "worker": "healthy"}, "the lease is back")


def test_requests_that_wait_for_connections_are_not_taken_for_a_database_that_is_away(database_url: str) -> None:
    with (
        Server(config=PROJECT, database_url=database_url, HOLDFAST_POOL_SIZE="5") as server,
        server.http(timeout=30.0) as http,
        psycopg.connect(database_url) as conn,
        ThreadPoolExecutor(1) as pool,
    ):
        thread = new_thread(http)
        conn.execute("SELECT FROM holdfast.threads WHERE thread_id = %s FOR UPDATE", [thread])
        kept = pool.submit(http.patch, f"/threads/{thread}", json={"metadata": {"a": 1}})
        until(lambda: services(http) == {**WELL, "pool": "unhealthy", "worker": "healthy"}, "the pool is exhausted")
        conn.rollback()
        assert kept.result().status_code == 200
        assert services(http) == {**WELL, "worker": "healthy"}
