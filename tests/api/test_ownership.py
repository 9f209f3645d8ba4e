"""Every query knows its owner (invariant 10): keys, other people's rows, and no route left out.

The same holds however callers are told apart: by our keys, by a project's own authentication without any authorization
handler, and by one whose handlers filter by metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from langgraph_sdk import get_client
from langgraph_sdk.errors import AuthenticationError, NotFoundError
from starlette.routing import BaseRoute

from holdfast.api import a2a, approvals, assistants, crons, mcp, runs, stateless, states, store, threads
from holdfast.api.application import create_app
from holdfast.api.deps import Permission, Services
from holdfast.api.jsonrpc import known
from tests.conftest import PROJECT
from tests.support.guarded import ADA, AUTH, BOB, WAYS, guarded_server
from tests.support.postgres import Cluster
from tests.support.server import Server, refusal_to_start
from tests.support.talk import LONG, get_thread, join, new_thread, refused, start, until_running, wait

KEYS = "ada:key-a,bob:key-b"
SYSTEM = {
    "/",
    "/ok",
    "/health",
    "/ready",
    "/info",
    "/metrics",
    "/docs",
    "/docs/assets",
    "/docs/oauth2-redirect",
    "/openapi.json",
}
"""What anybody may ask: health, figures, identity and the API's documents."""


@pytest.fixture(scope="module", params=WAYS)
def guarded(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Server]:
    """With authentication it may listen on the network."""
    with guarded_server(cluster, request.param, HOST="0.0.0.0") as running:
        yield running


