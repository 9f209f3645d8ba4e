"""The document's examples, sent as they stand: each does what it says, and what comes back is as the document says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.documents import Document, closed, differences, found, operations, surprises
from tests.support.server import Server
from tests.support.talk import new_thread, parse, start, wait

REFUSED = {("GET", "/mcp/"), ("DELETE", "/mcp/")}
NOTHING_TO_CANCEL = ("POST", "/runs/cancel")
CANCEL = "/threads/{thread_id}/runs/{run_id}/cancel"
ENDLESS = "/threads/{thread_id}/stream"
QUERIES: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("GET", "/ok"): [{}, {"check_db": 1}],
    ("GET", "/metrics"): [{}, {"format": "json"}],
    ("GET", "/store/items"): [{"namespace": "notes.ada", "key": "colour"}, {"namespace": "notes.ada", "key": "none"}],
    ("GET", "/threads/{thread_id}"): [{}, {"include": "ttl"}],
    ("GET", "/threads/{thread_id}/state"): [{}, {"subgraphs": True}, {"select": ["values", "next"]}],
    ("GET", "/threads/{thread_id}/history"): [{}, {"limit": 20}, {"select": "metadata"}],
    ("GET", "/threads/{thread_id}/runs"): [{}, {"select": ["run_id", "cancel_reason"]}],
    ("GET", "/assistants/{assistant_id}/graph"): [{}, {"xray": "true"}],
    ("GET", "/.well-known/agent-card.json"): [{"assistant_id": "nested"}],
    ("POST", CANCEL): [{}, {"wait": "true"}],
}


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> Document:
    return closed(http.get("/openapi.json").json())


@pytest.fixture
def ids(http: httpx.Client) -> Iterator[dict[str, str]]:
    """An id of everything, made for one test: a thread that asks something in a subgraph, and what belongs to it."""
    thread = new_thread(http, metadata={"user": "ada"}, ttl=1440)
    wait(http, thread, "nested_ask", input={"log": []})
    [run] = http.get(f"/threads/{thread}/runs").json()
    place = {"namespace": ["notes", "ada"], "key": "colour"}
    http.put("/store/items", json={**place, "value": {"text": "green"}})
    made = http.post("/assistants", json={"graph_id": "nested"}).json()
    cron = http.post("/runs/crons", json={"assistant_id": "steps", "schedule": "0 9 1 1 *"}).json()
    asking = new_thread(http)
    wait(http, asking, "approve", input={"log": []})
    [approval] = http.get(f"/threads/{asking}/approvals").json()
    yield {
        "thread_id": thread,
        "run_id": run["run_id"],
        "assistant_id": made["assistant_id"],
        "cron_id": cron["cron_id"],
        "approval_id": approval["approval_id"],
        "checkpoint_id": http.get(f"/threads/{thread}/state").json()["checkpoint_id"],
        "namespace": "child",
    }
    http.delete(f"/runs/crons/{cron['cron_id']}")
    http.request("DELETE", "/store/items", json=place)


def examples(document: Document, operation: Document) -> list[Any]:
    """The bodies that the document shows; one that is absent where there are none."""
    if "requestBody" not in operation:
        return [None]
    media = operation["requestBody"]["content"]["application/json"]
    shown = [media["example"]] if "example" in media else found(document, media["schema"])["examples"]
    for example in shown:
        assert differences(document, media["schema"], example) == []
    return list(shown)


def trials(document: Document) -> Iterator[tuple[str, str, Document, Any, dict[str, Any]]]:
    """Every operation with each of its bodies and queries; what deletes comes last, and a thread after its runs."""
    for method, path, operation in sorted(operations(document), key=lambda one: (one[0] == "DELETE", -len(one[1]))):
        if path != ENDLESS:
            for body in examples(document, operation):
                for query in QUERIES.get((method, path), [{}]):
                    yield method, path, operation, body, query


@pytest.mark.requirement("openapi.examples", "openapi.answers")
def test_every_example_is_carried_out_and_answered_as_the_document_says(
    http: httpx.Client, document: Document, ids: dict[str, str]
) -> None:
    for method, path, operation, body, query in trials(document):
        here = {**ids, **(a_run_that_waits(http) if path == CANCEL else {})}
        answer = http.request(method, path.format(**here), params=query, json=body)
        place = (method, path, query)
        assert surprises(document, operation, answer) == [], place
        if (method, path) != NOTHING_TO_CANCEL:
            assert answer.is_success == ((method, path) not in REFUSED), (place, answer.text)


def a_run_that_waits(http: httpx.Client) -> dict[str, str]:
    thread = new_thread(http)
    return {"thread_id": thread, "run_id": start(http, thread, "steps", after_seconds=60)}


@pytest.mark.requirement("openapi.answers")
def test_a_whole_row_has_all_fields_that_the_document_requires(
    http: httpx.Client, document: Document, ids: dict[str, str]
) -> None:
    rows = {
        "Thread": http.post("/threads/search", json={"ids": [ids["thread_id"]]}).json(),
        "Run": http.get(f"/threads/{ids['thread_id']}/runs").json(),
        "Assistant": http.post("/assistants/search", json={}).json(),
        "Cron": http.post("/runs/crons/search", json={}).json(),
        "ThreadState": http.post(f"/threads/{ids['thread_id']}/history", json={"limit": 10}).json(),
    }
    for name, found_rows in rows.items():
        assert found_rows, name
        for row in found_rows:
            assert differences(document, {"$ref": f"#/components/schemas/{name}"}, row) == [], name


@pytest.mark.requirement("openapi.answers")
def test_every_event_of_a_stream_is_as_the_document_says(http: httpx.Client, document: Document, thread: str) -> None:
    operation = document["paths"]["/threads/{thread_id}/runs/stream"]["post"]
    [body] = examples(document, operation)
    schema = operation["responses"]["200"]["content"]["text/event-stream"]["schema"]
    events = parse(http.post(f"/threads/{thread}/runs/stream", json={**body, "stream_resumable": True}).content)
    assert [event.name for event in events][:2] == ["metadata", "values"]
    for event in events:
        assert (
            differences(document, schema, {"event": event.name, "data": json.dumps(event.data), "id": event.id}) == []
        )


def test_the_threads_stream_is_as_the_document_says(server: Server, document: Document, thread: str) -> None:
    operation = document["paths"][ENDLESS]["get"]
    with server.http(timeout=30) as client, client.stream("GET", f"/threads/{thread}/stream") as answer:
        assert surprises(document, operation, answer) == []
