"""What becomes of questions and of new input while they are asked; and the rows that keep all of it."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest

from tests.support.talk import (
    UNKNOWN_ID,
    get_thread,
    join,
    new_thread,
    parse,
    refused,
    run_status,
    start,
    stream,
    system_assistant,
    unchanged,
    until,
    until_running,
    wait,
)

RESUME: dict[str, Any] = {"command": {"resume": "yes"}}


def approvals(http: httpx.Client, thread: str, **terms: Any) -> list[dict[str, Any]]:
    """The thread's approvals, oldest first."""
    found = http.post("/approvals/search", json={"thread_id": thread, **terms})
    assert found.status_code == 200, found.text
    return list(reversed(found.json()))


def states(http: httpx.Client, thread: str) -> list[str]:
    return [row["state"] for row in approvals(http, thread)]


@pytest.fixture
def asked(http: httpx.Client, thread: str) -> str:
    """A thread of `approve` that asks its question."""
    wait(http, thread, "approve", input={})
    return thread


def held(http: httpx.Client, thread: str, graph: str = "approve", **body: Any) -> str:
    return start(http, thread, graph, input={"log": ["later"]}, on_pending_interrupt="enqueue", **body)


# --- discard ---


@pytest.mark.requirement("approvals.discard", "approvals.audit")
def test_new_input_makes_the_question_go_and_the_row_says_so(http: httpx.Client, asked: str) -> None:
    run = start(http, asked, "steps", input={"count": 1})
    assert join(http, asked, run)["log"] == [0]
    [row] = approvals(http, asked)
    assert (row["state"], row["decided_by"], row["decided_run_id"]) == ("discarded", "local", run)
    assert (row["answer"], row["question"]) == (None, {"question": "may I?"})


@pytest.mark.requirement("approvals.discard")
def test_a_state_update_makes_the_question_go(http: httpx.Client, asked: str) -> None:
    assert http.post(f"/threads/{asked}/state", json={"values": {"log": ["edited"]}}).status_code == 200
    [row] = approvals(http, asked)
    assert (row["state"], row["decided_by"], row["decided_run_id"]) == ("discarded", "local", None)


@pytest.mark.requirement("approvals.discard")
def test_going_on_without_input_leaves_the_question(http: httpx.Client, asked: str) -> None:
    assert "__interrupt__" in wait(http, asked, "approve", input=None)
    assert states(http, asked) == ["pending"]


# --- reject ---


@pytest.mark.requirement("approvals.reject")
@pytest.mark.parametrize("operation", ["", "/stream", "/wait"])
@pytest.mark.parametrize("strategy", ["reject", "enqueue", "interrupt", "rollback"])
def test_new_input_is_refused_while_something_is_asked(
    http: httpx.Client, asked: str, operation: str, strategy: str
) -> None:
    body = {"assistant_id": "approve", "input": {}, "multitask_strategy": strategy, "on_pending_interrupt": "reject"}
    with unchanged(http, asked):
        assert "waits for an answer" in refused(http.post(f"/threads/{asked}/runs{operation}", json=body), 409)
    assert wait(http, asked, "approve", on_pending_interrupt="reject", **RESUME)["log"] == ["yes", "done"]


@pytest.mark.requirement("approvals.reject")
def test_a_question_that_comes_before_the_inputs_turn_fails_it(http: httpx.Client, thread: str) -> None:
    asking = start(http, thread, "steps", input={"count": 1000, "pause": 0.03}, config={"recursion_limit": 2000})
    until_running(http, thread, asking)
    first = start(http, thread, "approve", input={})
    second = start(http, thread, "steps", input={"count": 1}, on_pending_interrupt="reject")
    http.post(f"/threads/{thread}/runs/{asking}/cancel", params={"wait": 1})
    join(http, thread, first)
    error = join(http, thread, second)["__error__"]
    assert error["error"] == "QuestionPending"
    assert "waits for an answer" in error["message"]
    assert run_status(http, thread, second) == "error"
    assert get_thread(http, thread)["status"] == "interrupted"
    assert states(http, thread) == ["pending"]
    assert wait(http, thread, "approve", **RESUME)["log"][-2:] == ["yes", "done"]