@pytest.fixture(scope="module")
def ada(guarded: Server) -> Iterator[httpx.Client]:
    with guarded.http(headers=ADA, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def bob(guarded: Server) -> Iterator[httpx.Client]:
    with guarded.http(headers=BOB, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def stranger(guarded: Server) -> Iterator[httpx.Client]:
    with guarded.http(timeout=30) as client:
        yield client


def operations(client: httpx.Client) -> Iterator[tuple[str, str]]:
    """All documented operations that are not the system's."""
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        if path not in SYSTEM:
            for method in methods:
                yield method.upper(), path


# --- keys ---


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "key-a"},
        {"authorization": "Bearer key-a"},
        {"authorization": "bearer key-a"},
        {"X-API-KEY": "key-a", "authorization": "Bearer something-else"},
    ],
)
def test_a_key_opens_the_door_in_both_headers(stranger: httpx.Client, headers: dict[str, str]) -> None:
    assert stranger.post("/threads", json={}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"x-api-key": "key"},
        {"x-api-key": "key-ax"},
        {"x-api-key": "ada"},
        {"x-api-key": "ada:key-a"},
        {"authorization": "key-a"},
        {"authorization": "Basic key-a"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer key-c"},
        {"x-auth-scheme": "langsmith"},
        {"x-api-key": "ключ".encode()},
    ],
)
def test_without_a_known_key_nothing_but_the_system_answers(stranger: httpx.Client, headers: Any) -> None:
    answer = stranger.post("/threads", json={}, headers=headers)
    refused(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"
    for path in sorted(SYSTEM - {"/docs/oauth2-redirect", "/docs/assets"}):
        assert stranger.get(path, headers=headers).status_code == 200


def test_every_other_operation_asks_for_a_key_before_it_reads_anything(stranger: httpx.Client) -> None:
    asked = list(operations(stranger))
    assert len(asked) > 25
    for method, path in asked:
        filled = re.sub(r"\{\w+\}", "nonsense", path)
        refused(stranger.request(method, filled, content=b"{"), 401)


def test_a_browsers_preflight_needs_no_key(stranger: httpx.Client) -> None:
    headers = {"Origin": "https://smith.langchain.com", "Access-Control-Request-Method": "POST"}
    assert stranger.options("/threads", headers=headers).status_code == 200
    denied = stranger.post("/threads", json={}, headers={"Origin": "https://smith.langchain.com"})
    assert (denied.status_code, denied.headers["access-control-allow-origin"]) == (401, "*")


@pytest.mark.anyio
async def test_the_sdk_comes_in_with_its_api_key(guarded: Server) -> None:
    async with get_client(url=guarded.url, api_key="key-a") as mine:
        thread = (await mine.threads.create())["thread_id"]
        assert (await mine.runs.wait(thread, "steps", input={"count": 1}))["log"] == [0]  # type: ignore[call-overload]
    async with get_client(url=guarded.url, api_key="key-b") as other:
        with pytest.raises(NotFoundError):
            await other.threads.get(thread)
    async with get_client(url=guarded.url, api_key=None) as nobody:
        with pytest.raises(AuthenticationError):
            await nobody.threads.get(thread)


def test_a_key_is_written_nowhere(guarded: Server, ada: httpx.Client) -> None:
    thread = new_thread(ada)
    wait(ada, thread, "steps", input={"count": 1})
    seen = [
        ada.get(f"/threads/{thread}/state").text,
        ada.get(f"/threads/{thread}/runs").text,
        ada.get("/info").text,
        guarded.log,
    ]
    assert not [text for text in seen if "key-a" in text or "key-b" in text]


# --- other people's rows ---

CRON = {"assistant_id": "approve", "schedule": "0 0 1 1 *", "metadata": {"secret": "s"}}


@pytest.fixture(scope="module")
def hers(ada: httpx.Client) -> dict[str, str]:
    """Ada's thread, with a question open, and the run that asked it."""
    thread = new_thread(ada, metadata={"secret": "s"})
    run = start(ada, thread, "approve", input={"log": ["private"]})
    join(ada, thread, run)
    checkpoint = ada.get(f"/threads/{thread}/state").json()["checkpoint_id"]
    cron = ada.post(f"/threads/{thread}/runs/crons", json=CRON).json()["cron_id"]
    return {"thread_id": thread, "run_id": run, "checkpoint_id": checkpoint, "cron_id": cron}


BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("PATCH", "/threads/{thread_id}"): {"metadata": {"stolen": True}},
    ("POST", "/threads/{thread_id}/state"): {"values": {"log": ["stolen"]}},
    ("POST", "/threads/{thread_id}/state/checkpoint"): {"checkpoint": {}},
    ("POST", "/threads/{thread_id}/repair"): {},
    ("POST", "/threads/{thread_id}/history"): {},
    ("POST", "/threads/{thread_id}/runs"): {"assistant_id": "approve", "input": {}},
    ("POST", "/threads/{thread_id}/runs/stream"): {"assistant_id": "approve", "input": {}},
    ("POST", "/threads/{thread_id}/runs/wait"): {"assistant_id": "approve", "input": {}},
    ("POST", "/threads/{thread_id}/runs/crons"): CRON,
    ("PATCH", "/runs/crons/{cron_id}"): {"enabled": False},
}


def test_other_peoples_threads_and_runs_are_404_on_every_route(
    ada: httpx.Client, bob: httpx.Client, hers: dict[str, str]
) -> None:
    before = everything(ada, hers["thread_id"])
    ids = ("{thread_id}", "{run_id}", "{cron_id}")
    asked = [(method, path) for method, path in operations(bob) if any(name in path for name in ids)]
    assert len(asked) >= 22
    for method, path in asked:
        filled = path.format(**hers)
        refused(bob.request(method, filled, json=BODIES.get((method, path))), 404)
    assert everything(ada, hers["thread_id"]) == before


@pytest.mark.parametrize("operation", ["", "/stream", "/wait"])
def test_other_peoples_questions_cannot_be_answered_nor_threads_taken_over(
    ada: httpx.Client, bob: httpx.Client, hers: dict[str, str], operation: str
) -> None:
    before = everything(ada, hers["thread_id"])
    for body in ({"command": {"resume": "yes"}}, {"input": {}, "if_not_exists": "create"}):
        path = f"/threads/{hers['thread_id']}/runs{operation}"
        refused(bob.post(path, json={"assistant_id": "approve", **body}), 404)
    assert everything(ada, hers["thread_id"]) == before


