"""An answer answers one question, once (invariant 3), tried from outside."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx
import pytest

from tests.support.server import Server
from tests.support.talk import (
    eventually,
    get_thread,
    join,
    new_thread,
    parse,
    refused,
    run_status,
    start,
    unchanged,
    wait,
)

ROUNDS = 20


def questions(http: httpx.Client, thread: str) -> dict[Any, str]:
    """What is asked -> interrupt id."""
    asked = http.get(f"/threads/{thread}/state").json()["interrupts"]
    return {question["value"]["question"]: question["id"] for question in asked}


def answer(http: httpx.Client, thread: str, graph: str, resume: Any, **body: Any) -> httpx.Response:
    body = {"assistant_id": graph, "command": {"resume": resume}, **body}
    return http.post(f"/threads/{thread}/runs/wait", json=body)


@pytest.fixture
def asked(http: httpx.Client, thread: str) -> str:
    """A thread of `twice` that asks its first question."""
    wait(http, thread, "twice", input={})
    return thread


@pytest.mark.requirement("runs.resume_any_json")
@pytest.mark.parametrize(
    "value",
    [
        *("yes", 0, False, "", [], [1], {"a": None}, {"a" * 32: 1, "b": 2}),
        pytest.param({}, marks=pytest.mark.requirement("runs.resume_empty_map")),
    ],
)
def test_any_json_is_an_answer(http: httpx.Client, asked: str, value: Any) -> None:
    assert answer(http, asked, "twice", value).json()["log"] == [{"first": value}]


@pytest.mark.requirement("runs.resume_by_id")
def test_an_answer_addressed_to_the_interrupt_is_taken(http: httpx.Client, asked: str) -> None:
    [question] = questions(http, asked).values()
    result = answer(http, asked, "twice", {question: "yes"}).json()
    assert result["log"] == [{"first": "yes"}]
    assert result["__interrupt__"][0]["value"] == {"question": "and this?"}
    [second] = questions(http, asked).values()
    assert answer(http, asked, "twice", {second: "no"}).json() == {"log": [{"first": "yes"}, {"second": "no"}]}


@pytest.mark.requirement("runs.resume_late")
def test_an_answer_to_an_answered_interrupt_is_too_late(http: httpx.Client, asked: str) -> None:
    [question] = questions(http, asked).values()
    answer(http, asked, "twice", {question: "yes"})
    with unchanged(http, asked):
        refused(answer(http, asked, "twice", {question: "yes"}), 409)
        refused(answer(http, asked, "twice", {"0" * 32: "yes"}), 409)


@pytest.mark.requirement("runs.resume_by_id")
def test_some_of_several_questions_may_be_answered(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "parallel", input={})
    ids = questions(http, thread)
    assert set(ids) == {1, 2}
    result = answer(http, thread, "parallel", {ids[2]: "two"}).json()
    assert [question["value"]["question"] for question in result["__interrupt__"]] == [1]
    assert questions(http, thread) == {1: ids[1]}
    row = get_thread(http, thread)
    assert row["status"] == "interrupted"
    assert [q["id"] for task in row["interrupts"].values() for q in task] == [ids[1]]
    result = answer(http, thread, "parallel", {ids[1]: "one"}).json()
    assert result["log"] == [{"q1": "one"}, {"q2": "two"}, "done"]


@pytest.mark.requirement("runs.resume_late")
def test_one_of_several_questions_is_answered_once(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "parallel", input={})
    ids = questions(http, thread)
    answer(http, thread, "parallel", {ids[2]: "two"})
    with unchanged(http, thread):
        refused(answer(http, thread, "parallel", {ids[2]: "again"}), 409)


@pytest.mark.requirement("runs.resume_by_id")
def test_all_of_several_questions_may_be_answered_at_once(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "parallel", input={})
    ids = questions(http, thread)
    result = answer(http, thread, "parallel", {ids[1]: "one", ids[2]: "two"}).json()
    assert result == {"log": [{"q1": "one"}, {"q2": "two"}, "done"]}


@pytest.mark.requirement("runs.resume_ambiguous")
def test_a_bare_answer_to_several_questions_is_refused(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "parallel", input={})
    with unchanged(http, thread):
        detail = refused(answer(http, thread, "parallel", "yes"), 422)
    assert detail.startswith("When there are multiple pending interrupts")


@pytest.mark.requirement("runs.resume_ambiguous")
def test_the_last_of_several_questions_takes_a_bare_answer(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "parallel", input={})
    ids = questions(http, thread)
    answer(http, thread, "parallel", {ids[1]: "one"})
    assert answer(http, thread, "parallel", "two").json()["log"] == [{"q1": "one"}, {"q2": "two"}, "done"]


@pytest.mark.requirement("runs.resume_late")
@pytest.mark.parametrize("operation", ["", "/stream", "/wait"])
@pytest.mark.parametrize("resume", ["yes", {"0" * 32: "yes"}])
def test_there_is_nothing_to_resume_on_a_thread_that_asks_nothing(
    http: httpx.Client, thread: str, operation: str, resume: Any
) -> None:
    body = {"assistant_id": "twice", "command": {"resume": resume}}
    with unchanged(http, thread):
        refused(http.post(f"/threads/{thread}/runs{operation}", json=body), 409)
    wait(http, thread, "steps", input={"count": 1})
    with unchanged(http, thread):
        refused(http.post(f"/threads/{thread}/runs{operation}", json=body), 409)


@pytest.mark.requirement("runs.resume_unknown_thread")
@pytest.mark.parametrize(
    "if_not_exists", ["reject", pytest.param("create", marks=pytest.mark.requirement("runs.resume_new_thread"))]
)
def test_an_answer_on_an_unknown_thread_is_404(http: httpx.Client, if_not_exists: str) -> None:
    unknown = str(uuid.uuid4())
    refused(answer(http, unknown, "twice", "yes", if_not_exists=if_not_exists), 404)
    refused(http.get(f"/threads/{unknown}"), 404)


@pytest.mark.requirement("runs.resume_unknown_thread")
def test_an_answer_without_a_thread_is_refused(http: httpx.Client) -> None:
    for operation in ("stream", "wait"):
        body = {"assistant_id": "twice", "command": {"resume": "yes"}}
        refused(http.post(f"/runs/{operation}", json=body), 400)


@pytest.mark.requirement("runs.resume_once")
@pytest.mark.anyio
@pytest.mark.parametrize("addressed", [False, True])
async def test_of_the_same_answer_sent_twice_at_once_exactly_one_is_taken(
    server: Server, http: httpx.Client, addressed: bool
) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as clients:
        for _ in range(ROUNDS):
            thread = new_thread(http)
            wait(http, thread, "twice", input={})
            [question] = questions(http, thread).values()
            resume = {question: "yes"} if addressed else "yes"
            body = {"assistant_id": "twice", "command": {"resume": resume}}
            posts = [clients.post(f"/threads/{thread}/runs", json=body) for _ in range(2)]
            answers = await asyncio.gather(*posts)
            assert sorted(got.status_code for got in answers) == [200, 409]
            [taken] = [got.json() for got in answers if got.status_code == 200]
            await clients.get(f"/threads/{thread}/runs/{taken['run_id']}/join")
            assert get_thread(http, thread)["values"] == {"log": [{"first": "yes"}]}
            assert list(questions(http, thread)) == ["and this?"]
            assert len((await clients.get(f"/threads/{thread}/runs")).json()) == 2


@pytest.mark.requirement("runs.resume_once")
@pytest.mark.anyio
async def test_a_burst_of_bare_answers_answers_one_question(server: Server, http: httpx.Client) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as clients:
        thread = new_thread(http)
        wait(http, thread, "twice", input={})
        asked_at = (await clients.get(f"/threads/{thread}/state")).json()["checkpoint"]
        body = {"assistant_id": "twice", "command": {"resume": "yes"}, "checkpoint": asked_at}
        answers = await asyncio.gather(*(clients.post(f"/threads/{thread}/runs/wait", json=body) for _ in range(12)))
    assert sorted(got.status_code for got in answers) == [200] + [409] * 11
    assert get_thread(http, thread)["values"] == {"log": [{"first": "yes"}]}


@pytest.mark.requirement("runs.resume_late")
@pytest.mark.parametrize("form", ["checkpoint", "checkpoint_id"])
def test_a_late_answer_that_names_an_old_checkpoint_is_refused(http: httpx.Client, asked: str, form: str) -> None:
    old = http.get(f"/threads/{asked}/state").json()["checkpoint"]
    where = {"checkpoint": old} if form == "checkpoint" else {"checkpoint_id": old["checkpoint_id"]}
    assert answer(http, asked, "twice", "yes", **where).status_code == 200
    with unchanged(http, asked):
        refused(answer(http, asked, "twice", "yes", **where), 409)
    assert list(questions(http, asked)) == ["and this?"]


@pytest.mark.requirement("runs.resume_chat_ui")
def test_agent_chat_uis_form_of_an_answer_is_taken(http: httpx.Client, asked: str) -> None:
    checkpoint = http.get(f"/threads/{asked}/state").json()["checkpoint"]
    body = {
        "assistant_id": "twice",
        "input": {},
        "command": {"resume": {"decisions": [{"type": "approve"}]}},
        "checkpoint": {"checkpoint_id": checkpoint["checkpoint_id"], "checkpoint_ns": ""},
        "stream_mode": ["values"],
        "stream_subgraphs": True,
        "stream_resumable": False,
        "on_disconnect": "cancel",
    }
    events = parse(http.post(f"/threads/{asked}/runs/stream", json=body).content)
    assert events[-1].name == "values"
    assert get_thread(http, asked)["values"] == {"log": [{"first": {"decisions": [{"type": "approve"}]}}]}
    rows = http.post(f"/threads/{asked}/history", json={"limit": 100}).json()
    assert len({row["parent_checkpoint_id"] for row in rows}) == len(rows), "the chain has no fork"


@pytest.mark.requirement("runs.resume_again", "runs.resume_late")
def test_an_answer_may_come_again_when_its_run_was_cancelled_before_it_started(http: httpx.Client, asked: str) -> None:
    run = start(http, asked, "twice", command={"resume": "yes"}, after_seconds=3600)
    with unchanged(http, asked):
        refused(answer(http, asked, "twice", "yes"), 409)
    http.post(f"/threads/{asked}/runs/{run}/cancel")
    assert get_thread(http, asked)["status"] == "interrupted"
    assert answer(http, asked, "twice", "yes").json()["log"] == [{"first": "yes"}]


@pytest.mark.requirement("runs.resume_late")
def test_a_queued_answer_whose_question_goes_away_changes_nothing(http: httpx.Client, asked: str) -> None:
    ahead = start(http, asked, "steps", input={"log": ["anew"], "count": 2, "pause": 0.3})
    late = start(http, asked, "twice", command={"resume": "yes"})
    join(http, asked, ahead)
    left = get_thread(http, asked)["values"]
    assert left["log"] == ["anew", 0, 1]
    assert "__error__" in join(http, asked, late)
    assert run_status(http, asked, late) == "error"
    row = get_thread(http, asked)
    assert row["values"] == left
    assert row["status"] == "idle"
    assert not questions(http, asked)


@pytest.mark.requirement("runs.resume_breakpoint")
@pytest.mark.parametrize("resume", ["go", True, {"any": "thing"}])
def test_any_value_resumes_a_breakpoint(http: httpx.Client, thread: str, resume: Any) -> None:
    wait(http, thread, "steps", input={"count": 2}, interrupt_before=["step"])
    assert answer(http, thread, "steps", resume, interrupt_before=["step"]).json()["log"] == [0]
    assert answer(http, thread, "steps", resume).json()["log"] == [0, 1]


@pytest.mark.requirement("runs.resume_breakpoint_once")
@pytest.mark.parametrize("resume", ["go", True, {"any": "thing"}])
def test_a_breakpoint_is_resumed_once(http: httpx.Client, thread: str, resume: Any) -> None:
    wait(http, thread, "steps", input={"count": 2}, interrupt_before=["step"])
    at = http.get(f"/threads/{thread}/state").json()["checkpoint"]
    result = answer(http, thread, "steps", resume, interrupt_before=["step"], checkpoint=at)
    assert result.json()["log"] == [0]
    with unchanged(http, thread):
        refused(answer(http, thread, "steps", resume, interrupt_before=["step"], checkpoint=at), 409)
    assert answer(http, thread, "steps", resume).json()["log"] == [0, 1]
    with unchanged(http, thread):
        refused(answer(http, thread, "steps", resume), 409)


@pytest.mark.requirement("runs.resume_breakpoint_once")
@pytest.mark.anyio
async def test_of_two_resumes_of_a_breakpoint_at_once_one_is_taken(server: Server, http: httpx.Client) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as clients:
        for _ in range(ROUNDS // 2):
            thread = new_thread(http)
            wait(http, thread, "steps", input={"count": 2}, interrupt_before=["step"])
            body = {"assistant_id": "steps", "command": {"resume": "go"}, "interrupt_before": ["step"]}
            posts = [clients.post(f"/threads/{thread}/runs/wait", json=body) for _ in range(2)]
            answers = await asyncio.gather(*posts)
            assert sorted(got.status_code for got in answers) == [200, 409]
            assert get_thread(http, thread)["values"]["log"] == [0]


@pytest.mark.requirement("runs.resume_sender_leaves")
@pytest.mark.anyio
async def test_an_answer_is_kept_when_its_sender_leaves(server: Server, http: httpx.Client, asked: str) -> None:
    body = {"assistant_id": "twice", "command": {"resume": "yes"}}
    async with (
        httpx.AsyncClient(base_url=server.url) as leaving,
        leaving.stream("POST", f"/threads/{asked}/runs/stream", json=body) as got,
    ):
        assert got.status_code == 200

    async def arrived() -> bool:
        at_rest = get_thread(http, asked)["status"] == "interrupted"
        return at_rest and list(questions(http, asked)) == ["and this?"]

    await eventually(arrived, "the second question")
    assert get_thread(http, asked)["values"] == {"log": [{"first": "yes"}]}
