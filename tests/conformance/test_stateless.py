"""Runs without a thread of the caller's: one by one, in batches, and how they are found and cancelled."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError
from langgraph_sdk.schema import RunCreateMetadata

from tests.support.server import Server
from tests.support.talk import (
    LONG,
    UNKNOWN_ID,
    get_thread,
    join,
    new_thread,
    parse,
    refused,
    run_status,
    start,
    until,
    until_running,
)

LATER: dict[str, Any] = {"assistant_id": "steps", "input": {"count": 1}, "after_seconds": 3600}
"""A run that is still pending when the test is over, unless it is cancelled."""


@pytest.mark.requirement("runs.stateless")
def test_a_stateless_run_leaves_no_thread(http: httpx.Client) -> None:
    answer = http.post("/runs/wait", json={"assistant_id": "steps", "input": {"count": 2}})
    assert answer.json() == {"log": [0, 1], "count": 2}
    thread, run = answer.headers["content-location"].removeprefix("/threads/").split("/runs/")
    assert answer.headers["location"] == f"/threads/{thread}/runs/{run}/join"
    refused(http.get(f"/threads/{thread}"), 404)


@pytest.mark.requirement("runs.stateless_keep")
def test_a_stateless_run_may_keep_its_thread(http: httpx.Client) -> None:
    body = {"assistant_id": "steps", "input": {"count": 1}, "on_completion": "keep"}
    answer = http.post("/runs/wait", json=body)
    thread = answer.headers["content-location"].split("/")[2]
    assert get_thread(http, thread)["values"] == {"log": [0], "count": 1}


@pytest.mark.requirement("runs.stateless_resume")
def test_a_stateless_question_is_shown_but_cannot_be_answered(http: httpx.Client) -> None:
    asked = http.post("/runs/wait", json={"assistant_id": "approve", "input": {}}).json()
    assert asked["__interrupt__"][0]["value"] == {"question": "may I?"}
    for operation in ("wait", "stream"):
        answer = http.post(f"/runs/{operation}", json={"assistant_id": "approve", "command": {"resume": "yes"}})
        assert refused(answer, 400) == "You must provide a thread_id when resuming."


@pytest.mark.requirement("runs.stateless_failed")
def test_a_failed_stateless_run_reports_its_error(http: httpx.Client) -> None:
    answer = http.post("/runs/wait", json={"assistant_id": "failing", "input": {}})
    assert answer.status_code == 200
    assert answer.json() == {"__error__": {"error": "ValueError", "message": "as told"}}


@pytest.mark.requirement("runs.stateless")
@pytest.mark.anyio
async def test_the_sdk_streams_and_waits_without_a_thread(sdk: LangGraphClient) -> None:
    assert await sdk.runs.wait(None, "steps", input={"count": 1}) == {"log": [0], "count": 1}
    seen = [part.event async for part in sdk.runs.stream(None, "steps", input={"count": 1}, stream_mode="updates")]
    assert seen == ["metadata", "updates"]


# --- in the background ---


@pytest.mark.requirement("runs.stateless_create")
def test_a_stateless_run_goes_on_in_the_background(http: httpx.Client) -> None:
    created = http.post("/runs", json={"assistant_id": "steps", "input": {"count": 2}})
    run = created.json()
    assert created.status_code == 200
    assert created.headers["content-location"] == f"/runs/{run['run_id']}"
    assert run["kwargs"]["temporary"] is True
    assert join(http, run["thread_id"], run["run_id"]) == {"log": [0, 1], "count": 2}
    refused(http.get(f"/threads/{run['thread_id']}"), 404)


@pytest.mark.requirement("runs.stateless_afterwards")
@pytest.mark.parametrize("place", ["/runs/{run_id}", "/threads/{thread_id}/runs/{run_id}"])
def test_an_ended_stateless_run_can_still_be_asked_for(http: httpx.Client, place: str) -> None:
    run = http.post("/runs", json={"assistant_id": "steps", "input": {"count": 1}}).json()
    path = place.format(**run)
    assert http.get(f"{path}/join").json() == {"log": [0], "count": 1}
    refused(http.get(f"/threads/{run['thread_id']}"), 404)
    found = http.get(path).json()
    assert (found["run_id"], found["status"]) == (run["run_id"], "success")
    assert http.get(f"{path}/join").json() == {"log": [0], "count": 1}
    replayed = parse(http.get(f"{path}/stream", headers={"last-event-id": "-1"}).content)
    assert [event.name for event in replayed] == ["metadata", "values", "values"]


@pytest.mark.requirement("runs.stateless_location")
def test_the_location_of_a_stateless_stream_exists(http: httpx.Client) -> None:
    body = {"assistant_id": "steps", "input": {"count": 2}, "stream_mode": "updates", "stream_resumable": True}
    answer = http.post("/runs/stream", json=body)
    run = parse(answer.content)[0].data["run_id"]
    assert answer.headers["content-location"] == f"/runs/{run}"
    assert answer.headers["location"] == f"/runs/{run}/stream"
    again = http.get(answer.headers["location"], headers={"last-event-id": "-1"})
    assert again.content == answer.content
    # The SDK asks for the run, at the location without /stream, when a stream has closed.
    assert http.get(answer.headers["location"].removesuffix("/stream")).json()["status"] == "success"


@pytest.mark.requirement("runs.by_id")
def test_a_run_on_a_thread_is_found_by_its_id_alone_too(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", input={"count": 1})
    assert http.get(f"/runs/{run}/join").json() == {"log": [0], "count": 1}
    assert http.get(f"/runs/{run}").json() == http.get(f"/threads/{thread}/runs/{run}").json()


@pytest.mark.requirement("runs.by_id")
@pytest.mark.parametrize("path", ["", "/join", "/stream"])
def test_an_unknown_run_is_404_and_a_bad_id_422(http: httpx.Client, path: str) -> None:
    assert refused(http.get(f"/runs/{UNKNOWN_ID}{path}"), 404) == f"Run with ID {UNKNOWN_ID} not found"
    assert refused(http.get(f"/runs/nonsense{path}"), 422) == "Invalid run ID: must be a UUID"


@pytest.mark.requirement("runs.stateless_keep")
@pytest.mark.anyio
async def test_a_kept_thread_is_the_callers(sdk: LangGraphClient) -> None:
    run = await sdk.runs.create(None, "approve", input={"log": ["before"]}, on_completion="keep")
    thread = run["thread_id"]
    assert run["kwargs"]["temporary"] is False
    await sdk.runs.join(thread, run["run_id"])
    assert (await sdk.threads.get(thread))["status"] == "interrupted"
    result = await sdk.runs.wait(thread, "approve", command={"resume": "yes"})
    assert result["log"] == ["before", "yes", "done"]  # type: ignore[call-overload]


@pytest.mark.requirement("runs.cancel_stateless")
def test_a_stateless_run_that_is_cancelled_before_it_starts_leaves_no_thread(http: httpx.Client) -> None:
    run = http.post("/runs", json=LATER).json()
    assert get_thread(http, run["thread_id"])["status"] == "busy"
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}"
    assert http.post(f"{path}/cancel").status_code == 202
    refused(http.get(f"/threads/{run['thread_id']}"), 404)
    assert http.get(path).json()["status"] == "interrupted"


@pytest.mark.requirement("runs.on_run_created")
@pytest.mark.anyio
@pytest.mark.parametrize("on_thread", [True, False])
async def test_the_sdk_tells_which_run_was_created(sdk: LangGraphClient, on_thread: bool) -> None:
    thread = (await sdk.threads.create())["thread_id"] if on_thread else None
    told: list[RunCreateMetadata] = []
    options: Any = {"input": {"count": 1}, "on_run_created": told.append}
    created = await sdk.runs.create(thread, "steps", **options)
    await sdk.runs.wait(thread, "steps", **options)
    streamed = [part async for part in sdk.runs.stream(thread, "steps", **options)]
    assert [told[0]["run_id"], told[2]["run_id"]] == [created["run_id"], streamed[0].data["run_id"]]
    assert [one["thread_id"] for one in told] == [thread] * 3 if on_thread else [None, told[1]["thread_id"], None]


# --- batches ---


@pytest.mark.requirement("runs.batch")
@pytest.mark.anyio
async def test_a_batch_starts_all_its_runs_in_order(sdk: LangGraphClient) -> None:
    payloads: Any = [{"assistant_id": "steps", "input": {"count": n}, "metadata": {"n": n}} for n in (3, 1, 2)]
    runs = await sdk.runs.create_batch([{**payload, "on_completion": "keep"} for payload in payloads])
    assert [run["metadata"]["n"] for run in runs] == [3, 1, 2]
    assert len({run["thread_id"] for run in runs}) == 3
    results = [await sdk.runs.join(run["thread_id"], run["run_id"]) for run in runs]
    assert [len(result["log"]) for result in results] == [3, 1, 2]  # type: ignore[call-overload]


@pytest.mark.requirement("runs.batch_all_or_none")
@pytest.mark.parametrize(
    ("bad", "status"),
    [
        ({"assistant_id": "nope"}, 422),
        ({"assistant_id": UNKNOWN_ID}, 404),
        ({"input": {}}, 422),
        ({"assistant_id": "steps", "stream_mode": "nope"}, 422),
        ({"assistant_id": "steps", "metadata": {"a": "\x00"}}, 422),
        ({"assistant_id": "steps", "if_thread_status": "busy"}, 409),
        ({"assistant_id": "steps", "context": {"a": 1}, "config": {"configurable": {"b": 1}}}, 400),
        ({"assistant_id": "twice", "command": {"resume": 1}}, 400),
        (5, 422),
        (None, 422),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_batch_with_one_bad_body_starts_nothing(http: httpx.Client, bad: Any, status: int, place: int) -> None:
    before = http.post("/threads/count", json={}).json()
    batch = [{"assistant_id": "steps", "input": {"count": 1}, "on_completion": "keep"}]
    batch.insert(place, bad)
    refused(http.post("/runs/batch", json=batch), status)
    assert http.post("/threads/count", json={}).json() == before


@pytest.mark.requirement("runs.batch_bounds")
@pytest.mark.parametrize(
    "body",
    [
        *([], {}, None, 5, "text", [[]]),
        pytest.param([LATER] * 1001, marks=pytest.mark.requirement("runs.batch_limit"), id="1001"),
    ],
)
def test_a_batch_is_a_list_of_1_to_1000_bodies(http: httpx.Client, body: Any) -> None:
    refused(http.post("/runs/batch", json=body), 422)


@pytest.mark.requirement("runs.batch_bounds")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[",
        b"nope",
        b"[" * 10_000 + b"]" * 10_000,
        b'[{"assistant_id": "steps", "input": {"a": "\\ud800"}}]',
        *(
            pytest.param(content, marks=pytest.mark.requirement("runs.batch_unsaveable"))
            for content in (
                b'[{"assistant_id": "steps", "input": [18446744073709551616]}]',
                b'[{"assistant_id": "steps"}, {"assistant_id": "steps", "metadata": {"a": "\\u0000"}}]',
            )
        ),
    ],
)
def test_a_batch_that_is_no_json_or_holds_what_cannot_be_kept_is_refused(http: httpx.Client, content: bytes) -> None:
    refused(http.post("/runs/batch", content=content), 422)


@pytest.mark.requirement("runs.batch")
def test_a_full_batch_is_taken(http: httpx.Client) -> None:
    runs = http.post("/runs/batch", json=[LATER] * 1000, timeout=60).json()
    assert len({run["run_id"] for run in runs}) == 1000
    assert http.post("/runs/cancel", json={"status": "pending"}).status_code == 204


@pytest.mark.requirement("runs.cancel_stateless")
def test_stateless_runs_that_are_cancelled_together_leave_no_threads(http: httpx.Client) -> None:
    run = http.post("/runs", json=LATER).json()
    assert http.post("/runs/cancel", json={"status": "pending"}).status_code == 204
    refused(http.get(f"/threads/{run['thread_id']}"), 404)


# --- cancelling many ---


@pytest.mark.requirement("runs.cancel_many_of_a_thread")
@pytest.mark.anyio
async def test_some_runs_of_a_thread_are_cancelled_at_once(sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    first, second, third = [
        (await sdk.runs.create(thread, "steps", input={}, after_seconds=3600))["run_id"] for _ in range(3)
    ]
    await sdk.runs.cancel_many(thread_id=thread, run_ids=[first, third])
    found = {run["run_id"]: run["status"] for run in await sdk.runs.list(thread)}
    assert found == {first: "interrupted", second: "pending", third: "interrupted"}
    with pytest.raises(NotFoundError):
        await sdk.runs.cancel_many(thread_id=thread, run_ids=[first, third])
    with pytest.raises(UnprocessableEntityError):
        await sdk.runs.cancel_many(thread_id=thread)
    await sdk.runs.cancel_many(thread_id=thread, run_ids=[second], action="rollback")
    assert len(await sdk.runs.list(thread)) == 2


@pytest.mark.requirement("runs.cancel_many_by_status")
@pytest.mark.parametrize(
    ("status", "cancelled"),
    [
        ("pending", {"pending"}),
        pytest.param("running", {"running"}, marks=pytest.mark.requirement("runs.cancel_many_running")),
        pytest.param("all", {"pending", "running"}, marks=pytest.mark.requirement("runs.cancel_many_running")),
    ],
)
def test_all_runs_in_a_status_are_cancelled_at_once(http: httpx.Client, status: str, cancelled: set[str]) -> None:
    threads = {"running": new_thread(http), "pending": new_thread(http)}
    runs = {
        "running": start(http, threads["running"], "steps", **LONG),
        "pending": start(http, threads["pending"], "steps", input={}, after_seconds=3600),
    }
    until_running(http, threads["running"], runs["running"])
    answer = http.post("/runs/cancel", json={"status": status})
    assert (answer.status_code, answer.content) == (204, b"")
    for name in cancelled:
        join(http, threads[name], runs[name])
        assert run_status(http, threads[name], runs[name]) == "interrupted"
    for name in runs.keys() - cancelled:
        assert run_status(http, threads[name], runs[name]) == name
        http.post(f"/threads/{threads[name]}/runs/{runs[name]}/cancel", params={"wait": 1})


@pytest.mark.requirement("runs.cancel_many_rollback")
def test_many_runs_are_rolled_back_at_once(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", **LONG)
    until_running(http, thread, run)
    waiting = http.post("/runs", json=LATER).json()
    assert http.post("/runs/cancel", json={"status": "all"}, params={"action": "rollback"}).status_code == 204
    refused(http.get(f"/runs/{waiting['run_id']}"), 404)
    until(lambda: http.get(f"/runs/{run}").status_code == 404, "the running one is rolled back")
    assert get_thread(http, thread)["values"] is None


@pytest.mark.requirement("runs.cancel_many_refused")
def test_cancelling_many_needs_something_to_cancel(http: httpx.Client, thread: str) -> None:
    http.post("/runs/cancel", json={"status": "all"})
    until(lambda: http.post("/runs/cancel", json={"status": "all"}).status_code == 404, "everything has stopped")
    for body in ({"status": "pending"}, {"thread_id": thread, "run_ids": [UNKNOWN_ID]}):
        refused(http.post("/runs/cancel", json=body), 404)
    refused(http.post("/runs/cancel", json={"thread_id": UNKNOWN_ID, "run_ids": [UNKNOWN_ID]}), 404)


@pytest.mark.requirement("runs.cancel_many_refused")
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"status": None},
        {"status": "success"},
        {"status": "all", "thread_id": UNKNOWN_ID, "run_ids": [UNKNOWN_ID]},
        {"status": "all", "thread_id": UNKNOWN_ID},
        {"status": "all", "run_ids": [UNKNOWN_ID]},
        {"thread_id": UNKNOWN_ID},
        {"run_ids": [UNKNOWN_ID]},
        pytest.param(
            {"thread_id": UNKNOWN_ID, "run_ids": []}, marks=pytest.mark.requirement("runs.cancel_many_bounds")
        ),
        pytest.param(
            {"thread_id": UNKNOWN_ID, "run_ids": [UNKNOWN_ID] * 1001},
            marks=pytest.mark.requirement("runs.cancel_many_bounds"),
        ),
        {"thread_id": "nonsense", "run_ids": [UNKNOWN_ID]},
        {"thread_id": UNKNOWN_ID, "run_ids": ["nonsense"]},
        {"thread_id": UNKNOWN_ID, "run_ids": UNKNOWN_ID},
    ],
)
def test_a_cancel_that_names_neither_or_both_is_refused(http: httpx.Client, body: Any) -> None:
    refused(http.post("/runs/cancel", json=body), 422)


@pytest.mark.requirement("runs.cancel_stream", "runs.by_id")
@pytest.mark.anyio
async def test_followers_of_waiting_runs_learn_at_once_that_they_were_cancelled(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=4) as client:
        run = (await client.post("/runs", json=LATER)).json()
        async with client.stream("GET", f"/runs/{run['run_id']}/stream") as answer:
            assert answer.status_code == 200
            await client.post("/runs/cancel", json={"status": "pending"})
            assert await answer.aread() == b""