@pytest.mark.parametrize("if_exists", ["raise", "do_nothing"])
def test_a_taken_id_is_a_conflict_that_shows_nothing(
    ada: httpx.Client, bob: httpx.Client, hers: dict[str, str], if_exists: str
) -> None:
    before = everything(ada, hers["thread_id"])
    answer = bob.post("/threads", json={"thread_id": hers["thread_id"], "if_exists": if_exists, "metadata": {"b": 1}})
    assert "private" not in refused(answer, 409)
    assert everything(ada, hers["thread_id"]) == before


def test_search_and_count_show_ones_own_only(ada: httpx.Client, bob: httpx.Client, hers: dict[str, str]) -> None:
    mine = new_thread(bob, metadata={"secret": "s"})
    for terms in ({}, {"metadata": {"secret": "s"}}, {"ids": [hers["thread_id"], mine]}):
        found = [row["thread_id"] for row in bob.post("/threads/search", json={**terms, "limit": 1000}).json()]
        assert mine in found
        assert hers["thread_id"] not in found
        assert bob.post("/threads/count", json=terms).json() == len(found)
    mine = bob.post("/runs/crons", json=CRON).json()["cron_id"]
    for terms in ({}, {"metadata": {"secret": "s"}}, {"thread_id": hers["thread_id"]}, {"assistant_id": "approve"}):
        rows = bob.post("/runs/crons/search", json={**terms, "limit": 1000}).json()
        assert {row["cron_id"] for row in rows} <= {mine}
        assert {row["user_id"] for row in rows} <= {"bob"}
        assert bob.post("/runs/crons/count", json=terms).json() == len(rows)
    for terms in ({}, {"state": "pending"}, {"thread_id": hers["thread_id"]}, {"graph_id": "approve"}):
        assert bob.post("/approvals/search", json=terms).json() == []
    assert len(ada.post("/approvals/search", json={"thread_id": hers["thread_id"]}).json()) == 1
    assert bob.post("/threads/search", json={"values": {"log": ["private"]}}).json() == []
    assert bob.post("/threads/count", json={"status": "interrupted"}).json() == 0


@pytest.mark.parametrize("strategy", ["delete", "keep_latest"])
def test_other_peoples_threads_are_not_pruned(
    ada: httpx.Client, bob: httpx.Client, hers: dict[str, str], strategy: str
) -> None:
    before = everything(ada, hers["thread_id"])
    mine = new_thread(bob)
    answer = bob.post("/threads/prune", json={"thread_ids": [hers["thread_id"], mine], "strategy": strategy})
    assert answer.json() == {"pruned_count": 1}
    assert everything(ada, hers["thread_id"]) == before


def test_a_run_of_ones_own_under_another_persons_thread_is_404(
    ada: httpx.Client, bob: httpx.Client, hers: dict[str, str]
) -> None:
    mine = new_thread(bob)
    run = start(bob, mine, "steps", input={"count": 1})
    join(bob, mine, run)
    for path in ("", "/join", "/stream"):
        refused(bob.get(f"/threads/{hers['thread_id']}/runs/{run}{path}"), 404)
        refused(bob.get(f"/threads/{mine}/runs/{hers['run_id']}{path}"), 404)
    assert get_thread(ada, hers["thread_id"])["status"] == "interrupted"


def test_another_persons_running_run_cannot_be_cancelled_or_followed(ada: httpx.Client, bob: httpx.Client) -> None:
    thread = new_thread(ada)
    run = start(ada, thread, "steps", **LONG)
    until_running(ada, thread, run)
    refused(bob.post(f"/threads/{thread}/runs/{run}/cancel"), 404)
    refused(bob.delete(f"/threads/{thread}/runs/{run}"), 404)
    refused(bob.delete(f"/threads/{thread}"), 404)
    refused(bob.get(f"/threads/{thread}/runs/{run}/stream", params={"cancel_on_disconnect": "1"}), 404)
    for path in ("", "/join", "/stream"):
        refused(bob.get(f"/runs/{run}{path}"), 404)
    for which in ({"thread_id": thread, "run_ids": [run]}, {"status": "all"}):
        refused(bob.post("/runs/cancel", json=which), 404)
    assert ada.get(f"/threads/{thread}/runs/{run}").json()["status"] == "running"
    assert ada.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": 1}).status_code == 200


