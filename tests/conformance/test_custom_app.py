"""A project's own application (`http.app`) in one process with the API."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.postgres import Cluster
from tests.support.server import Server, refusal_to_start
from tests.support.talk import LONG, new_thread, refused, stream, wait

SUPPORT = Path(__file__).parents[1] / "support"
KEY = {"authorization": "Bearer key"}

Config = Callable[..., Path]


def config(directory: Path, name: str = "app", *, auth: bool = False, **http: Any) -> Path:
    """A langgraph.json whose `http.app` is one of `tests/support/app`."""
    document: dict[str, Any] = {
        "dependencies": [str(SUPPORT / "project")],
        "graphs": {"steps": f"{SUPPORT}/project/graphs.py:steps"},
        "http": {"app": f"{SUPPORT}/app/app.py:{name}", **http},
    }
    if auth:
        document["auth"] = {"path": f"{SUPPORT}/app/app.py:auth"}
    path = directory / "langgraph.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module")
def own(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server with the application, and no authentication."""
    path = config(tmp_path_factory.mktemp("app"))
    with (
        cluster.database() as url,
        Server(database_url=url, config=path) as running,
        running.http(timeout=30) as client,
    ):
        yield client


@pytest.mark.requirement("custom.app_routes")
def test_the_projects_routes_come_first(own: httpx.Client) -> None:
    assert own.get("/hello").json() == {"greeting": "hello", "user": None}
    assert own.post("/orders", json={"cups": 2}).json() == {"cups": 2}
    assert own.get("/").json() == {"home": "ours"}
    assert own.get("/threads/special").json() == {"special": True}
    # Only what it answers is its: another method of the same path is ours.
    refused(own.patch("/threads/special", json={}), 422)


@pytest.mark.requirement("custom.app_routes")
def test_the_api_works_behind_them(own: httpx.Client) -> None:
    thread = new_thread(own)
    assert wait(own, thread, "steps", input={"count": 1})["log"] == [0]
    assert stream(own, thread, "steps", input={"count": 2})[-1].data["log"] == [0, 1]
    refused(own.get("/nowhere"), 404)


@pytest.mark.requirement("custom.app_routes")
def test_health_metrics_and_documents_stay_ours(own: httpx.Client) -> None:
    assert own.get("/ok").json() == {"ok": True, "services": {}}
    assert "holdfast_http_requests_total" in own.get("/metrics").text
    assert own.get("/docs").status_code == 200


@pytest.mark.requirement("custom.app_openapi")
def test_its_routes_are_in_the_document(own: httpx.Client) -> None:
    document = own.get("/openapi.json").json()
    assert document["info"]["title"] == "Holdfast"
    assert {"/orders", "/threads/special", "/threads/{thread_id}/runs/stream"} <= document["paths"].keys()
    reference = document["paths"]["/orders"]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert document["components"]["schemas"][reference.rsplit("/", 1)[1]]["properties"].keys() == {"cups"}
    # A route of ours that it shadows for one method keeps its others.
    assert document["paths"]["/"].keys() == {"get"}


@pytest.mark.requirement("custom.app_middleware")
def test_its_middleware_wraps_the_api(own: httpx.Client) -> None:
    for path in ("/hello", "/ok", "/info", "/nowhere", "/threads/nonsense"):
        headers = own.get(path).headers
        assert (headers["x-project"], headers["x-seen"]) == ("yes", "nobody")


@pytest.mark.requirement("custom.app_errors")
def test_errors_are_handled_where_they_were_raised(own: httpx.Client) -> None:
    answer = own.get("/teapot")
    assert (answer.status_code, answer.json()) == (418, {"teapot": "no coffee"})
    assert isinstance(own.post("/orders", json={}).json()["detail"], list)
    refused(own.get("/threads/nonsense"), 422)


@pytest.mark.requirement("custom.app_middleware")
def test_a_stream_that_is_cut_is_not_ended_by_its_middleware(cluster: Cluster, tmp_path: Path) -> None:
    with (
        cluster.database() as url,
        Server(database_url=url, config=config(tmp_path)) as running,
        running.http(timeout=30) as http,
    ):
        run = {"assistant_id": "steps", **LONG}
        with http.stream("POST", f"/threads/{new_thread(http)}/runs/stream", json=run) as answer:
            lines = answer.iter_lines()
            next(lines)
            running.signal(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)
        assert running.wait() == 0
        assert "Traceback" not in running.log


@pytest.mark.requirement("custom.app_cors")
def test_browsers_may_call_its_routes_as_they_may_call_ours(own: httpx.Client) -> None:
    for path in ("/hello", "/info"):
        answer = own.get(path, headers={"Origin": "http://localhost:3000"})
        assert answer.headers.get_list("access-control-allow-origin") == ["*"]


@pytest.mark.requirement("custom.app_lifespan")
def test_its_lifespan_is_around_everything(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.database() as url, Server(database_url=url, config=config(tmp_path)) as running:
        begun = running.log
        running.stop()
        ended = running.log
    assert begun.index("the project's lifespan begins") < begun.index("Holdfast is ready")
    assert "lifespan ends" not in begun
    assert "the project's lifespan ends" in ended


@pytest.mark.requirement("custom.app_lifespan")
def test_a_lifespan_that_fails_keeps_the_server_from_starting(database_url: str, tmp_path: Path) -> None:
    line = refusal_to_start(config(tmp_path), database_url, LIFESPAN_FAILS="1")
    assert "http.app" in line
    assert "app.py:" in line
    assert "RuntimeError: no such warehouse" in line


@pytest.mark.requirement("custom.app_lifespan")
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("hooked", "has on_startup functions, which are not run: use a lifespan"),
        ("no_app", "must be a Starlette or FastAPI app, not str"),
        ("ap", "there is no 'ap' in it; did you mean 'app'"),
    ],
)
def test_an_application_that_cannot_be_served_is_refused(
    database_url: str, tmp_path: Path, name: str, problem: str
) -> None:
    assert problem in refusal_to_start(config(tmp_path, name), database_url)


# --- with authentication ---


@pytest.mark.requirement("custom.app_auth")
@pytest.mark.parametrize("guards_routes", [False, True])
@pytest.mark.parametrize("order", ["auth_first", "middleware_first"])
def test_its_routes_ask_for_a_credential_only_if_they_are_told_to(
    cluster: Cluster, tmp_path: Path, order: str, guards_routes: bool
) -> None:
    path = config(tmp_path, auth=True, middleware_order=order, enable_custom_route_auth=guards_routes)
    with (
        cluster.database() as url,
        Server(database_url=url, config=path) as running,
        running.http(timeout=30) as http,
    ):
        nobody = http.get("/hello")
        assert nobody.status_code == (401 if guards_routes else 200)
        assert http.get("/hello", headers=KEY).json()["user"] == ("ada" if guards_routes else None)
        assert http.post("/orders", json={"cups": 1}, headers=KEY).json() == {"cups": 1}
        refused(http.post("/threads", json={}), 401)
        created = http.post("/threads", json={"metadata": {"a": 1}}, headers=KEY)
        assert created.json()["metadata"] == {"a": 1}
        # With auth_first a middleware knows who calls, and sees no request that was refused.
        assert created.headers["x-seen"] == ("ada" if order == "auth_first" else "nobody")
        assert ("x-project" in http.post("/threads", json={}).headers) == (order == "middleware_first")
        for open_path in ("/ok", "/info", "/metrics", "/docs", "/openapi.json"):
            assert http.get(open_path).status_code == 200
