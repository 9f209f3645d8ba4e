"""What a run may be told beside its input: breakpoints, commands, and a checkpoint to start from."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.talk import get_thread, refused, stream, wait


@pytest.mark.requirement("runs.breakpoints")
@pytest.mark.parametrize("where", ["interrupt_before", "interrupt_after"])
@pytest.mark.parametrize("nodes", ["*", ["step"]])
def test_a_breakpoint_stops_and_an_empty_input_goes_on(http: httpx.Client, thread: str, where: str, nodes: Any) -> None:
    wait(http, thread, "steps", input={"count": 2}, **{where: nodes})
    done = 0 if where == "interrupt_before" else 1
    assert len(http.get(f"/threads/{thread}/state").json()["values"].get("log", [])) == done
    assert get_thread(http, thread)["status"] == "interrupted"
    assert wait(http, thread, "steps", input=None)["log"] == [0, 1]
    assert get_thread(http, thread)["status"] == "idle"


@pytest.mark.requirement("runs.breakpoint_name")
def test_a_breakpoint_may_be_a_bare_name(http: httpx.Client, thread: str) -> None:
    assert wait(http, thread, "steps", input={"count": 2}, interrupt_after="step")["log"] == [0]


@pytest.mark.requirement("runs.breakpoints")
def test_a_breakpoint_shows_as_an_empty_interrupt(http: httpx.Client, thread: str) -> None:
    events = stream(http, thread, "steps", input={"count": 1}, interrupt_before=["step"], stream_mode=["updates"])
    assert [(event.name, event.data) for event in events[1:]] == [("updates", {"__interrupt__": []})]


@pytest.mark.requirement("runs.resume_any_json")
def test_a_command_resumes_and_the_graph_goes_on(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "approve", input={})
    assert wait(http, thread, "approve", command={"resume": {"answer": [1, None]}}) == {
        "log": [{"answer": [1, None]}, "done"]
    }
    row = get_thread(http, thread)
    assert (row["status"], row["interrupts"]) == ("idle", {})


@pytest.mark.requirement("runs.command_update")
@pytest.mark.parametrize("update", [{"log": ["x"]}, [["log", ["x"]]]])
def test_a_command_updates_the_state_beside_a_resume(http: httpx.Client, thread: str, update: Any) -> None:
    wait(http, thread, "approve", input={})
    result = wait(http, thread, "approve", command={"resume": "yes", "update": update})
    assert result == {"log": ["x", "yes", "done"]}


@pytest.mark.requirement("runs.command_goto")
@pytest.mark.parametrize("target", ["done", ["done"], {"node": "done", "input": {}}])
def test_a_jump_runs_its_target_beside_the_open_question(http: httpx.Client, thread: str, target: Any) -> None:
    wait(http, thread, "approve", input={})
    result = wait(http, thread, "approve", command={"goto": target})
    assert result["__interrupt__"][0]["value"] == {"question": "may I?"}
    assert get_thread(http, thread)["status"] == "interrupted"
    result = wait(http, thread, "approve", command={"resume": "yes"})
    assert sorted(result["log"]) == ["done", "done", "yes"]
    assert get_thread(http, thread)["status"] == "idle"


@pytest.mark.requirement("runs.command_goto")
def test_a_jump_to_nowhere_is_refused(http: httpx.Client, thread: str) -> None:
    for target in (5, [5], {"input": {}}):
        answer = http.post(f"/threads/{thread}/runs", json={"assistant_id": "approve", "command": {"goto": target}})
        refused(answer, 422)
    assert http.get(f"/threads/{thread}/runs").json() == []


@pytest.mark.requirement("runs.fork")
@pytest.mark.parametrize("form", ["checkpoint", "checkpoint_id", "without thread"])
def test_a_run_from_a_past_checkpoint_makes_a_branch(http: httpx.Client, thread: str, form: str) -> None:
    wait(http, thread, "echo", input={"messages": [{"role": "user", "content": "one"}]})
    rows = http.get(f"/threads/{thread}/history", params={"limit": 100}).json()
    wait(http, thread, "echo", input={"messages": [{"role": "user", "content": "two"}]})
    past = rows[0]["checkpoint"]
    where: dict[str, Any] = {
        "checkpoint": {"checkpoint": past},
        "checkpoint_id": {"checkpoint_id": past["checkpoint_id"]},
        "without thread": {"checkpoint": {"checkpoint_id": past["checkpoint_id"], "checkpoint_ns": ""}},
    }[form]
    values = wait(http, thread, "echo", input={"messages": [{"role": "user", "content": "three"}]}, **where)
    assert [m["content"] for m in values["messages"]] == ["one", "you said: one", "three", "you said: three"]
    history = http.get(f"/threads/{thread}/history", params={"limit": 100}).json()
    parents = {row["checkpoint_id"]: row["parent_checkpoint_id"] for row in history}
    ancestors = [history[0]["checkpoint_id"]]
    while (parent := parents[ancestors[-1]]) is not None:
        ancestors.append(parent)
    assert past["checkpoint_id"] in ancestors
    assert len(ancestors) < len(history)


@pytest.mark.requirement("runs.fork")
def test_a_past_checkpoint_without_input_runs_again_from_there(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "echo", input={"messages": [{"role": "user", "content": "one"}]})
    rows = http.get(f"/threads/{thread}/history", params={"limit": 100}).json()
    before_answer = next(row for row in rows if row["next"] == ["answer"])
    again = wait(http, thread, "echo", input=None, checkpoint=before_answer["checkpoint"])
    assert [message["type"] for message in again["messages"]] == ["human", "ai"]
    assert again["messages"][1]["id"] != rows[0]["values"]["messages"][1]["id"]