def test_another_persons_idempotency_key_is_ones_own_as_well(ada: httpx.Client, bob: httpx.Client) -> None:
    key = {"idempotency-key": "shared"}
    body = {"assistant_id": "steps", "input": {"count": 1}, "on_completion": "keep"}
    first, others = [client.post("/runs", json=body, headers=key).json() for client in (ada, bob)]
    assert first["run_id"] != others["run_id"]
    refused(bob.get(f"/runs/{first['run_id']}"), 404)
    assert [client.post("/runs", json=body, headers=key).json()["run_id"] for client in (ada, bob)] == [
        first["run_id"],
        others["run_id"],
    ]


def test_both_may_use_the_projects_assistants(ada: httpx.Client, bob: httpx.Client) -> None:
    assert ada.get("/assistants/steps").json() == bob.get("/assistants/steps").json()
    assert ada.post("/assistants/search", json={}).json() == bob.post("/assistants/search", json={}).json()


# --- assistants ---


@pytest.fixture(scope="module")
def her_assistant(ada: httpx.Client) -> str:
    """Ada's assistant, in its second version."""
    body = {"graph_id": "steps", "name": "hers", "context": {"secret": "s"}, "metadata": {"secret": "s"}}
    made = str(ada.post("/assistants", json=body).json()["assistant_id"])
    assert ada.patch(f"/assistants/{made}", json={"name": "hers now"}).json()["version"] == 2
    return made


ASSISTANT_BODIES: dict[str, dict[str, Any]] = {"/assistants/{assistant_id}/latest": {"version": 1}}


def test_other_peoples_assistants_are_404_on_every_route(
    ada: httpx.Client, bob: httpx.Client, her_assistant: str
) -> None:
    before = ada.get(f"/assistants/{her_assistant}").json()
    asked = [(method, path) for method, path in operations(bob) if path.startswith("/assistants/{assistant_id}")]
    assert len(asked) >= 9
    for method, path in asked:
        filled = path.format(assistant_id=her_assistant, namespace="child")
        for params in ({}, {"delete_threads": "true"}):
            body = ASSISTANT_BODIES.get(path, {})
            detail = refused(bob.request(method, filled, json=body, params=params), 404)
            assert detail == f"Assistant with ID {her_assistant} not found"
    assert ada.get(f"/assistants/{her_assistant}").json() == before
    thread = new_thread(bob)
    refused(bob.post(f"/threads/{thread}/runs", json={"assistant_id": her_assistant}), 404)
    refused(bob.post("/runs/wait", json={"assistant_id": her_assistant}), 404)


@pytest.mark.requirement("assistants.if_exists")
@pytest.mark.parametrize("if_exists", ["raise", "do_nothing"])
def test_a_taken_assistant_id_is_a_conflict_that_shows_nothing(
    bob: httpx.Client, her_assistant: str, if_exists: str
) -> None:
    body = {"graph_id": "steps", "assistant_id": her_assistant, "if_exists": if_exists}
    assert "hers" not in refused(bob.post("/assistants", json=body), 409)


def test_search_and_count_show_ones_own_assistants_and_the_systems(
    ada: httpx.Client, bob: httpx.Client, her_assistant: str
) -> None:
    for client, seen in ((ada, 1), (bob, 0)):
        assert client.post("/assistants/count", json={"metadata": {"secret": "s"}}).json() == seen
        found = [row["assistant_id"] for row in client.post("/assistants/search", json={"limit": 1000}).json()]
        assert found.count(her_assistant) == seen
        assert client.post("/assistants/count", json={"name": "HERS"}).json() == seen


@pytest.mark.requirement("assistants.change_system", "assistants.delete_system")
def test_what_belongs_to_everybody_is_nobodys_to_change(ada: httpx.Client) -> None:
    before = ada.get("/assistants/steps").json()
    for answer in (
        ada.patch("/assistants/steps", json={"name": "mine"}),
        ada.post("/assistants/steps/latest", json={"version": 1}),
        ada.delete("/assistants/steps"),
        ada.delete("/assistants/steps", params={"delete_threads": "true"}),
    ):
        assert "system assistant of graph 'steps'" in refused(answer, 403)
    assert ada.get("/assistants/steps").json() == before
    assert [row["version"] for row in ada.post("/assistants/steps/versions", json={}).json()] == [1]


