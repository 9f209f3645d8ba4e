"""The stream of a thread: all its runs, whoever starts them and when."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.support.follow import Follower, following
from tests.support.server import Server
from tests.support.talk import (
    LONG,
    UNKNOWN_ID,
    Event,
    new_thread,
    refused,
    run_status,
    start,
    stream,
    until_running,
    wait,
)

EVERYTHING = ["run_modes", "lifecycle", "state_update"]


def of(thread: str) -> str:
    return f"/threads/{thread}/stream"


def ends(follower: Follower) -> list[str]:
    """The runs whose end was told, in order."""
    return [event.data["run_id"] for event in follower.events if is_end(event)]


def is_end(event: Event) -> bool:
    return event.name == "metadata" and event.data.get("status") == "run_done"


def numbers(follower: Follower) -> list[int]:
    return [int(str(event.id).partition("-")[2]) for event in follower.events]


def replay(server: Server, thread: str, runs: int, last: str = "-", **params: Any) -> Follower:
    """The log of a thread up to the end of its n-th run."""
    with following(server.url, of(thread), last, **params) as follower:
        follower.until(lambda one: len(ends(one)) == runs, f"{runs} runs have ended")
    return follower


# --- modes ---


@pytest.mark.requirement("streams.thread_run_modes")
def test_by_default_a_follower_gets_the_events_of_every_run_and_its_end(
    server: Server, http: httpx.Client, thread: str
) -> None:
    with following(server.url, of(thread)) as follower:
        first = stream(http, thread, "steps", input={"count": 2}, stream_mode="updates", stream_resumable=True)
        second = stream(http, thread, "steps", input={"count": 3}, stream_mode=["values", "tasks"])
        follower.until(lambda one: len(ends(one)) == 2, "both runs have ended")
    said = [event for event in follower.events if not is_end(event)]
    assert [(event.name, event.data) for event in said] == [(event.name, event.data) for event in first + second]
    assert [event.raw for event in said[: len(first)]] == [event.raw for event in first], "ids of its own stay"
    assert ends(follower) == [first[0].data["run_id"], second[0].data["run_id"]]
    assert follower.events[len(first)].data == {"status": "run_done", "run_id": first[0].data["run_id"]}


@pytest.mark.requirement("streams.thread_ids", "streams.thread_resume")
def test_every_event_has_an_id_that_grows_over_all_runs(server: Server, http: httpx.Client, thread: str) -> None:
    for resumable in (True, False, True, False):
        stream(http, thread, "steps", input={"count": 2}, stream_resumable=resumable, stream_mode=["values", "debug"])
    follower = replay(server, thread, 4)
    assert None not in {event.id for event in follower.events}
    assert numbers(follower) == sorted(set(numbers(follower)))


@pytest.mark.requirement("streams.thread_lifecycle")
def test_lifecycle_is_the_start_and_the_end_of_every_run(server: Server, http: httpx.Client, thread: str) -> None:
    run = stream(http, thread, "steps", input={"count": 2}, stream_mode=["updates", "values"])[0].data["run_id"]
    failed = stream(http, thread, "failing", input={})[0].data["run_id"]
    follower = replay(server, thread, 2, stream_mode="lifecycle")
    assert [(event.name, event.data) for event in follower.events] == [
        ("metadata", data)
        for one in (run, failed)
        for data in ({"run_id": one, "attempt": 1}, {"status": "run_done", "run_id": one})
    ]


@pytest.mark.requirement("streams.thread_state_update")
def test_a_state_update_is_told_to_those_who_asked(server: Server, http: httpx.Client, thread: str) -> None:
    wait(http, thread, "steps", input={"log": ["a"], "count": 1})
    with (
        following(server.url, of(thread), stream_mode="state_update") as asked,
        following(server.url, of(thread), stream_mode="run_modes") as other,
    ):
        updated = http.post(f"/threads/{thread}/state", json={"values": {"log": ["b"]}})
        assert updated.status_code == 200
        asked.until(lambda one: one.events, "the update")
        run = stream(http, thread, "steps", input={"count": 1})[0].data["run_id"]
        other.until(ends, "the next run's end")
    [event] = asked.events
    assert event.name == "state_update"
    assert event.data["thread_id"] == thread
    assert event.data["state"]["checkpoint_id"] == updated.json()["checkpoint_id"]
    assert event.data["state"]["values"]["log"] == ["a", 0, "b"]
    assert "state_update" not in other.names
    assert ends(other) == [run]
    assert numbers(asked) < numbers(other)


@pytest.mark.requirement("streams.thread_modes_combined")
@pytest.mark.parametrize("parameter", ["stream_mode", "stream_modes"])
@pytest.mark.parametrize("spelling", ["repeated", "comma", "json"])
def test_modes_can_be_combined_under_both_names_and_in_three_spellings(
    server: Server, http: httpx.Client, thread: str, parameter: str, spelling: str
) -> None:
    stream(http, thread, "steps", input={"count": 1}, stream_mode="updates")
    assert http.post(f"/threads/{thread}/state", json={"values": {"log": ["b"]}}).status_code == 200
    wait(http, thread, "steps", input={"count": 1})
    wanted = ["lifecycle", "state_update"]
    value: Any = {"repeated": wanted, "comma": ",".join(wanted), "json": json.dumps(wanted)}[spelling]
    follower = replay(server, thread, 2, **{parameter: value})
    assert follower.names == ["metadata", "metadata", "state_update", "metadata", "metadata"]
    everything = replay(server, thread, 2, **{parameter: EVERYTHING})
    assert everything.names == ["metadata", "updates", "metadata", "state_update", "metadata", "metadata"]


@pytest.mark.requirement("streams.thread_refusals")
def test_bad_ids_are_refused(http: httpx.Client, thread: str) -> None:
    for junk in ("junk", "-2", "1-", "1-x"):
        detail = refused(http.get(of(thread), headers={"Last-Event-ID": junk}), 422)
        assert detail == "Invalid last-event-id: must be a valid Redis stream ID"
    refused(http.get(of("nope")), 422)


@pytest.mark.requirement("streams.thread_unknown")
def test_unknown_modes_and_other_threads_are_refused(server: Server, http: httpx.Client, thread: str) -> None:
    def status(path: str, **params: str) -> int:
        with http.stream("GET", path, params=params) as answer:
            return answer.status_code

    for value in ("nope", "values", "run_modes,nope", '["nope"]', "[", '[["run_modes"]]', "\x00"):
        for parameter in ("stream_mode", "stream_modes"):
            assert status(of(thread), **{parameter: value}) == 422
    for junk in ("1", "9" * 30 + "-1", "1-" + "9" * 30):
        with http.stream("GET", of(thread), headers={"Last-Event-ID": junk}) as answer:
            assert answer.status_code == 422
    assert status(of(UNKNOWN_ID)) == 404


# --- where to begin ---


@pytest.mark.requirement("streams.thread_resume")
def test_a_follower_goes_on_after_any_id_and_gets_the_same_bytes(
    server: Server, http: httpx.Client, thread: str
) -> None:
    for count, resumable in ((2, True), (4, False)):
        stream(http, thread, "steps", input={"count": count}, stream_mode=["updates"], stream_resumable=resumable)
    wait(http, thread, "steps", input={})
    whole = replay(server, thread, 3)
    assert len(whole.events) == 10
    for start_ in ("-1", "0"):
        assert (replay(server, thread, 3, start_)).received == whole.received
    for place, event in enumerate(whole.events[:-1]):
        left = sum(map(is_end, whole.events[place + 1 :]))
        rest = replay(server, thread, left, str(event.id))
        assert rest.received == b"".join(later.raw for later in whole.events[place + 1 :])


@pytest.mark.requirement("streams.thread_live")
def test_without_an_id_a_follower_gets_only_what_comes(server: Server, http: httpx.Client, thread: str) -> None:
    stream(http, thread, "steps", input={"count": 1})
    with following(server.url, of(thread)) as follower:
        run = stream(http, thread, "steps", input={"count": 3}, stream_mode="updates")[0].data["run_id"]
        follower.until(ends, "the second run has ended")
    assert follower.names == ["metadata", "updates", "updates", "metadata"]
    assert ends(follower) == [run]


@pytest.mark.requirement("streams.thread_never_ends")
def test_the_stream_outlives_its_runs_and_beats(server: Server, http: httpx.Client, thread: str) -> None:
    with following(server.url, of(thread), stream_mode=EVERYTHING) as follower:
        stream(http, thread, "steps", input={"count": 1})
        follower.until(lambda one: b": heartbeat\r\n\r\n" in one.received, "a heartbeat")
        assert not follower.ended
        assert len(ends(follower)) == 1
        assert follower.response is not None
        headers = follower.response.headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")


@pytest.mark.requirement("streams.thread_location")
def test_the_location_of_the_stream_names_its_modes(server: Server, thread: str) -> None:
    with following(server.url, of(thread), stream_mode=EVERYTHING) as follower:
        assert follower.response is not None
        location = follower.response.headers["location"]
    assert location == f"/threads/{thread}/stream?stream_mode=lifecycle,run_modes,state_update"


@pytest.mark.requirement("streams.live_equals_replay")
def test_several_followers_see_the_same_bytes(server: Server, http: httpx.Client, thread: str) -> None:
    with (
        following(server.url, of(thread)) as early,
        following(server.url, of(thread), "-") as too,
        following(server.url, of(thread), "-") as third,
    ):
        run = start(http, thread, "steps", input={"pause": 0.02, "count": 10}, stream_mode=["updates"])
        with following(server.url, of(thread), "-") as late:
            followers = (early, too, third, late)
            for one in followers:
                one.until(ends, f"{run} has ended")
    assert len({one.whole for one in followers}) == 1
    assert early.names.count("updates") == 10


# --- ends of all kinds ---


@pytest.mark.requirement("streams.thread_unlogged")
def test_of_a_wait_run_the_start_the_end_and_the_error_are_told(
    server: Server, http: httpx.Client, thread: str
) -> None:
    wait(http, thread, "steps", input={"count": 2})
    failed = wait(http, thread, "failing", input={})
    follower = replay(server, thread, 2)
    assert follower.names == ["metadata", "metadata", "metadata", "error", "metadata"]
    assert follower.events[3].data == failed["__error__"]
    assert [
        event.data["run_id"] for event in follower.events if not is_end(event) and event.name == "metadata"
    ] == ends(follower)


@pytest.mark.requirement("streams.thread_cancelled")
def test_a_run_cancelled_before_it_starts_is_told_when_nobody_runs(
    server: Server, http: httpx.Client, thread: str
) -> None:
    with following(server.url, of(thread), stream_mode="lifecycle") as follower:
        later = start(http, thread, "steps", input={}, after_seconds=3600)
        assert http.post(f"/threads/{thread}/runs/{later}/cancel").status_code == 202
        follower.until(ends, "the end of a run that never began")
        assert [event.data for event in follower.events] == [{"status": "run_done", "run_id": later}]

        running = start(http, thread, "steps", **LONG)
        until_running(http, thread, running)
        queued = [start(http, thread, "steps", input={}) for _ in range(2)]
        for run in queued:
            assert http.post(f"/threads/{thread}/runs/{run}/cancel").status_code == 202
        assert http.post(f"/threads/{thread}/runs/{running}/cancel").status_code == 202
        follower.until(lambda one: len(ends(one)) == 4, "all ends")
    assert ends(follower) == [later, *queued, running]
    assert (replay(server, thread, 4, stream_mode="lifecycle")).whole == follower.whole


@pytest.mark.requirement("streams.thread_cancelled")
def test_runs_that_a_newer_one_pushes_aside_are_told_too(server: Server, http: httpx.Client, thread: str) -> None:
    with following(server.url, of(thread), stream_mode="lifecycle") as follower:
        waiting = [start(http, thread, "steps", input={}, after_seconds=3600) for _ in range(2)]
        newest = start(http, thread, "steps", input={}, multitask_strategy="rollback")
        follower.until(lambda one: len(ends(one)) == 3, "all ends")
    assert ends(follower) == [*waiting, newest]
    assert run_status(http, thread, newest) == "success"


@pytest.mark.requirement("streams.thread_rollback")
def test_of_a_rolled_back_run_the_log_keeps_only_the_end(server: Server, http: httpx.Client, thread: str) -> None:
    with following(server.url, of(thread)) as follower:
        run = start(http, thread, "steps", **LONG)
        follower.until(lambda one: "values" in one.names, "it speaks")
        http.post(f"/threads/{thread}/runs/{run}/cancel", params={"action": "rollback", "wait": "1"})
        follower.until(ends, "it has ended")
    again = replay(server, thread, 1)
    assert [event.data for event in again.events] == [{"status": "run_done", "run_id": run}]
    assert again.events[0].raw == follower.events[-1].raw


@pytest.mark.requirement("streams.thread_deleted")
def test_a_deleted_thread_ends_its_followers(server: Server, http: httpx.Client, thread: str) -> None:
    busy = new_thread(http)
    run = start(http, busy, "steps", **LONG)
    until_running(http, busy, run)
    with following(server.url, of(thread)) as idle, following(server.url, of(busy)) as at_work:
        for one in (thread, busy):
            assert http.delete(f"/threads/{one}").status_code == 204
        for follower in (idle, at_work):
            follower.until(lambda one: one.ended, "the end")
    refused(http.get(of(thread)), 404)


@pytest.mark.requirement("streams.thread_deleted")
def test_a_stateless_runs_thread_tells_its_end_before_it_goes(server: Server, http: httpx.Client) -> None:
    body = {"assistant_id": "steps", "input": {"pause": 0.2, "count": 2}, "stream_mode": "updates"}
    with http.stream("POST", "/runs/stream", json=body) as run:
        thread = http.get(run.headers["content-location"]).json()["thread_id"]
        with following(server.url, of(thread), "-") as follower:
            follower.until(lambda one: one.ended, "the end")
    assert follower.names == ["metadata", "updates", "updates", "metadata"]


# --- the SDK ---


@pytest.mark.anyio
@pytest.mark.requirement("streams.thread_sdk")
async def test_the_sdk_follows_a_thread_in_every_mode(sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]

    async def follow(last: str, **how: Any) -> list[tuple[str, str | None]]:
        seen = []
        async for part in await sdk.threads.join_stream(thread, last_event_id=last, **how):
            seen.append((part.event, part.id))
            if part.data.get("status") == "run_done":
                break
        return seen

    live = [asyncio.create_task(follow("-", stream_mode=mode)) for mode in ("run_modes", EVERYTHING, "lifecycle")]
    run = await sdk.runs.create(thread, "steps", input={"pause": 0.05, "count": 2}, stream_mode=["updates"])
    await sdk.runs.join(thread, run["run_id"])
    by_default, everything, lifecycle = await asyncio.gather(*live)
    assert [name for name, _ in by_default] == ["metadata", "updates", "updates", "metadata"]
    assert everything == by_default
    assert lifecycle == [by_default[0], by_default[-1]]
    assert await follow("-") == by_default
    assert await follow(str(by_default[1][1])) == by_default[2:]
