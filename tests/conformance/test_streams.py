"""Event streams on the wire, byte for byte."""

from __future__ import annotations

import json
import re
import time
from itertools import pairwise
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.support.server import Server
from tests.support.talk import Event, get_thread, join, new_thread, parse, refused, run_status, start, stream

HELLO = {"messages": [{"role": "user", "content": "hello there"}]}
WORKING = {"pause": 0.01, "count": 20}

EVENTS = {
    "values": {"values"},
    "updates": {"updates"},
    "messages": {"messages/metadata", "messages/partial"},
    "messages-tuple": {"messages"},
    "custom": {"custom"},
    "events": {"events"},
    "debug": {"debug"},
    "tasks": {"tasks"},
    "checkpoints": {"checkpoints"},
}
"""The names of the events that each of the nine modes makes."""


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def replay(http: httpx.Client, thread: str, run: str, last: str | None = "-1", **query: Any) -> httpx.Response:
    headers = {} if last is None else {"Last-Event-ID": last}
    return http.get(f"/threads/{thread}/runs/{run}/stream", headers=headers, params=query)


# --- bytes and headers ---


@pytest.mark.requirement("streams.framing")
def test_the_bytes_and_the_headers_are_those_of_the_contract(http: httpx.Client, thread: str) -> None:
    body = {"assistant_id": "steps", "input": {"count": 1}, "stream_mode": "updates"}
    answer = http.post(f"/threads/{thread}/runs/stream", json=body)
    location = answer.headers["content-location"]
    run = location.rsplit("/", 1)[-1]
    assert (
        answer.content
        == (
            f'event: metadata\r\ndata: {{"run_id":"{run}","attempt":1}}\r\n\r\n'
            'event: updates\r\ndata: {"step":{"log":[0]}}\r\n\r\n'
        ).encode()
    )
    assert location == f"/threads/{thread}/runs/{run}"
    assert answer.headers["location"] == f"{location}/stream"
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"


@pytest.mark.requirement("streams.framing")
def test_a_resumable_stream_puts_the_id_last(http: httpx.Client, thread: str) -> None:
    events = stream(http, thread, "steps", input={"count": 1}, stream_mode="updates", stream_resumable=True)
    frame = re.compile(rb"event: \S+\r\ndata: \{.*\}\r\nid: \d+-\d+\r\n\r\n")
    assert all(frame.fullmatch(event.raw) for event in events)


@pytest.mark.requirement("runs.stateless_location")
def test_a_stateless_stream_is_located_without_its_thread(http: httpx.Client) -> None:
    answer = http.post("/runs/stream", json={"assistant_id": "steps", "input": {"count": 1}})
    [metadata, *rest] = parse(answer.content)
    assert answer.headers["content-location"] == f"/runs/{metadata.data['run_id']}"
    assert names(rest) == ["values", "values"]


@pytest.mark.requirement("runs.stateless_location")
def test_a_stateless_stream_can_be_joined_at_its_location_while_it_runs(server: Server, http: httpx.Client) -> None:
    body = {"assistant_id": "steps", "input": WORKING, "stream_mode": "updates", "stream_resumable": True}
    with server.http(timeout=20) as first, first.stream("POST", "/runs/stream", json=body) as live:
        again = http.get(live.headers["location"], headers={"Last-Event-ID": "-1"})
        assert again.content == live.read()
    assert names(parse(again.content)).count("updates") == 20


@pytest.mark.requirement("streams.status_before_end")
def test_the_status_is_final_before_the_stream_ends(http: httpx.Client, thread: str) -> None:
    for _ in range(10):
        [metadata, *_] = stream(http, thread, "steps", input={})
        assert run_status(http, thread, metadata.data["run_id"]) == "success"
        assert get_thread(http, thread)["status"] == "idle"


@pytest.mark.requirement("streams.error_event")
def test_a_failed_run_streams_its_error_and_answers_200(http: httpx.Client, thread: str) -> None:
    events = stream(http, thread, "failing", input={"log": ["a"]})
    assert names(events) == ["metadata", "values", "error"]
    assert events[-1].data == {"error": "ValueError", "message": "as told"}
    assert get_thread(http, thread)["error"] == events[-1].data


