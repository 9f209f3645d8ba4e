"""What holds for all routes: bodies, ids, times, errors, and what JSON cannot say."""

from __future__ import annotations

import base64
import json
import uuid
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.support.talk import UNKNOWN_ID, join, new_thread, refused, start, system_assistant, wait

RUN: dict[str, Any] = {"assistant_id": "steps", "input": {"count": 1}}
CRON = {"assistant_id": "steps", "schedule": "0 0 1 1 *"}
ITEM = {"namespace": ["conventions"], "key": "k"}
REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/assistants", {"graph_id": "steps"}),
    ("POST", "/assistants/search", {"limit": 1}),
    ("POST", "/assistants/count", {}),
    ("PATCH", "/assistants/{assistant}", {"metadata": {}}),
    ("POST", "/assistants/{assistant}/versions", {}),
    ("POST", "/assistants/{assistant}/latest", {"version": 1}),
    ("POST", "/threads", {}),
    ("POST", "/threads/search", {"limit": 1}),
    ("POST", "/threads/count", {}),
    ("POST", "/threads/prune", {"thread_ids": [UNKNOWN_ID]}),
    ("PATCH", "/threads/{thread}", {"metadata": {"a": 1}}),
    ("POST", "/threads/{thread}/state", {"values": {"log": ["told"]}, "as_node": "step"}),
    ("POST", "/threads/{thread}/state/checkpoint", {"checkpoint": {}}),
    ("POST", "/threads/{thread}/history", {}),
    ("POST", "/threads/{thread}/runs", RUN),
    ("POST", "/threads/{thread}/runs/stream", RUN),
    ("POST", "/threads/{thread}/runs/wait", RUN),
    ("POST", "/threads/{thread}/runs/crons", CRON),
    ("POST", "/runs", RUN),
    ("POST", "/runs/stream", RUN),
    ("POST", "/runs/wait", RUN),
    ("POST", "/runs/crons", CRON),
    ("POST", "/runs/crons/search", {"limit": 1}),
    ("POST", "/runs/crons/count", {}),
    ("PUT", "/store/items", {**ITEM, "value": {}}),
    ("DELETE", "/store/items", ITEM),
    ("POST", "/store/items/search", {"namespace_prefix": ["conventions"]}),
    ("POST", "/store/namespaces", {"limit": 1}),
]
"""Every route with a body that is an object, and a body that it takes."""


