"""The `http` section of langgraph.json without an application: CORS, prefix, routes left out; and the metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client
from prometheus_client.parser import text_string_to_metric_families

from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import LONG, new_thread, refused, start, until, until_running, wait

SUPPORT = Path(__file__).parents[1] / "support"

Serve = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture
def serve(cluster: Cluster, tmp_path: Path) -> Serve:
    """A client of a server with this `http` section, and this environment."""

    @contextmanager
    def running(section: dict[str, Any] | None = None, **environment: str) -> Iterator[httpx.Client]:
        path = tmp_path / "langgraph.json"
        graphs = {"steps": f"{SUPPORT}/project/graphs.py:steps"}
        path.write_text(json.dumps({"graphs": graphs, "http": section or {}}))
        with (
            cluster.database() as url,
            Server(database_url=url, config=path, **environment) as server,
            server.http(timeout=30) as client,
        ):
            yield client

    return running


def preflight(client: httpx.Client, origin: str, **headers: str) -> httpx.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST", **headers}
    return client.options("/threads", headers=asked)


@pytest.mark.requirement("system.cors_section")
def test_cors_is_what_the_project_says(serve: Serve) -> None:
    cors = {
        "allow_origins": ["https://a.example"],
        "allow_origin_regex": r"https://.*\.b\.example",
        "allow_methods": ["GET", "POST"],
        "allow_headers": ["x-mine"],
        "allow_credentials": True,
        "expose_headers": ["x-theirs"],
        "max_age": 5,
    }
    with serve({"cors": cors}) as client:
        for origin in ("https://a.example", "https://x.b.example"):
            allowed = preflight(client, origin, **{"Access-Control-Request-Headers": "x-mine"})
            assert allowed.status_code == 200
            assert allowed.headers["access-control-allow-origin"] == origin
            assert allowed.headers["access-control-allow-credentials"] == "true"
            assert allowed.headers["access-control-max-age"] == "5"
        assert preflight(client, "https://c.example").status_code == 400
        assert preflight(client, "https://a.example", **{"Access-Control-Request-Headers": "x-y"}).status_code == 400
        answer = client.get("/info", headers={"Origin": "https://c.example"})
        assert "access-control-allow-origin" not in answer.headers
        answer = client.get("/info", headers={"Origin": "https://a.example"})
        assert answer.headers["access-control-expose-headers"] == "x-theirs"


@pytest.mark.requirement("system.mount_prefix")
@pytest.mark.anyio
@pytest.mark.parametrize("from_environment", [True, False])
async def test_everything_lies_below_the_prefix(serve: Serve, from_environment: bool) -> None:
    section, environment = ({"mount_prefix": "/other"}, {"MOUNT_PREFIX": "/a/b"})
    if not from_environment:
        section, environment = ({"mount_prefix": "a/b/"}, {})
    with serve(section, **environment) as client:
        for path in ("/ok", "/threads", "/a", "/a/bc/ok", "/a/b-c", "/other/ok"):
            refused(client.get(path), 404)
        assert client.get("/a/b/ok").json() == client.get("/a/b").json() == {"ok": True, "services": {}}
        assert client.get("/a/b/openapi.json").json()["servers"] == [{"url": "/a/b"}]
        assert "/a/b/docs/assets/swagger-ui.css" in client.get("/a/b/docs").text
        assert client.get("/a/b/docs/assets/swagger-ui.css").status_code == 200
        slash = client.post("/a/b/threads/", json={})
        assert slash.headers["location"].endswith("/a/b/threads")
        thread = client.post("/a/b/threads", json={}).json()["thread_id"]
        run = client.post(f"/a/b/threads/{thread}/runs/stream", json={"assistant_id": "steps", "input": {"count": 1}})
        assert run.headers["content-location"].startswith(f"/threads/{thread}/runs/")
        assert run.headers["location"].startswith(f"/threads/{thread}/runs/")
        async with get_client(url=f"{client.base_url}/a/b") as sdk:
            values = await sdk.runs.wait(thread, "steps", input={"count": 2})  # type: ignore[call-overload]
            assert values["log"] == [0, 1]


@pytest.mark.requirement("system.disabled")
def test_what_is_disabled_is_not_there(serve: Serve) -> None:
    with serve({"disable_assistants": True, "disable_runs": True, "disable_meta": True}) as client:
        assert client.get("/ok").json() == client.get("/").json() == {"ok": True}
        for path in ("/info", "/metrics", "/docs", "/openapi.json"):
            assert refused(client.get(path), 404) == "Not Found"
        thread = new_thread(client)
        refused(client.post("/assistants/search", json={}), 404)
        refused(client.get("/assistants/steps"), 404)
        for path in (f"/threads/{thread}/runs", "/runs/wait", f"/threads/{thread}/runs/stream"):
            refused(client.post(path, json={"assistant_id": "steps", "input": {}}), 404)
        assert client.get(f"/threads/{thread}/state").status_code == 200


@pytest.mark.requirement("system.disabled")
def test_runs_work_without_threads_of_ones_own(serve: Serve) -> None:
    with serve({"disable_threads": True}) as client:
        refused(client.post("/threads", json={}), 404)
        refused(client.post("/threads/search", json={}), 404)
        run = {"assistant_id": "steps", "input": {"count": 1}}
        assert client.post("/runs/wait", json=run).json()["log"] == [0]


@pytest.mark.requirement("system.metrics")
def test_the_queue_and_the_requests_are_counted(serve: Serve) -> None:
    with serve(None, HOLDFAST_SLOTS="1") as client:
        quiet = client.get("/metrics", params={"format": "json"}).json()["queue"]
        assert (quiet["n_pending"], quiet["n_running"]) == (0, 0)
        assert quiet["pending_runs_wait_time_max_secs"] is None
        thread = new_thread(client)
        run = start(client, thread, "steps", **LONG)
        until_running(client, thread, run)
        for waiting in (thread, thread, new_thread(client)):
            start(client, waiting, "steps", input={"count": 1})
        start(client, thread, "steps", input={"count": 1}, after_seconds=1000)
        refused(client.get("/threads/nonsense"), 422)
        refused(client.get("/nowhere/at/all"), 404)

        queue = until(lambda: _queue_after(client, 0.01), "the runs have waited a while")
        assert (queue["n_pending"], queue["n_running"]) == (4, 1)
        assert queue["pending_runs_wait_time_max_secs"] >= queue["pending_runs_wait_time_med_secs"] > 0
        assert queue["pending_unblocked_runs_wait_time_max_secs"] < queue["pending_runs_wait_time_max_secs"]

        counted = client.get("/metrics", params={"format": "json"}).json()["api"]["http_requests_total"]
        counts = {(row["method"], row["path"], row["status"]): row["count"] for row in counted}
        assert counts["POST", "/threads/{thread_id}/runs", 200] == 5
        assert counts["GET", "/threads/{thread_id}", 422] == 1
        assert counts["GET", "(no route)", 404] == 1
        assert not [path for _, path, _ in counts if thread in path]

        text = client.get("/metrics")
        assert text.headers["content-type"].startswith("text/plain")
        families = {family.name: family for family in text_string_to_metric_families(text.text)}
        assert families["holdfast_queue_n_running"].samples[0].value == 1
        samples = families["holdfast_http_requests"].samples
        assert {"method": "POST", "path": "/threads", "status": "200"} in [sample.labels for sample in samples]
        refused(client.get("/metrics", params={"format": "xml"}), 422)


def _queue_after(client: httpx.Client, seconds: float) -> Any:
    queue = client.get("/metrics", params={"format": "json"}).json()["queue"]
    return queue if (queue["pending_unblocked_runs_wait_time_max_secs"] or 0) > seconds else None


@pytest.mark.requirement("system.no_section")
def test_a_project_without_an_http_section_is_served_as_ever(serve: Serve) -> None:
    with serve() as client:
        assert wait(client, new_thread(client), "steps", input={"count": 1})["log"] == [0]
        assert preflight(client, "http://localhost:3000").headers["access-control-allow-origin"] == "*"