@pytest.mark.requirement("streams.heartbeat")
def test_an_idle_stream_gets_a_heartbeat_every_five_seconds(server: Server, http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", input={"pause": 5.4, "count": 1}, stream_mode="updates")
    path = f"/threads/{thread}/runs/{run}"
    began = time.monotonic()
    with server.http(timeout=20) as client, client.stream("GET", f"{path}/join") as joined:
        with client.stream("GET", f"{path}/stream", headers={"Last-Event-ID": "-1"}) as followed:
            seen = [(time.monotonic() - began, chunk) for chunk in followed.iter_bytes()]
        # A wait beats as well, with line breaks before its JSON.
        result = joined.read()
    [(_, metadata), (beat_at, beat), (_, updates)] = seen
    assert metadata.startswith(b"event: metadata")
    assert beat == b": heartbeat\r\n\r\n"
    assert 4.8 <= beat_at <= 5.35
    assert updates.startswith(b"event: updates")
    assert result.startswith(b"\n{")
    assert json.loads(result)["log"] == [0]


# --- the nine modes ---


@pytest.mark.requirement("streams.modes")
@pytest.mark.parametrize("mode", sorted(EVENTS))
def test_each_mode_has_its_events(http: httpx.Client, thread: str, mode: str) -> None:
    first, *events = stream(http, thread, "echo", input=HELLO, stream_mode=[mode])
    assert (first.name, set(first.data)) == ("metadata", {"run_id", "attempt"})
    assert first.data["attempt"] == 1
    assert set(names(events)) - {"messages/complete"} == EVENTS[mode]


@pytest.mark.requirement("streams.subgraphs")
@pytest.mark.parametrize("mode", sorted(set(EVENTS) - {"events", "messages"}))
def test_a_subgraphs_events_come_only_when_asked_for(http: httpx.Client, thread: str, mode: str) -> None:
    events = stream(http, thread, "nested", input=HELLO, stream_mode=[mode], stream_subgraphs=True)
    inner = [event for event in events if "|" in event.name]
    assert {event.name.partition("|")[0] for event in inner} == EVENTS[mode]
    assert all(re.fullmatch(r"child:[0-9a-f-]{36}", event.name.partition("|")[2]) for event in inner)
    events = stream(http, new_thread(http), "nested", input=HELLO, stream_mode=[mode])
    assert not [event for event in events if "|" in event.name]


@pytest.mark.requirement("streams.subgraph_messages")
def test_the_messages_of_a_subgraph_come_under_the_names_of_all_messages(http: httpx.Client, thread: str) -> None:
    events = stream(http, thread, "nested", input=HELLO, stream_mode=["messages"], stream_subgraphs=True)
    assert set(names(events)) - {"messages/complete"} == {"metadata"} | EVENTS["messages"]


@pytest.mark.requirement("streams.subgraphs")
@pytest.mark.parametrize("mode", ["messages", "messages-tuple"])
def test_without_subgraphs_no_tokens_of_a_model_inside_one_are_sent(http: httpx.Client, thread: str, mode: str) -> None:
    events = stream(http, thread, "nested", input=HELLO, stream_mode=[mode])
    assert not [event for event in events if "partial" in event.name]
    assert not [event for event in events if event.name == "messages" and event.data[0]["type"] == "AIMessageChunk"]


@pytest.mark.requirement("streams.modes_combined")
def test_all_modes_at_once_come_in_the_order_of_emission(http: httpx.Client, thread: str) -> None:
    modes = sorted(set(EVENTS) - {"messages"})
    events = stream(http, thread, "echo", input=HELLO, stream_mode=modes)
    assert set(names(events)) == {"metadata"}.union(*(EVENTS[mode] for mode in modes))
    seen = names(events)
    assert seen.index("custom") < seen.index("messages") < seen.index("updates")


@pytest.mark.requirement("streams.unknown_mode")
def test_an_unknown_mode_is_refused(http: httpx.Client, thread: str) -> None:
    for mode in ("tool_calls", ["values", "nope"], "", 5):
        body = {"assistant_id": "echo", "input": HELLO, "stream_mode": mode}
        refused(http.post(f"/threads/{thread}/runs/stream", json=body), 422)


@pytest.mark.requirement("streams.interrupt_values")
def test_values_show_the_state_and_a_question_in_one_more(http: httpx.Client, thread: str) -> None:
    events = stream(http, thread, "approve", input={"log": ["a"]})
    assert names(events) == ["metadata", "values", "values"]
    assert events[1].data == {"log": ["a"]}
    [question] = events[2].data["__interrupt__"]
    assert set(question) == {"value", "id", "response_schema"}
    assert question["value"] == {"question": "may I?"}
    assert question["response_schema"] is None


@pytest.mark.requirement("streams.interrupt_updates")
def test_updates_show_every_question_in_an_event_of_its_own(http: httpx.Client, thread: str) -> None:
    events = stream(http, thread, "parallel", input={}, stream_mode="updates")
    asked = [event.data["__interrupt__"] for event in events if "__interrupt__" in event.data]
    assert [len(questions) for questions in asked] == [1, 1]
    assert {questions[0]["value"]["question"] for questions in asked} == {1, 2}


@pytest.mark.requirement("streams.messages")
def test_partial_messages_accumulate_and_tuples_carry_the_pieces(http: httpx.Client, thread: str) -> None:
    whole = "you said: hello there"
    events = stream(http, thread, "echo", input=HELLO, stream_mode="messages")
    partial = [event.data[0] for event in events if event.name == "messages/partial"]
    texts = [message["content"] for message in partial]
    assert all(longer.startswith(shorter) for shorter, longer in pairwise(texts))
    assert texts[-1] == whole
    assert {message["type"] for message in partial} == {"ai"}
    [described] = [event.data for event in events if event.name == "messages/metadata"]
    assert set(described) == {partial[0]["id"]}
    assert described[partial[0]["id"]]["metadata"]["langgraph_node"] == "answer"
    events = stream(http, new_thread(http), "echo", input=HELLO, stream_mode="messages-tuple")
    pieces = [event.data for event in events if event.name == "messages"]
    assert "".join(chunk["content"] for chunk, _ in pieces) == whole
    assert {chunk["type"] for chunk, _ in pieces} == {"AIMessageChunk"}
    assert pieces[0][1]["graph_id"] == "echo"


@pytest.mark.requirement("streams.debug")
def test_debug_checkpoints_carry_what_studio_draws_its_timeline_from(http: httpx.Client, thread: str) -> None:
    events = stream(http, thread, "steps", input={"count": 2}, stream_mode="debug")
    payloads = [event.data["payload"] for event in events[1:] if event.data["type"] == "checkpoint"]
    assert [payload["checkpoint"]["checkpoint_id"] for payload in payloads[:-1]] == [
        payload["parent_checkpoint"]["checkpoint_id"] for payload in payloads[1:]
    ]
    assert {event.data["type"] for event in events[1:]} == {"checkpoint", "task", "task_result"}


# --- ids and resumption ---


@pytest.mark.requirement("streams.ids_resumable")
def test_ids_come_only_with_resumable_streams(http: httpx.Client, thread: str) -> None:
    assert {event.id for event in stream(http, thread, "echo", input=HELLO)} == {None}
    assert {event.id for event in stream(http, thread, "echo", input=HELLO, stream_resumable=False)} == {None}
    assert None not in {event.id for event in stream(http, thread, "echo", input=HELLO, stream_resumable=True)}


@pytest.mark.requirement("streams.ids_unique")
def test_ids_are_unique_and_grow_over_all_runs_of_a_thread(http: httpx.Client, thread: str) -> None:
    numbers: list[int] = []
    for _ in range(3):
        events = stream(
            http, thread, "echo", input=HELLO, stream_resumable=True, stream_mode=["events", "debug", "values"]
        )
        numbers += [int(str(event.id).partition("-")[2]) for event in events]
    assert numbers == sorted(set(numbers))


@pytest.mark.requirement("streams.live_equals_replay")
def test_a_replay_is_the_live_stream_byte_for_byte(http: httpx.Client, thread: str) -> None:
    body = {
        "assistant_id": "nested",
        "input": HELLO,
        "stream_mode": sorted(EVENTS),
        "stream_subgraphs": True,
        "stream_resumable": True,
    }
    live = http.post(f"/threads/{thread}/runs/stream", json=body)
    run = live.headers["content-location"].rsplit("/", 1)[-1]
    for from_the_start in ("-1", "-", "0"):
        again = replay(http, thread, run, from_the_start)
        assert again.content == live.content
        assert again.headers["content-location"] == live.headers["content-location"]
        assert again.headers["content-type"] == live.headers["content-type"]


@pytest.mark.requirement("streams.resume")
def test_a_replay_from_any_id_has_no_loss_and_no_repeat(http: httpx.Client, thread: str) -> None:
    events = stream(http, thread, "steps", input={"count": 4}, stream_mode=["values", "tasks"], stream_resumable=True)
    run = events[0].data["run_id"]
    for place, event in enumerate(events):
        rest = replay(http, thread, run, str(event.id)).content
        assert rest == b"".join(later.raw for later in events[place + 1 :])


@pytest.mark.requirement("streams.resume")
def test_a_cut_stream_goes_on_where_it_was_cut(server: Server, http: httpx.Client, thread: str) -> None:
    body = {
        "assistant_id": "steps",
        "input": WORKING,
        "stream_mode": ["updates", "values"],
        "stream_resumable": True,
    }
    pieces: list[bytes] = []
    with server.http(timeout=20) as cut, cut.stream("POST", f"/threads/{thread}/runs/stream", json=body) as answer:
        run = answer.headers["content-location"].rsplit("/", 1)[-1]
        for chunk in answer.iter_bytes():
            pieces.append(chunk)
            if len(pieces) == 5:
                break
    while run_status(http, thread, run) == "running":
        last = parse(b"".join(pieces))[-1].id
        with (
            server.http(timeout=20) as cut,
            cut.stream("GET", f"/threads/{thread}/runs/{run}/stream", headers={"Last-Event-ID": str(last)}) as answer,
        ):
            for number, chunk in enumerate(answer.iter_bytes(), 1):
                pieces.append(chunk)
                if number == 4:
                    break
    pieces.append(replay(http, thread, run, str(parse(b"".join(pieces))[-1].id)).content)
    assert len(pieces) > 10
    assert b"".join(pieces) == replay(http, thread, run).content
    assert len([event for event in parse(b"".join(pieces)) if event.name == "updates"]) == 20


@pytest.mark.requirement("streams.live_equals_replay")
def test_several_followers_see_the_same_bytes(server: Server, http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", input=WORKING, stream_mode=["updates"], stream_resumable=True)
    followed = [replay(http, thread, run).content for _ in range(3)]
    assert len(set(followed)) == 1
    assert names(parse(followed[0])).count("updates") == 20


@pytest.mark.requirement("streams.replay_without_ids")
def test_a_run_without_ids_can_be_replayed_too(http: httpx.Client, thread: str) -> None:
    live = stream(http, thread, "steps", input={"count": 2})
    again = replay(http, thread, live[0].data["run_id"])
    assert again.content == b"".join(event.raw for event in live)


@pytest.mark.requirement("streams.join_live")
def test_without_an_id_a_join_is_live_only(server: Server, http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", input={"pause": 0.02, "count": 20}, stream_mode="updates", stream_resumable=True)
    path = f"/threads/{thread}/runs/{run}/stream"
    with server.http(timeout=20) as first, first.stream("GET", path, headers={"Last-Event-ID": "-1"}) as followed:
        next(followed.iter_bytes())
        live = parse(replay(http, thread, run, None).content)
    assert 0 < len(live) <= 20
    assert live[0].name == "updates"
    assert [event.raw for event in parse(replay(http, thread, run).content)[-len(live) :]] == [e.raw for e in live]
    ended = replay(http, thread, run, None)
    assert (ended.status_code, ended.content) == (200, b"")


@pytest.mark.requirement("streams.junk_id")
@pytest.mark.parametrize("junk", ["junk", "1", "-2", "1-", "1-x", "9" * 30 + "-1"])
def test_a_junk_id_is_refused(http: httpx.Client, thread: str, junk: str) -> None:
    run = start(http, thread, "steps", input={"count": 1})
    refused(replay(http, thread, run, junk), 422)
    join(http, thread, run)


# --- filters ---


@pytest.mark.requirement("streams.join_filter")
@pytest.mark.parametrize("spelling", ["repeated", "comma", "json"])
def test_a_join_filters_by_mode_in_three_spellings(http: httpx.Client, thread: str, spelling: str) -> None:
    modes = ["updates", "values", "tasks"]
    live = stream(http, thread, "steps", input={"count": 2}, stream_mode=modes)
    run = live[0].data["run_id"]
    for wanted in (["values"], ["updates", "tasks"]):
        value: Any = {"repeated": wanted, "comma": ",".join(wanted), "json": json.dumps(wanted)}[spelling]
        got = replay(http, thread, run, stream_mode=value)
        assert got.content == b"".join(event.raw for event in live if event.name in wanted)


@pytest.mark.requirement("streams.join_filter")
def test_a_filter_keeps_subgraphs_messages_and_errors(http: httpx.Client, thread: str) -> None:
    live = stream(http, thread, "nested", input=HELLO, stream_mode=["messages-tuple", "values"], stream_subgraphs=True)
    tuples = parse(replay(http, thread, live[0].data["run_id"], stream_mode="messages-tuple").content)
    assert tuples
    assert {event.name.partition("|")[0] for event in tuples} == {"messages"}
    other = new_thread(http)
    failed = stream(http, other, "failing", input={})
    assert names(parse(replay(http, other, failed[0].data["run_id"], stream_mode="updates").content)) == ["error"]


@pytest.mark.requirement("streams.unknown_filter")
def test_an_unknown_filter_is_refused(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", input={"count": 1})
    for value in ("nope", '["nope"]', "[", "values,nope"):
        refused(replay(http, thread, run, stream_mode=value), 422)
    join(http, thread, run)


@pytest.mark.requirement("streams.join_filter")
@pytest.mark.anyio
async def test_the_sdk_joins_with_a_list_of_modes(sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    created = []
    live = [
        part
        async for part in sdk.runs.stream(
            thread,
            "steps",
            input={"count": 2},
            stream_mode=["updates", "values"],
            stream_resumable=True,
            on_run_created=created.append,
        )
    ]
    run = created[0]["run_id"]
    assert created[0]["thread_id"] == thread
    assert {part.event for part in live} == {"metadata", "updates", "values"}
    again = [
        part async for part in sdk.runs.join_stream(thread, run, stream_mode=["updates", "values"], last_event_id="-1")
    ]
    assert again == live[1:]