# --- enqueue ---


@pytest.mark.requirement("approvals.enqueue")
@pytest.mark.parametrize("strategy", ["reject", "enqueue", "interrupt", "rollback"])
def test_an_answer_overtakes_the_input_that_waits_for_it(http: httpx.Client, asked: str, strategy: str) -> None:
    waiting = held(http, asked)
    row = get_thread(http, asked)
    assert (row["status"], len(row["interrupts"])) == ("interrupted", 1)
    assert run_status(http, asked, waiting) == "pending"
    answered = wait(http, asked, "approve", multitask_strategy=strategy, **RESUME)
    assert answered["log"] == ["yes", "done"]
    assert join(http, asked, waiting)["log"] == ["yes", "done", "later"]
    assert [row["state"] for row in approvals(http, asked)] == ["answered", "pending"]


@pytest.mark.requirement("approvals.enqueue")
def test_input_that_waits_keeps_its_order(http: httpx.Client, asked: str) -> None:
    runs = [held(http, asked, "steps") for _ in range(3)]
    wait(http, asked, "approve", **RESUME)
    for run in runs:
        join(http, asked, run)
    began = [http.get(f"/threads/{asked}/runs/{run}").json() for run in runs]
    assert [run["status"] for run in began] == ["success"] * 3
    assert sorted(began, key=lambda run: run["updated_at"]) == began


@pytest.mark.requirement("approvals.enqueue")
def test_input_that_was_admitted_behind_a_run_waits_for_what_that_asks(http: httpx.Client, thread: str) -> None:
    asking = start(http, thread, "steps", input={"count": 1000, "pause": 0.03}, config={"recursion_limit": 2000})
    until_running(http, thread, asking)
    first = start(http, thread, "approve", input={})
    second = held(http, thread, "steps")
    http.post(f"/threads/{thread}/runs/{asking}/cancel", params={"wait": 1})
    join(http, thread, first)
    assert get_thread(http, thread)["status"] == "interrupted"
    assert run_status(http, thread, second) == "pending"
    wait(http, thread, "approve", **RESUME)
    join(http, thread, second)
    assert run_status(http, thread, second) == "success"


@pytest.mark.requirement("approvals.enqueue")
def test_a_state_update_lets_waiting_input_go(http: httpx.Client, asked: str) -> None:
    waiting = held(http, asked, "steps")
    assert http.post(f"/threads/{asked}/state", json={"values": {"log": ["edited"]}}).status_code == 200
    join(http, asked, waiting)
    assert run_status(http, asked, waiting) == "success"


@pytest.mark.requirement("approvals.enqueue")
def test_an_answer_that_leaves_another_question_keeps_input_waiting(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "twice", input={})
    waiting = held(http, thread, "steps")
    wait(http, thread, "twice", **RESUME)
    assert run_status(http, thread, waiting) == "pending"
    assert get_thread(http, thread)["status"] == "interrupted"
    wait(http, thread, "twice", **RESUME)
    join(http, thread, waiting)
    assert run_status(http, thread, waiting) == "success"


# --- held runs ---


@pytest.mark.requirement("approvals.held_runs")
@pytest.mark.parametrize("action", ["interrupt", "rollback"])
def test_a_held_run_can_be_cancelled(http: httpx.Client, asked: str, action: str) -> None:
    waiting = held(http, asked)
    cancelled = http.post(f"/threads/{asked}/runs/{waiting}/cancel", params={"wait": 1, "action": action})
    assert cancelled.status_code == 200
    assert get_thread(http, asked)["status"] == "interrupted"
    assert wait(http, asked, "approve", **RESUME)["log"] == ["yes", "done"]


@pytest.mark.requirement("approvals.held_runs")
def test_a_held_run_can_be_deleted(http: httpx.Client, asked: str) -> None:
    waiting = held(http, asked)
    assert http.delete(f"/threads/{asked}/runs/{waiting}").status_code == 204
    refused(http.get(f"/threads/{asked}/runs/{waiting}"), 404)
    assert states(http, asked) == ["pending"]


