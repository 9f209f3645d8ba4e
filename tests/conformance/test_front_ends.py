"""The sequences of requests that front ends make, field by field as they were seen on the wire."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.server import Server
from tests.support.talk import (
    LONG,
    Event,
    get_thread,
    new_thread,
    parse,
    run_status,
    start,
    system_assistant,
    until,
    until_running,
    wait,
)

CHAT = {
    "stream_mode": ["values", "messages-tuple", "custom"],
    "stream_subgraphs": True,
    "stream_resumable": True,
    "on_disconnect": "continue",
}
"""What agent-chat-ui sends with every message."""


def human(text: str) -> dict[str, Any]:
    return {"messages": [{"type": "human", "content": text}]}


def say(http: httpx.Client, thread: str, graph: str, **body: Any) -> list[Event]:
    answer = http.post(f"/threads/{thread}/runs/stream", json={"assistant_id": graph, **CHAT, **body})
    assert answer.status_code == 200, answer.text
    return parse(answer.content)


def history(http: httpx.Client, thread: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = http.post(f"/threads/{thread}/history", json={"limit": 100}).json()
    return rows


def contents(values: dict[str, Any]) -> list[str]:
    return [message["content"] for message in values["messages"]]


@pytest.mark.requirement("clients.chat_ui_message")
def test_agent_chat_ui_sends_a_message_and_lists_its_thread(http: httpx.Client) -> None:
    assert http.get("/info").is_success
    thread = new_thread(http, metadata={})
    events = say(http, thread, "echo", input=human("hello"))
    assert {event.name for event in events} == {"metadata", "values", "messages", "custom"}
    assert None not in {event.id for event in events}
    tokens = [event.data[0] for event in events if event.name == "messages"]
    assert "".join(token["content"] for token in tokens if token["type"] == "AIMessageChunk") == "you said: hello"
    for key, value in (("graph_id", "echo"), ("assistant_id", system_assistant("echo"))):
        body = {"metadata": {key: value}, "limit": 100, "offset": 0}
        listed = {row["thread_id"]: row for row in http.post("/threads/search", json=body).json()}
        assert contents(listed[thread]["values"])[0] == "hello"


@pytest.mark.requirement("clients.chat_ui_branch")
def test_agent_chat_ui_edits_a_message_and_regenerates_an_answer(http: httpx.Client, thread: str) -> None:
    say(http, thread, "echo", input=human("first"))
    rows = history(http, thread)
    assert contents(rows[0]["values"]) == ["first", "you said: first"]
    asked = next(row for row in rows if row["next"] == ["answer"])
    # Editing begins where the message was not there yet, regenerating where the answer was not.
    edited = say(http, thread, "echo", input=human("second"), checkpoint=asked["parent_checkpoint"])
    assert contents([event for event in edited if event.name == "values"][-1].data) == ["second", "you said: second"]
    again = say(http, thread, "echo", input=None, checkpoint=asked["checkpoint"])
    assert contents([event for event in again if event.name == "values"][-1].data) == ["first", "you said: first"]
    parents = [row["parent_checkpoint_id"] for row in history(http, thread)]
    assert len(parents) > len(set(parents)), "there are branches"


@pytest.mark.requirement("clients.chat_ui_resume")
def test_agent_chat_ui_answers_a_question(http: httpx.Client, thread: str) -> None:
    say(http, thread, "approve", input={"log": []})
    [question] = history(http, thread)[0]["tasks"][0]["interrupts"]
    assert question["value"] == {"question": "may I?"}
    decisions = {"decisions": [{"type": "approve"}]}
    events = say(
        http,
        thread,
        "approve",
        input={},
        command={"resume": decisions},
        checkpoint={"checkpoint_id": history(http, thread)[0]["checkpoint_id"], "checkpoint_ns": ""},
        stream_resumable=False,
        on_disconnect="cancel",
    )
    assert events[-1].data == {"log": [decisions, "done"]}
    assert get_thread(http, thread)["status"] == "idle"


@pytest.mark.requirement("clients.chat_ui_resolved")
def test_agent_chat_ui_marks_as_resolved_and_langgraph_asks_again(http: httpx.Client, thread: str) -> None:
    say(http, thread, "approve", input={"log": []})
    before = get_thread(http, thread)
    say(http, thread, "approve", input={}, command={"goto": "__end__"}, stream_resumable=False, on_disconnect="cancel")
    after = get_thread(http, thread)
    assert (after["status"], after["values"]) == ("interrupted", before["values"])
    [asked], [asks] = before["interrupts"].values(), after["interrupts"].values()
    assert asks[0]["value"] == asked[0]["value"]


@pytest.mark.requirement("clients.use_stream_reload")
def test_use_stream_finds_its_run_again_after_a_reload(server: Server, http: httpx.Client, thread: str) -> None:
    body = {"assistant_id": "steps", "input": {"pause": 0.05, "count": 8}, **CHAT}
    with server.http(timeout=20) as page, page.stream("POST", f"/threads/{thread}/runs/stream", json=body) as first:
        run = first.headers["content-location"].rsplit("/", 1)[-1]
        next(first.iter_bytes())
    again = http.get(
        f"/threads/{thread}/runs/{run}/stream",
        params={"cancel_on_disconnect": "0"},
        headers={"Last-Event-ID": "-1"},
    )
    assert parse(again.content)[-1].data["log"] == list(range(8))
    state = http.get(f"/threads/{thread}/state").json()
    assert (state["values"]["log"], state["next"]) == (list(range(8)), [])


@pytest.mark.requirement("clients.use_stream_stop")
@pytest.mark.parametrize("said", ["1", "true", "yes"])
def test_use_stream_stops_by_leaving(server: Server, http: httpx.Client, thread: str, said: str) -> None:
    run = start(http, thread, "steps", **LONG)
    until_running(http, thread, run)
    path = f"/threads/{thread}/runs/{run}/stream"
    with server.http(timeout=20) as page, page.stream("GET", path, params={"cancel_on_disconnect": said}) as followed:
        next(followed.iter_bytes())
    until(lambda: run_status(http, thread, run) == "interrupted", "the run was stopped")


@pytest.mark.requirement("runs.cancel_action")
def test_an_action_that_means_nothing_interrupts(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", **LONG)
    until_running(http, thread, run)
    answer = http.post(f"/threads/{thread}/runs/{run}/cancel", params={"action": "nope", "wait": 1})
    assert answer.status_code == 200
    assert run_status(http, thread, run) == "interrupted"


@pytest.mark.requirement("runs.wait_keep_alive")
def test_a_wait_is_kept_alive_by_line_breaks(http: httpx.Client, thread: str) -> None:
    body = {"assistant_id": "steps", "input": {"pause": 5.4, "count": 1}}
    answer = http.post(f"/threads/{thread}/runs/wait", json=body)
    assert answer.content.startswith(b"\n{")
    assert answer.json()["log"] == [0]


@pytest.mark.requirement("streams.messages_both")
def test_of_both_message_modes_the_tuples_win(http: httpx.Client, thread: str) -> None:
    events = say(http, thread, "echo", input=human("hi"), stream_mode=["messages", "messages-tuple"])
    assert {event.name for event in events} == {"metadata", "messages"}


@pytest.mark.requirement("threads.values_after_questions")
def test_a_thread_shows_values_and_questions_in_three_shapes(http: httpx.Client, thread: str) -> None:
    told = wait(http, thread, "approve", input={"log": ["a"]})
    row, state = get_thread(http, thread), http.get(f"/threads/{thread}/state").json()
    [question] = state["interrupts"]
    assert question.keys() == {"id", "value"}
    assert told == {"log": ["a"], "__interrupt__": [{**question, "response_schema": None}]}
    assert row["interrupts"] == {state["tasks"][0]["id"]: [question]}
    assert row["values"] == state["values"] == {"log": ["a"]}
