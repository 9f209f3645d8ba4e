"""LangGraph Studio's calls, in its order and with its headers (contract section 6); the graph asks in a subgraph."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.server import Server
from tests.support.talk import Event, parse

ORIGIN = "https://smith.langchain.com"
MODES = ["debug", "messages"]


@pytest.fixture(scope="module")
def studio(server: Server) -> Iterator[httpx.Client]:
    """A browser's client on Studio's page."""
    headers = {"Origin": ORIGIN, "x-auth-scheme": "langsmith", "content-type": "text/plain;charset=UTF-8"}
    with server.http(headers=headers, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def assistant(studio: httpx.Client) -> str:
    """The id of the assistant that Studio opens."""
    terms = {"limit": 10, "offset": 0, "metadata": {"created_by": "system"}}
    found = post(studio, "/assistants/search", terms).json()
    return str(next(row["assistant_id"] for row in found if row["graph_id"] == "nested_ask"))


def post(studio: httpx.Client, path: str, body: Any) -> httpx.Response:
    """A POST whose JSON is said to be text."""
    answer = studio.post(path, content=json.dumps(body))
    assert answer.status_code == 200, answer.text
    assert answer.headers["access-control-allow-origin"] == "*"
    return answer


def run(studio: httpx.Client, thread: str, assistant: str, **body: Any) -> list[Event]:
    """A streamed run; its id is the same wherever Studio may look for it."""
    asked = {"assistant_id": assistant, "stream_mode": MODES, "stream_subgraphs": True, **body}
    answer = post(studio, f"/threads/{thread}/runs/stream", asked)
    events = parse(answer.content)
    assert events[0].name == "metadata"
    run_id = events[0].data["run_id"]
    assert answer.headers["content-location"] == f"/threads/{thread}/runs/{run_id}"
    assert "content-location" in answer.headers["access-control-expose-headers"]
    return events


def checkpoints(events: list[Event]) -> list[dict[str, Any]]:
    """The payloads that the timeline is built from."""
    return [event.data["payload"] for event in events if event.name == "debug" and event.data["type"] == "checkpoint"]


@pytest.mark.requirement("system.cors")
@pytest.mark.parametrize("path", ["/info", "/assistants/search", "/threads/search"])
def test_the_browser_asks_whether_a_public_page_may_call_a_private_host(studio: httpx.Client, path: str) -> None:
    headers = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-api-key,x-auth-scheme,x-tenant-id,authorization",
        "Access-Control-Request-Private-Network": "true",
    }
    answer = studio.options(path, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert "x-tenant-id" in answer.headers["access-control-allow-headers"]


@pytest.mark.requirement("system.studio")
def test_the_page_opens(studio: httpx.Client, assistant: str) -> None:
    assert studio.get("/info").json()["flags"]["assistants"] is True
    drawing = studio.get(f"/assistants/{assistant}/graph", params={"xray": "true"}).json()
    assert {"child:inside", "__start__"} <= {node["id"] for node in drawing["nodes"]}
    assert studio.get(f"/assistants/{assistant}/schemas").json()["state_schema"]["properties"].keys() >= {"log"}
    assert studio.get(f"/assistants/{assistant}/subgraphs", params={"recurse": "true"}).json().keys() == {"child"}
    post(studio, "/threads/search", {"limit": 10, "offset": 0, "metadata": {"graph_id": "nested_ask"}})


@pytest.mark.requirement("system.studio")
def test_a_session_with_a_question_a_rerun_and_an_answer(studio: httpx.Client, assistant: str) -> None:
    thread = post(studio, "/threads", {"metadata": {"graph_id": "nested_ask", "assistant_id": assistant}}).json()
    thread_id = thread["thread_id"]
    empty = studio.get(f"/threads/{thread_id}/state", params={"subgraphs": "true"}).json()
    assert (empty["values"], empty["next"]) == ({}, [])

    timeline = checkpoints(run(studio, thread_id, assistant, input={"log": ["begun"]}))
    assert len(timeline) >= 2
    assert timeline[0]["parent_checkpoint"] is None
    for earlier, later in itertools.pairwise(timeline):
        assert later["parent_checkpoint"] == earlier["checkpoint"]
        assert later["checkpoint"]["checkpoint_id"]

    asked = studio.get(f"/threads/{thread_id}/state", params={"subgraphs": "true"}).json()
    assert asked["next"] == ["child"]
    assert asked["tasks"][0]["interrupts"][0]["value"] == {"question": "may I?"}
    assert asked["tasks"][0]["state"]["next"] == ["inside"]
    past = post(studio, f"/threads/{thread_id}/history", {"limit": 100}).json()
    assert past[0]["checkpoint_id"] == asked["checkpoint_id"]

    # "Re-run from here": a copy of the checkpoint becomes the latest, and the run goes on from it.
    copied = post(
        studio,
        f"/threads/{thread_id}/state",
        {"values": None, "as_node": "__copy__", "checkpoint_id": asked["checkpoint_id"]},
    ).json()
    assert copied["checkpoint_id"] not in {state["checkpoint_id"] for state in past}
    again = run(studio, thread_id, assistant, input=None, checkpoint_id=copied["checkpoint_id"])
    assert not [event for event in again if event.name == "error"]
    waiting = studio.get(f"/threads/{thread_id}/state").json()
    assert waiting["tasks"][0]["interrupts"][0]["value"] == {"question": "may I?"}

    answered = run(studio, thread_id, assistant, command={"resume": "yes"})
    assert not [event for event in answered if event.name == "error"]
    final = studio.get(f"/threads/{thread_id}/state", params={"subgraphs": "true"}).json()
    assert final["values"]["log"] == ["begun", "begun", "yes"]
    assert final["next"] == []