@pytest.mark.requirement("approvals.held_runs")
@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
def test_new_input_with_a_strategy_that_cancels_ends_held_runs(http: httpx.Client, asked: str, strategy: str) -> None:
    waiting = held(http, asked)
    newer = held(http, asked, "steps", multitask_strategy=strategy)
    assert [run["run_id"] for run in http.get(f"/threads/{asked}/runs", params={"status": "pending"}).json()] == [newer]
    assert waiting != newer
    assert states(http, asked) == ["pending"]


@pytest.mark.requirement("approvals.held_runs")
def test_a_held_run_is_followed_from_before_its_start(http: httpx.Client, asked: str) -> None:
    waiting = held(http, asked, "steps")
    with http.stream("GET", f"/threads/{asked}/runs/{waiting}/stream", headers={"last-event-id": "-1"}) as followed:
        wait(http, asked, "approve", **RESUME)
        events = [event.name for event in parse(followed.read())]
    assert events[0] == "metadata"
    assert "values" in events


@pytest.mark.requirement("approvals.held_runs")
def test_deleting_the_thread_takes_held_runs_along(http: httpx.Client, asked: str) -> None:
    waiting = held(http, asked)
    assert http.delete(f"/threads/{asked}").status_code == 204
    refused(http.get(f"/threads/{asked}/runs/{waiting}"), 404)


# --- the rows ---


@pytest.mark.requirement("approvals.audit")
def test_an_answered_question_says_who_and_what(http: httpx.Client, asked: str) -> None:
    [question] = approvals(http, asked)
    [asking] = http.get(f"/threads/{asked}/runs").json()
    assert question["run_id"] == asking["run_id"]
    assert (question["graph_id"], question["assistant_id"]) == ("approve", system_assistant("approve"))
    [open_now] = http.get(f"/threads/{asked}/state").json()["interrupts"]
    assert (question["interrupt_id"], question["question"]) == (open_now["id"], open_now["value"])
    assert question["checkpoint_id"] == http.get(f"/threads/{asked}/state").json()["checkpoint_id"]
    run = start(http, asked, "approve", command={"resume": {open_now["id"]: {"ok": [1, None, "é"]}}})
    join(http, asked, run)
    [row] = approvals(http, asked)
    assert (row["state"], row["answer"]) == ("answered", {"ok": [1, None, "é"]})
    assert (row["decided_by"], row["decided_run_id"]) == ("local", run)
    assert row["decided_at"] > row["asked_at"]
    assert (row["due_at"], row["outcome"], row["escalated_at"], row["problem"]) == (None,) * 4


@pytest.mark.requirement("approvals.audit")
def test_an_answer_that_is_cancelled_before_it_is_read_returns_its_question(http: httpx.Client, asked: str) -> None:
    run = start(http, asked, "approve", after_seconds=600, **RESUME)
    assert states(http, asked) == ["answering"]
    http.post(f"/threads/{asked}/runs/{run}/cancel", params={"wait": 1})
    [row] = approvals(http, asked)
    assert (row["state"], row["answer"], row["decided_by"], row["decided_run_id"]) == ("pending", None, None, None)
    assert wait(http, asked, "approve", **RESUME)["log"] == ["yes", "done"]
    assert states(http, asked) == ["answered"]


@pytest.mark.requirement("approvals.audit")
def test_each_of_several_questions_has_its_row(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "parallel", input={})
    rows = {row["question"]["question"]: row for row in approvals(http, thread)}
    wait(http, thread, "parallel", command={"resume": {rows[2]["interrupt_id"]: "two"}})
    after = {row["question"]["question"]: (row["state"], row["answer"]) for row in approvals(http, thread)}
    assert after == {1: ("pending", None), 2: ("answered", "two")}


@pytest.mark.requirement("approvals.audit")
def test_a_question_inside_a_subgraph_has_its_row(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "nested_ask", input={"log": []})
    assert states(http, thread) == ["pending"]
    wait(http, thread, "nested_ask", **RESUME)
    assert states(http, thread) == ["answered"]