@pytest.mark.requirement("assistants.delete_threads")
def test_deleting_an_assistant_with_its_threads_touches_nobody_elses(ada: httpx.Client, bob: httpx.Client) -> None:
    made = ada.post("/assistants", json={"graph_id": "steps"}).json()["assistant_id"]
    his, hers = new_thread(bob, metadata={"assistant_id": made}), new_thread(ada)
    wait(ada, hers, made, input={"count": 1})
    assert ada.delete(f"/assistants/{made}", params={"delete_threads": "true"}).status_code == 204
    refused(ada.get(f"/threads/{hers}"), 404)
    assert bob.get(f"/threads/{his}").status_code == 200


def test_the_owner_is_told_to_the_graph_and_cannot_be_forged(bob: httpx.Client) -> None:
    forged = {"langgraph_auth_user_id": "ada", "langgraph_auth_user": {"identity": "ada"}, "user_id": "ada"}
    thread = new_thread(bob)
    wait(bob, thread, "steps", input={"count": 1}, config={"configurable": forged})
    metadata = bob.get(f"/threads/{thread}/state").json()["metadata"]
    assert metadata["user_id"] == "bob"
    assert '"ada"' not in json.dumps(metadata)


def everything(client: httpx.Client, thread: str) -> list[Any]:
    """All that a thread's owner can see of it."""
    paths = ["", "/state", "/runs", "/history?limit=100", "/approvals"]
    crons = client.post("/runs/crons/search", json={"thread_id": thread}).json()
    return [crons, *(client.get(f"/threads/{thread}{path}").json() for path in paths)]


# --- the route table ---


def leaves(routes: list[BaseRoute]) -> Iterator[BaseRoute]:
    for route in routes:
        inner = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
        if inner:
            yield from leaves(inner)
        else:
            yield route


def asks_who(dependant: Dependant) -> bool:
    return (
        isinstance(dependant.call, Permission)
        or dependant.call is known
        or any(asks_who(inner) for inner in dependant.dependencies)
    )


def test_no_route_but_the_systems_works_without_knowing_the_caller() -> None:
    app = create_app(cast("Services", None))
    found = list(leaves(app.routes))
    routers = (approvals, assistants, threads, states, crons, runs, stateless, store, mcp, a2a)
    for router in (room.router for room in routers):
        mine = [route for route in found if str(getattr(route, "path", "")).startswith(router.prefix)]
        assert len(mine) >= len(router.routes)
    open_paths = {
        str(getattr(route, "path", route))
        for route in found
        if not (isinstance(route, APIRoute) and asks_who(route.dependant))
    }
    assert {"/ok", "/info"} < open_paths <= SYSTEM


# --- listening on the network ---


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_open_door_to_the_network_is_refused_in_one_line(host: str) -> None:
    line = refusal_to_start(PROJECT, HOST=host)
    assert f"refusing to listen on {host} without authentication" in line
    assert "HOLDFAST_API_KEYS" in line
    assert "HOLDFAST_ALLOW_OPEN_NETWORK" in line


def test_keys_beside_custom_authentication_are_refused() -> None:
    line = refusal_to_start(AUTH / "bare.json", HOLDFAST_API_KEYS=KEYS)
    assert "only one can say who callers are" in line
    assert "key-a" not in line


@pytest.mark.parametrize("keys", [":s3cret", "ada:s3cret,bob:s3cret"])
def test_keys_that_make_no_sense_are_refused_in_one_line_that_keeps_them_secret(keys: str) -> None:
    line = refusal_to_start(PROJECT, HOLDFAST_API_KEYS=keys)
    assert "HOLDFAST_API_KEYS" in line
    assert "s3cret" not in line


def test_the_network_is_listened_on_without_keys_when_somebody_says_so(cluster: Cluster) -> None:
    open_network = {"HOST": "0.0.0.0", "HOLDFAST_ALLOW_OPEN_NETWORK": "1"}
    with (
        cluster.database() as url,
        Server(database_url=url, config=PROJECT, **open_network) as running,
        running.http() as client,
    ):
        assert client.post("/threads", json={}).status_code == 200
