"""Tool calls that a run left without an answer are answered before the next one begins."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.healing.conftest import STRICT
from tests.support.server import ROOT, Server, with_sections
from tests.support.talk import get_thread, join, new_thread, run_status, start, until, until_running, wait

GRAPHS = pytest.mark.parametrize("graph", ["added", "delta"])


def human(text: str) -> dict[str, Any]:
    return {"messages": [{"type": "human", "content": text}]}


def state(http: httpx.Client, thread: str) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"/threads/{thread}/state").json()
    return found


def history(http: httpx.Client, thread: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.get(f"/threads/{thread}/history", params={"limit": 50}).json()
    return found


def repairs(http: httpx.Client, thread: str) -> list[dict[str, Any]]:
    return [found for found in history(http, thread) if "repair" in found["metadata"]]


def cancelled_in_a_tool(http: httpx.Client, thread: str, graph: str, words: str = "one") -> str:
    """A run that is stopped while its tool hangs."""
    run = start(http, thread, graph, input=human(words))
    until(lambda: "tools" in state(http, thread)["next"], "the tool is under way")
    if words == "two":
        until(lambda: any(task["result"] for task in state(http, thread)["tasks"]), "the quick tool is done")
    http.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": "true"})
    assert run_status(http, thread, run) == "interrupted"
    return run


@pytest.mark.requirement("healing.dangling_cancel")
@GRAPHS
def test_a_conversation_goes_on_after_a_tool_was_cancelled(http: httpx.Client, thread: str, graph: str) -> None:
    cancelled_in_a_tool(http, thread, graph)
    values = wait(http, thread, graph, input=human("hello"))
    assert [message["type"] for message in values["messages"]] == ["human", "ai", "tool", "human", "ai"]
    assert values["messages"][-1]["content"] == "hath"
    assert values["messages"][2]["status"] == "error"
    assert values["messages"][2]["name"] == "hang"
    assert values["answers"] == 2


@pytest.mark.requirement("healing.dangling_checkpoint")
@GRAPHS
def test_the_repair_is_a_checkpoint_of_its_own(http: httpx.Client, thread: str, graph: str) -> None:
    cancelled_in_a_tool(http, thread, graph)
    before = state(http, thread)["checkpoint_id"]
    run = start(http, thread, graph, input=human("hello"))
    join(http, thread, run)
    (repair,) = repairs(http, thread)
    metadata = repair["metadata"]
    assert (metadata["source"], metadata["repair"]) == ("update", "dangling_tool_calls")
    assert metadata["repaired_for"] == run
    assert "run_id" not in metadata
    assert repair["parent_checkpoint"]["checkpoint_id"] == before
    assert (repair["next"], repair["tasks"]) == ([], [])
    (first,) = [found for found in history(http, thread) if found["metadata"]["source"] == "input"][:1]
    assert first["parent_checkpoint"]["checkpoint_id"] == repair["checkpoint_id"]


@GRAPHS
def test_a_tool_that_had_finished_keeps_its_result(http: httpx.Client, thread: str, graph: str) -> None:
    cancelled_in_a_tool(http, thread, graph, "two")
    values = wait(http, thread, graph, input=human("hello"))
    answers = [(message["type"], message.get("status"), message["content"][:4]) for message in values["messages"]][2:4]
    assert answers == [("tool", "success", "done"), ("tool", "error", "This")]
    assert values["messages"][-1]["content"] == "hatth"


@GRAPHS
def test_a_tool_that_raised_is_answered(http: httpx.Client, thread: str, graph: str) -> None:
    run = start(http, thread, graph, input=human("fail"))
    assert "__error__" in join(http, thread, run)
    assert wait(http, thread, graph, input=human("hello"))["messages"][-1]["content"] == "hath"


@GRAPHS
def test_a_question_that_was_dropped_is_answered(http: httpx.Client, thread: str, graph: str) -> None:
    assert "__interrupt__" in wait(http, thread, graph, input=human("ask"))
    values = wait(http, thread, graph, input=human("never mind"))
    assert values["messages"][-1]["content"] == "hath"
    assert "without an answer to its question" in values["messages"][2]["content"]
    assert "__interrupt__" not in values


@GRAPHS
def test_an_answered_question_is_not_repaired(http: httpx.Client, thread: str, graph: str) -> None:
    wait(http, thread, graph, input=human("ask"))
    values = wait(http, thread, graph, command={"resume": "yes"})
    assert [message["content"] for message in values["messages"]][2:] == ["yes", "hat"]
    assert repairs(http, thread) == []


def test_a_run_that_goes_on_is_not_repaired(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "added", input=human("fail"))
    join(http, thread, run)
    assert "the tool fails" in str(join(http, thread, start(http, thread, "added", input=None)))
    assert repairs(http, thread) == []


def test_an_input_that_answers_the_calls_itself_is_taken_as_it_is(http: httpx.Client, thread: str) -> None:
    cancelled_in_a_tool(http, thread, "added")
    call = state(http, thread)["values"]["messages"][1]["tool_calls"][0]["id"]
    answer = {"type": "tool", "tool_call_id": call, "content": "by the client"}
    values = wait(http, thread, "added", input={"messages": [answer]})
    assert [message["content"] for message in values["messages"]][2:] == ["by the client", "hat"]
    assert repairs(http, thread) == []


@GRAPHS
def test_an_answer_that_came_too_late_is_moved_to_its_call(http: httpx.Client, thread: str, graph: str) -> None:
    cancelled_in_a_tool(http, thread, graph)
    call = state(http, thread)["values"]["messages"][1]["tool_calls"][0]["id"]
    late = [{"type": "human", "content": "?"}, {"type": "tool", "tool_call_id": call, "content": "late"}]
    http.post(f"/threads/{thread}/state", json={"values": {"messages": late}, "as_node": "tools"})
    values = wait(http, thread, graph, input=human("hello"))
    assert [message["content"] for message in values["messages"]][2:] == ["late", "?", "hello", "hathh"]


def test_a_fork_from_the_middle_of_a_tool_is_repaired(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "added", input=human("ask"))
    middle = state(http, thread)["checkpoint"]
    wait(http, thread, "added", command={"resume": "yes"})
    values = wait(http, thread, "added", input=human("hello"), checkpoint=middle)
    assert [message["type"] for message in values["messages"]] == ["human", "ai", "tool", "human", "ai"]
    assert values["messages"][2]["content"] == "yes"


def test_a_rollback_takes_the_repair_back(http: httpx.Client, thread: str) -> None:
    cancelled_in_a_tool(http, thread, "added")
    before, row = history(http, thread), get_thread(http, thread)
    run = start(http, thread, "added", input=human("one"))
    until(lambda: len(state(http, thread)["values"]["messages"]) == 5, "the second tool is under way")
    http.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": "true", "action": "rollback"})
    until(lambda: get_thread(http, thread)["status"] != "busy", "the thread rests")
    assert history(http, thread) == before
    after = get_thread(http, thread)
    assert (after["values"], after["status"], after["interrupts"]) == (
        row["values"],
        row["status"],
        row["interrupts"],
    )
    assert wait(http, thread, "added", input=human("hello"))["messages"][-1]["content"] == "hath"


def test_what_a_worker_left_when_it_was_killed_is_repaired(http: httpx.Client, thread: str, strict: Server) -> None:
    """The run is taken up again and cancelled then; the next one meets a whole history."""
    run = start(http, thread, "delta", input=human("one"))
    until(lambda: "tools" in state(http, thread)["next"], "the tool is under way")
    strict.kill()
    strict.start()
    until_running(http, thread, run)
    http.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": "true"})
    assert wait(http, thread, "delta", input=human("hello"))["messages"][-1]["content"] == "hath"


def test_a_kill_between_the_repair_and_the_input_costs_neither(database_url: str) -> None:
    dying = Server(database_url=database_url, config=STRICT, planted="dies-after-repair")
    with dying as server, server.http(timeout=30) as http:
        thread = new_thread(http)
        cancelled_in_a_tool(http, thread, "delta")
        with suppress(httpx.TransportError):
            start(http, thread, "delta", input=human("hello"))
        until(lambda: not server.is_up, "the server is gone")
    with Server(database_url=database_url, config=STRICT) as server, server.http(timeout=30) as http:
        (run, _) = http.get(f"/threads/{thread}/runs").json()
        values = join(http, thread, run["run_id"])
        assert [message["type"] for message in values["messages"]] == ["human", "ai", "tool", "human", "ai"]
        assert len(repairs(http, thread)) == 1


def test_the_reference_agent_is_left_with_a_whole_history(database_url: str, tmp_path: Path) -> None:
    with (
        Server(database_url=database_url, config=ROOT / "langgraph.json", OUTBOX_PATH=str(tmp_path / "box")) as server,
        server.http(timeout=30) as http,
    ):
        thread = new_thread(http)
        assert "__interrupt__" in wait(http, thread, "agent", input=human("send hello to Ada"))
        values = wait(http, thread, "agent", input=human("what is 6 * 7"))
        types = [message["type"] for message in values["messages"]]
        assert types == ["human", "ai", "tool", "human", "ai", "tool", "ai"]
        assert values["messages"][2]["status"] == "error"
        assert len(repairs(http, thread)) == 1


@pytest.mark.requirement("healing.dangling_off")
def test_a_project_may_do_without(strict_url: str, tmp_path: Path) -> None:
    config = with_sections(STRICT, tmp_path, healing={"dangling_tool_calls": False})
    with Server(database_url=strict_url, config=config) as server, server.http(timeout=30) as http:
        thread = new_thread(http)
        cancelled_in_a_tool(http, thread, "added")
        answer = join(http, thread, start(http, thread, "added", input=human("hello")))
        assert "must be followed by tool messages" in answer["__error__"]["message"]
