"""`approvals` of langgraph.json: policies at every door, and deadlines, on servers of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.receiver import Receiver
from tests.support.server import Server, refusal_to_start, with_sections
from tests.support.talk import get_thread, join, new_thread, refused, run_status, start, until, wait

SOON = 1.0
SECTION: dict[str, Any] = {
    "graphs": {
        "approve": {"on_pending_interrupt": "reject"},
        "twice": {"on_pending_interrupt": "enqueue"},
        "parallel": {"deadline": {"after_seconds": SOON, "outcome": "answer", "answer": {"late": True}}},
        "tooled": {"deadline": {"after_seconds": SOON, "outcome": "reject"}},
        "nested_ask": {"deadline": {"after_seconds": SOON, "outcome": "reject"}},
    }
}
RESUME: dict[str, Any] = {"command": {"resume": "yes"}}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def strict(cluster: Cluster, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    escalation = {"after_seconds": SOON, "outcome": "escalate", "webhook": f"{receiver.url}/ask"}
    graphs = {**SECTION["graphs"], "typed_ask": {"deadline": escalation}}
    place = tmp_path_factory.mktemp("strict")
    webhooks = {"url": {"disable_loopback": False}}
    config = with_sections(PROJECT, place, approvals={"graphs": graphs}, webhooks=webhooks)
    with (
        cluster.database() as url,
        Server(database_url=url, config=config) as running,
        running.http(timeout=30) as client,
    ):
        yield client


def approvals(http: httpx.Client, thread: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.get(f"/threads/{thread}/approvals", params={"limit": 100}).json()
    return found


# --- policies ---


@pytest.mark.requirement("approvals.policy")
@pytest.mark.parametrize("given", [{}, {"on_pending_interrupt": "discard"}, {"on_pending_interrupt": "enqueue"}])
@pytest.mark.parametrize("graph", ["approve", "steps"])
def test_no_request_and_no_other_graph_loosens_a_graphs_policy(
    strict: httpx.Client, graph: str, given: dict[str, Any]
) -> None:
    thread = new_thread(strict)
    wait(strict, thread, "approve", input={})
    body = {"assistant_id": graph, "input": {"count": 1}, **given}
    for operation in ("", "/stream", "/wait"):
        refused(strict.post(f"/threads/{thread}/runs{operation}", json=body), 409)
    assert wait(strict, thread, "approve", **RESUME)["log"] == ["yes", "done"]


@pytest.mark.requirement("approvals.policy")
def test_a_graphs_policy_holds_new_input_and_a_request_may_refuse_it(strict: httpx.Client) -> None:
    thread = new_thread(strict)
    wait(strict, thread, "twice", input={})
    waiting = start(strict, thread, "steps", input={"count": 1})
    assert run_status(strict, thread, waiting) == "pending"
    body = {"assistant_id": "twice", "input": {}, "on_pending_interrupt": "reject"}
    refused(strict.post(f"/threads/{thread}/runs", json=body), 409)
    for _ in range(2):
        wait(strict, thread, "twice", **RESUME)
    join(strict, thread, waiting)
    assert run_status(strict, thread, waiting) == "success"


@pytest.mark.requirement("approvals.policy")
def test_a_tool_call_and_a_message_meet_the_same_policy(strict: httpx.Client) -> None:
    thread = new_thread(strict)
    wait(strict, thread, "approve", input={})
    call = {"name": "approve", "arguments": {"log": [], "thread_id": thread}}
    headers = {"accept": "application/json, text/event-stream"}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    assert "waits for an answer" in strict.post("/mcp/", json=asked, headers=headers).text
    # Another agent: a message to the one that asks is the answer.
    message = {"messageId": "m", "role": "user", "parts": [{"kind": "data", "data": {"count": 1}}], "contextId": thread}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": {"message": message}}
    assert "waits for an answer" in strict.post("/a2a/steps", json=asked).text
    assert len(strict.get(f"/threads/{thread}/runs").json()) == 1
    assert get_thread(strict, thread)["status"] == "interrupted"


# --- deadlines ---


@pytest.mark.requirement("approvals.deadline")
def test_questions_that_nobody_answers_are_answered(strict: httpx.Client) -> None:
    thread = new_thread(strict)
    wait(strict, thread, "parallel", input={}, config={"configurable": {"colour": "red"}})
    assert [row["outcome"] for row in approvals(strict, thread)] == ["answer"] * 2
    until(lambda: get_thread(strict, thread)["status"] == "idle", "both deadlines came")
    assert get_thread(strict, thread)["values"]["log"] == [{"q1": {"late": True}}, {"q2": {"late": True}}, "done"]
    rows = approvals(strict, thread)
    assert {row["state"] for row in rows} == {"expired"}
    assert {row["decided_by"] for row in rows} == {"local"}
    runs = strict.get(f"/threads/{thread}/runs").json()
    assert {row["decided_run_id"] for row in rows} == {run["run_id"] for run in runs[:-1]}
    assert {run["kwargs"]["config"]["configurable"]["colour"] for run in runs} == {"red"}


@pytest.mark.requirement("approvals.deadline")
def test_a_question_that_was_answered_in_time_has_no_deadline(strict: httpx.Client) -> None:
    thread = new_thread(strict)
    wait(strict, thread, "parallel", input={})
    answers = {row["interrupt_id"]: "in time" for row in approvals(strict, thread)}
    wait(strict, thread, "parallel", command={"resume": answers})
    assert {row["state"] for row in approvals(strict, thread)} == {"answered"}
    assert len(strict.get(f"/threads/{thread}/runs").json()) == 2


@pytest.mark.requirement("approvals.deadline")
def test_what_cannot_be_rejected_stays_and_says_why(strict: httpx.Client) -> None:
    thread = new_thread(strict)
    wait(strict, thread, "nested_ask", input={"log": []})
    [row] = approvals(strict, thread)
    assert (row["state"], row["outcome"]) == ("pending", "reject")
    assert "action_requests" in row["problem"]
    wait(strict, thread, "nested_ask", **RESUME)
    assert approvals(strict, thread)[0]["state"] == "answered"


@pytest.mark.requirement("approvals.deadline")
def test_a_question_is_told_to_somebody_else_and_can_still_be_answered(
    strict: httpx.Client, receiver: Receiver
) -> None:
    thread = new_thread(strict)
    wait(strict, thread, "typed_ask", input={})
    [call] = receiver.wait()
    assert (call.path, call.told["event"]) == ("/ask", "approval.due")
    told = call.told["approval"]
    assert (told["thread_id"], told["question"], told["state"]) == (thread, {"question": "may I?"}, "pending")
    [row] = approvals(strict, thread)
    assert row["escalated_at"] is not None
    wait(strict, thread, "typed_ask", command={"resume": {"approved": True}})
    assert approvals(strict, thread)[0]["state"] == "answered"


@pytest.mark.requirement("approvals.deadline")
@pytest.mark.parametrize(
    ("section", "why"),
    [
        ({"deadline": {"after_seconds": 0, "outcome": "reject"}}, "after_seconds"),
        ({"deadline": {"after_seconds": 1, "outcome": "hope"}}, "outcome"),
        ({"deadline": {"after_seconds": 1, "outcome": "answer"}}, "needs answer"),
        ({"deadline": {"after_seconds": 1, "outcome": "escalate"}}, "needs webhook"),
        ({"deadline": {"after_seconds": 1, "outcome": "reject", "answer": 1}}, "neither answer nor webhook"),
        ({"deadline": {"after_seconds": 1, "outcome": "escalate", "webhook": "http://127.0.0.1/"}}, "loopback"),
        ({"on_pending_interrupt": "maybe"}, "on_pending_interrupt"),
        ({"keep_days": 0}, "keep_days"),
        ({"graphs": {"nobody": {}}}, "none of 'graphs'"),
    ],
)
def test_a_section_that_cannot_work_is_refused_at_the_start(
    database: str, tmp_path: Path, section: dict[str, Any], why: str
) -> None:
    config = with_sections(PROJECT, tmp_path, approvals=section)
    assert why in refusal_to_start(config, database)


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as url:
        yield url
