"""Webhooks end to end: the unmodified SDK, a server, a receiver."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.receiver import Receiver
from tests.support.server import Server, with_sections
from tests.support.talk import LONG, join, new_thread, refused, start, until, until_running

OPEN = {"url": {"disable_loopback": False}}
KEYS = [b"o" * 24, b"n" * 24]
SECRETS = ",".join(f"whsec_{base64.b64encode(key).decode()}" for key in KEYS)
FIELDS = {
    *("run_id", "thread_id", "assistant_id", "created_at", "updated_at", "metadata", "status", "multitask_strategy"),
    *("langsmith_session_name", "run_started_at", "run_ended_at", "webhook_sent_at", "values"),
}

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def telling_url(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as url:
        yield url


@pytest.fixture(scope="module")
def telling(telling_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may call this machine."""
    headers = {"X-Token": "Bearer ${{ env.LG_WEBHOOK_TOKEN }}"}
    config = with_sections(PROJECT, tmp_path_factory.mktemp("open"), webhooks={**OPEN, "headers": headers})
    environment = {"LG_WEBHOOK_TOKEN": "t0k3n", "HOLDFAST_WEBHOOK_SECRET": SECRETS}
    with Server(database_url=telling_url, config=config, **environment) as running:
        yield running


@pytest.fixture
def talk(telling: Server) -> Iterator[httpx.Client]:
    with telling.http(timeout=30) as client:
        yield client


@pytest.fixture
async def client(telling: Server) -> AsyncIterator[LangGraphClient]:
    async with telling.client() as client:
        yield client


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.mark.requirement("webhooks.success", "webhooks.fields", "webhooks.kwargs")
async def test_a_run_that_succeeds_is_told_with_its_values(client: LangGraphClient, receiver: Receiver) -> None:
    thread = (await client.threads.create())["thread_id"]
    run = await client.runs.create(
        thread, "steps", input={"count": 2}, webhook=f"{receiver.url}/done?a=1", metadata={"order": 7}
    )
    [call] = receiver.wait()
    told = call.told
    assert call.path == "/done?a=1"
    assert set(told) == FIELDS
    assert (told["run_id"], told["thread_id"], told["assistant_id"]) == (run["run_id"], thread, run["assistant_id"])
    assert (told["status"], told["values"], told["metadata"]["order"]) == ("success", {"count": 2, "log": [0, 1]}, 7)
    times = [told[key] for key in ("created_at", "run_started_at", "run_ended_at", "webhook_sent_at")]
    assert times == sorted(times)
    assert run["kwargs"]["webhook"] == f"{receiver.url}/done?a=1"


@pytest.mark.requirement("webhooks.signed", "webhooks.headers")
def test_a_call_is_signed_and_carries_the_projects_headers(talk: httpx.Client, receiver: Receiver) -> None:
    start(talk, new_thread(talk), "steps", input={"count": 1}, webhook=receiver.url)
    [call] = receiver.wait()
    assert call.headers["x-token"] == "Bearer t0k3n"
    assert call.headers["content-type"] == "application/json"
    signed = f"{call.id}.{call.headers['webhook-timestamp']}.".encode() + call.body
    signatures = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in KEYS]
    assert call.headers["webhook-signature"] == " ".join(f"v1,{signature}" for signature in signatures)


@pytest.mark.requirement("webhooks.error")
def test_a_run_that_fails_is_told_with_its_error(talk: httpx.Client, receiver: Receiver) -> None:
    start(talk, new_thread(talk), "failing", input={"log": [1]}, webhook=receiver.url)
    [call] = receiver.wait()
    assert call.told["status"] == "error"
    assert call.told["error"] == {"error": "ValueError", "message": "as told"}
    assert call.told["values"] == {"log": [1]}