@pytest.mark.requirement("approvals.audit")
def test_the_rows_of_a_deleted_thread_stay(http: httpx.Client, asked: str) -> None:
    assert http.delete(f"/threads/{asked}").status_code == 204
    for rows in (approvals(http, asked), http.get(f"/threads/{asked}/approvals").json()):
        assert [(row["state"], row["decided_by"]) for row in rows] == [("withdrawn", "local")]


@pytest.mark.requirement("approvals.audit")
def test_a_copy_of_a_thread_asks_anew(http: httpx.Client, asked: str) -> None:
    copy = http.post(f"/threads/{asked}/copy").json()["thread_id"]
    assert states(http, copy) == ["pending"]
    wait(http, copy, "approve", **RESUME)
    assert (states(http, copy), states(http, asked)) == (["answered"], ["pending"])


@pytest.mark.requirement("approvals.audit")
def test_a_breakpoint_asks_nothing(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "approve", input={}, interrupt_before=["ask"])
    assert approvals(http, thread) == []
    wait(http, thread, "steps", input={"count": 1}, on_pending_interrupt="reject")


@pytest.mark.requirement("approvals.audit")
def test_the_question_of_a_stateless_run_goes_with_its_thread(http: httpx.Client) -> None:
    run = http.post("/runs", json={"assistant_id": "approve", "input": {}}).json()
    until(lambda: states(http, run["thread_id"]) == ["withdrawn"], "housekeeping withdrew it", 30)


# --- search ---


@pytest.mark.requirement("approvals.search")
def test_approvals_are_found_by_what_they_are_about(http: httpx.Client, asked: str) -> None:
    [row] = approvals(http, asked)
    moment = row["asked_at"]
    yes: list[dict[str, Any]] = [
        {"state": "pending"},
        {"state": ["answered", "pending"]},
        {"graph_id": "approve"},
        {"assistant_id": "approve"},
        {"assistant_id": row["assistant_id"]},
        {"asked_after": moment},
        {"asked_before": "2200-01-01"},
    ]
    no: list[dict[str, Any]] = [
        {"state": "answered"},
        {"graph_id": "steps"},
        {"assistant_id": "steps"},
        {"asked_before": moment},
        {"asked_after": "2200-01-01T00:00:00Z"},
        {"due_before": "2200-01-01"},
        {"thread_id": UNKNOWN_ID},
    ]
    for terms in yes:
        assert approvals(http, asked, **terms) == [row], terms
    for terms in no:
        assert approvals(http, asked, **terms) == [], terms


@pytest.mark.requirement("approvals.search")
def test_approvals_come_in_pages_newest_first(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "twice", input={})
    wait(http, thread, "twice", **RESUME)
    for path in (f"/threads/{thread}/approvals", None):
        if path is None:
            page = http.post("/approvals/search", json={"thread_id": thread, "limit": 1})
        else:
            page = http.get(path, params={"limit": 1})
        assert page.headers["x-pagination-next"] == "1"
        assert [row["question"]["question"] for row in page.json()] == ["and this?"]
    last = http.get(f"/threads/{thread}/approvals", params={"offset": 1})
    assert "x-pagination-next" not in last.headers
    assert [row["question"]["question"] for row in last.json()] == ["may I?"]


@pytest.mark.requirement("approvals.search")
def test_the_approvals_of_a_thread_that_never_was_are_404(http: httpx.Client) -> None:
    assert http.get(f"/threads/{new_thread(http)}/approvals").json() == []
    refused(http.get(f"/threads/{uuid.uuid4()}/approvals"), 404)
    refused(http.get("/threads/nonsense/approvals"), 422)


@pytest.mark.requirement("approvals.enqueue")
def test_a_run_says_how_it_treats_questions(http: httpx.Client, thread: str) -> None:
    events = stream(http, thread, "steps", input={"count": 1}, on_pending_interrupt="reject")
    assert events[-1].name == "values"
    [run] = http.get(f"/threads/{thread}/runs").json()
    assert run["kwargs"]["on_pending_interrupt"] == "reject"