@pytest.mark.requirement("conventions.content_type", "conventions.unknown_fields")
@pytest.mark.parametrize(
    ("method", "path", "body"), REQUESTS, ids=[f"{request[0]} {request[1]}" for request in REQUESTS]
)
def test_a_body_is_json_whatever_it_is_called_and_may_say_more(
    http: httpx.Client, method: str, path: str, body: dict[str, Any]
) -> None:
    thread = new_thread(http, metadata={"graph_id": "steps"})
    assistant = http.post("/assistants", json={"graph_id": "steps"}).json()["assistant_id"]
    content = json.dumps({**body, "unknown_field": 1}).encode()
    for headers in ({"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}, {}):
        answer = http.request(method, path.format(thread=thread, assistant=assistant), content=content, headers=headers)
        assert answer.status_code in (200, 204), answer.text


@pytest.mark.requirement("conventions.no_json")
@pytest.mark.parametrize("content", [b"", b"{", b"nope"])
@pytest.mark.parametrize("path", ["/assistants/search", "/threads", "/threads/{thread}/state", "/runs", "/runs/crons"])
def test_what_is_no_json_is_refused_in_these_words(http: httpx.Client, path: str, content: bytes) -> None:
    answer = http.post(path.format(thread=new_thread(http)), content=content)
    assert refused(answer, 422) == "Invalid JSON in request body"


@pytest.mark.requirement("conventions.errors")
def test_every_error_is_one_text(http: httpx.Client, thread: str) -> None:
    refused(http.post("/threads", json=[1]), 422)
    refused(http.post("/threads/search", json={"limit": "many"}), 422)
    refused(http.post("/runs", json={**RUN, "stream_mode": {"a": 1}}), 422)
    refused(http.get(f"/threads/{thread}/history", params={"limit": "abc"}), 422)
    assert http.get(f"/threads/{thread}/runs", params={"limit": "abc"}).status_code in (400, 422)


@pytest.mark.requirement("conventions.bad_ids")
@pytest.mark.parametrize(
    ("path", "what"), [("/threads/x", "thread"), ("/threads/{thread}/runs/x", "run"), ("/runs/crons/x", "cron")]
)
def test_an_id_that_is_none_is_named(http: httpx.Client, thread: str, path: str, what: str) -> None:
    assert refused(http.get(path.format(thread=thread)), 422) == f"Invalid {what} ID: must be a UUID"


@pytest.mark.requirement("conventions.ids")
def test_ids_tell_what_they_are_of(http: httpx.Client) -> None:
    thread = new_thread(http)
    run = start(http, thread, "steps", input={"count": 1})
    join(http, thread, run)
    cron = http.post("/runs/crons", json=CRON).json()["cron_id"]
    assert {uuid.UUID(one).version for one in (thread, run, cron)} == {7}
    assistant = http.post("/assistants", json={"graph_id": "steps"}).json()["assistant_id"]
    copy = http.post(f"/threads/{thread}/copy").json()["thread_id"]
    assert {uuid.UUID(one).version for one in (assistant, copy)} == {4}
    assert http.get(f"/assistants/{system_assistant('steps')}").json()["graph_id"] == "steps"
    assert uuid.UUID(http.get(f"/threads/{thread}/state").json()["checkpoint_id"]).version == 6


@pytest.mark.requirement("conventions.times")
def test_times_have_microseconds_and_an_offset(http: httpx.Client, thread: str) -> None:
    run = http.post(f"/threads/{thread}/runs", json=RUN).json()
    assistant = http.post("/assistants", json={"graph_id": "steps"}).json()
    cron = http.post("/runs/crons", json=CRON).json()
    http.put("/store/items", json={**ITEM, "value": {}})
    item = http.get("/store/items", params={"namespace": "conventions", "key": "k"}).json()
    for row in (run, assistant, cron, item):
        for key in ("created_at", "updated_at"):
            assert len(row[key]) == len("2026-01-01T00:00:00.000000+00:00")
            assert datetime.fromisoformat(row[key]).utcoffset() is not None


@pytest.mark.requirement("conventions.request_id")
def test_a_run_has_the_id_of_its_request_or_one_of_its_own(http: httpx.Client, thread: str) -> None:
    for path in (f"/threads/{thread}/runs", "/runs"):
        for given in ("abc", None):
            headers = {"x-request-id": given} if given else {}
            run = http.post(path, json=RUN, headers=headers).json()
            told = run["kwargs"]["config"]["configurable"]["langgraph_request_id"]
            assert told == given if given else uuid.UUID(told)


# --- exceptions and values ---


@pytest.mark.requirement("conventions.error_texts")
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("ValueError", "as told"),
        ("TypeError", "as told"),
        ("KeyError", "'as told'"),
        ("AttributeError", "as told"),
        ("RuntimeError", "as told"),
        ("RecursionError", "as told"),
        ("TimeoutError", "as told"),
        ("InvalidUpdateError", "as told"),
        ("SecretiveError", "An internal error occurred"),
        ("OSError", "An internal error occurred"),
        ("ZeroDivisionError", "An internal error occurred"),
    ],
)
def test_only_some_exceptions_tell_clients_their_text(http: httpx.Client, thread: str, kind: str, text: str) -> None:
    assert wait(http, thread, "breaking", input={"error": kind}) == {"__error__": {"error": kind, "message": text}}
    assert http.get(f"/threads/{thread}").json()["error"] == {"error": kind, "message": text}


@pytest.mark.requirement("conventions.encoding")
def test_what_json_cannot_say_is_said_as_well_as_it_can(http: httpx.Client, thread: str) -> None:
    said = wait(http, thread, "odd", input={})["odd"]
    assert base64.b64decode(said["bytes"]) == b"\x00\xff"
    assert (said["tuple"], said["keys"]) == ([1, 2], {"1": "one"})
    assert said["nul"] == "a\x00b"
    assert http.get(f"/threads/{thread}").json()["values"]["odd"] == said
    assert http.get(f"/threads/{thread}/state").json()["values"]["odd"] == said