@pytest.mark.requirement("webhooks.interrupt")
def test_a_run_that_asks_is_told_as_a_success_with_its_question(talk: httpx.Client, receiver: Receiver) -> None:
    thread = new_thread(talk)
    start(talk, thread, "approve", input={}, webhook=receiver.url)
    [call] = receiver.wait()
    assert call.told["status"] == "success"
    assert [asked["value"] for asked in call.told["values"]["__interrupt__"]] == [{"question": "may I?"}]
    start(talk, thread, "approve", command={"resume": "yes"}, webhook=receiver.url)
    assert receiver.wait(2)[1].told["values"]["log"] == ["yes", "done"]


@pytest.mark.requirement("webhooks.cancelled")
@pytest.mark.parametrize("action", ["interrupt", "rollback"])
def test_a_run_that_is_cancelled_is_told_as_interrupted(talk: httpx.Client, receiver: Receiver, action: str) -> None:
    thread = new_thread(talk)
    running = start(talk, thread, "steps", **LONG, webhook=receiver.url)
    waiting = start(talk, thread, "steps", input={"count": 1}, webhook=receiver.url)
    until_running(talk, thread, running)
    for run in (waiting, running):
        talk.post(f"/threads/{thread}/runs/{run}/cancel", params={"action": action, "wait": 1})
    calls = {call.told["run_id"]: call.told for call in receiver.wait(2)}
    assert {told["status"] for told in calls.values()} == {"interrupted"}
    assert (calls[waiting]["run_started_at"], calls[waiting]["values"]) == (None, None)
    assert calls[running]["run_started_at"]


@pytest.mark.requirement("webhooks.stateless")
@pytest.mark.parametrize("operation", ["/runs/wait", "/runs/stream"])
def test_a_stateless_run_is_told_with_its_values(talk: httpx.Client, receiver: Receiver, operation: str) -> None:
    talk.post(operation, json={"assistant_id": "steps", "input": {"count": 1}, "webhook": receiver.url})
    [call] = receiver.wait()
    assert (call.told["status"], call.told["values"]) == ("success", {"count": 1, "log": [0]})


@pytest.mark.requirement("webhooks.path")
def test_a_path_is_called_on_this_server_itself(telling: Server, telling_url: str, talk: httpx.Client) -> None:
    run = start(talk, new_thread(talk), "steps", input={"count": 1}, webhook="/assistants/count")
    query = "SELECT url FROM holdfast.deliveries WHERE state = 'delivered' AND run_id = %s"

    def called() -> Any:
        with psycopg.connect(telling_url) as conn:
            return conn.execute(query, [run]).fetchone()

    assert until(called, "the server has called itself") == (f"{telling.url}/assistants/count",)


# --- what is refused ---


@pytest.mark.requirement("webhooks.loopback")
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/",
        "http://localhost/",
        "http://[::1]/",
        "/relative",
        "ftp://example.com/",
        "nope",
        "",
        "http://169.254.169.254/latest/meta-data/",
        "http://metadata.google.internal/",
        "http://api.default.svc.cluster.local/",
        "http://user:password@example.com/",
        "http://example.com/" + "a" * 2048,
        "http://example.com/\x00",
    ],
)
@pytest.mark.parametrize(
    "path", ["/threads/{thread}/runs", "/threads/{thread}/runs/wait", "/runs/stream", "/runs/crons"]
)
def test_an_address_that_may_not_be_called_is_refused_at_once(http: httpx.Client, path: str, url: str) -> None:
    thread = new_thread(http)
    body = {"assistant_id": "steps", "input": {}, "webhook": url, "schedule": "* * * * *"}
    detail = refused(http.post(path.format(thread=thread), json=body), 422)
    assert "webhook" in detail.lower()
    assert http.get(f"/threads/{thread}/runs").json() == []


@pytest.mark.requirement("webhooks.loopback")
@pytest.mark.parametrize("webhook", [5, {}, ["https://example.com"], True])
def test_what_is_no_text_is_refused(http: httpx.Client, thread: str, webhook: Any) -> None:
    body = {"assistant_id": "steps", "webhook": webhook}
    assert "webhook" in refused(http.post(f"/threads/{thread}/runs", json=body), 422)


# --- langgraph.json ---


@pytest.mark.requirement("webhooks.disabled")
def test_a_server_that_sends_no_webhooks_accepts_them_all_the_same(
    cluster: Cluster, tmp_path: Path, receiver: Receiver
) -> None:
    config = with_sections(PROJECT, tmp_path, webhooks=OPEN, http={"disable_webhooks": True})
    with (
        cluster.database() as url,
        Server(database_url=url, config=config) as server,
        server.http(timeout=30) as http,
    ):
        thread = new_thread(http)
        for webhook in (receiver.url, "nope"):
            join(http, thread, start(http, thread, "steps", input={"count": 1}, webhook=webhook))
        with psycopg.connect(url) as conn:
            assert conn.execute("SELECT count(*) FROM holdfast.deliveries").fetchone() == (0,)
    assert receiver.calls == []


@pytest.mark.requirement("webhooks.allowed_fields")
def test_allowed_fields_are_all_that_is_told(cluster: Cluster, tmp_path: Path, receiver: Receiver) -> None:
    config = with_sections(PROJECT, tmp_path, webhooks={**OPEN, "allowed_fields": ["run_id", "kwargs"]})
    with (
        cluster.database() as url,
        Server(database_url=url, config=config) as server,
        server.http(timeout=30) as http,
    ):
        run = start(http, new_thread(http), "steps", input={"count": 1}, webhook=receiver.url)
        [call] = receiver.wait()
    assert set(call.told) == {"run_id", "kwargs"}
    assert (call.told["run_id"], call.told["kwargs"]["input"]) == (run, {"count": 1})


@pytest.mark.requirement("webhooks.headers")
def test_a_header_that_names_a_forbidden_variable_stops_the_start(cluster: Cluster, tmp_path: Path) -> None:
    config = with_sections(PROJECT, tmp_path, webhooks={"headers": {"X-Token": "${{ env.DATABASE_URL }}"}})
    with (
        cluster.database() as url,
        pytest.raises(AssertionError, match=r"DATABASE_URL does not start with LG_WEBHOOK_"),
        Server(database_url=url, config=config),
    ):
        raise AssertionError("it started")


# --- kill -9 ---


@pytest.mark.requirement("webhooks.at_least_once")
def test_what_was_not_told_when_the_process_was_killed_is_told_after_the_restart(
    cluster: Cluster, tmp_path: Path
) -> None:
    config = with_sections(PROJECT, tmp_path, webhooks=OPEN)
    with cluster.database() as url, Server(database_url=url, config=config) as server, Receiver() as receiver:
        receiver.gate.clear()
        with server.http(timeout=30) as http:
            thread = new_thread(http)
            run = start(http, thread, "steps", input={"count": 1}, webhook=receiver.url)
            [first] = receiver.wait()
            join(http, thread, run)
        server.kill()
        receiver.gate.set()
        server.start()
        again = receiver.wait(2)[1]
        assert (again.id, again.told["run_id"], again.told["values"]) == (first.id, run, first.told["values"])
        until(lambda: _states(url) == ["delivered"], "the delivery is settled")
        assert len(receiver.calls) == 2


def _states(url: str) -> list[str]:
    with psycopg.connect(url) as conn:
        return [state for (state,) in conn.execute("SELECT state FROM holdfast.deliveries").fetchall()]


@pytest.mark.requirement("webhooks.given_up")
def test_a_run_that_is_given_up_after_crashes_is_told_as_an_error(cluster: Cluster, tmp_path: Path) -> None:
    config = with_sections(PROJECT, tmp_path, webhooks=OPEN)
    with (
        cluster.database() as url,
        Server(database_url=url, config=config, HOLDFAST_CRASH_BUDGET="1") as server,
        Receiver() as receiver,
    ):
        with server.http(timeout=30) as http:
            thread = new_thread(http)
            run = start(http, thread, "steps", **LONG, webhook=receiver.url)
            until_running(http, thread, run)
        server.kill()
        server.start()
        [call] = receiver.wait()
        assert (call.told["run_id"], call.told["status"]) == (run, "error")
        assert "crash budget" in json.dumps(call.told["error"])
