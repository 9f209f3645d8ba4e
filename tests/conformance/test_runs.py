"""Runs on the wire. Streams have a file of their own."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError

from tests.support.server import Server
from tests.support.talk import (
    LONG,
    UNKNOWN_ID,
    eventually,
    get_thread,
    join,
    new_thread,
    refused,
    run_status,
    start,
    system_assistant,
    until,
    until_running,
    wait,
)

RUN_KEYS = {
    "run_id",
    "thread_id",
    "assistant_id",
    "metadata",
    "status",
    "kwargs",
    "multitask_strategy",
    "created_at",
    "updated_at",
    "langsmith_session_name",
}


def steps_of(http: httpx.Client, thread: str) -> int:
    return len(http.get(f"/threads/{thread}/history", params={"limit": 1000}).json())


# --- create, list, get, delete ---


@pytest.mark.requirement("runs.create")
def test_a_created_run_is_shown_whole_and_located(http: httpx.Client, thread: str) -> None:
    answer = http.post(f"/threads/{thread}/runs", json={"assistant_id": "steps", "input": {"count": 1}})
    run = answer.json()
    assert answer.status_code == 200
    assert answer.headers["content-location"] == f"/threads/{thread}/runs/{run['run_id']}"
    assert set(run) == RUN_KEYS
    assert uuid.UUID(run["run_id"]).version == 7
    assert run["assistant_id"] == system_assistant("steps")
    assert (run["thread_id"], run["multitask_strategy"]) == (thread, "enqueue")
    assert run["kwargs"]["input"] == {"count": 1}
    assert run["kwargs"]["stream_mode"] == ["values"]
    assert join(http, thread, run["run_id"]) == {"log": [0], "count": 1}
    assert run_status(http, thread, run["run_id"]) == "success"


@pytest.mark.requirement("runs.config_kept")
def test_config_context_and_metadata_are_kept_with_the_run(http: httpx.Client, thread: str) -> None:
    body = {
        "assistant_id": "steps",
        "input": {"count": 1},
        "config": {"tags": ["t"], "recursion_limit": 7, "configurable": {"colour": "red"}, "metadata": {"m": 1}},
        "metadata": {"n": 2, "run_id": "forged"},
        "unknown_field": 1,
    }
    run = http.post(f"/threads/{thread}/runs", json=body).json()
    assert run["kwargs"]["config"]["configurable"]["colour"] == "red"
    assert run["kwargs"]["config"]["recursion_limit"] == 7
    assert run["metadata"]["m"] == 1
    assert run["metadata"]["n"] == 2
    assert run["metadata"].get("run_id") != "forged"
    join(http, thread, run["run_id"])
    state = http.get(f"/threads/{thread}/state").json()
    assert state["metadata"]["colour"] == "red"
    assert state["metadata"]["run_id"] == run["run_id"]


@pytest.mark.requirement("runs.request_id")
def test_the_request_id_reaches_the_graphs_config(http: httpx.Client, thread: str) -> None:
    body = {"assistant_id": "steps", "input": {"count": 1}, "config": {"configurable": {"langgraph_request_id": "f"}}}
    run = http.post(f"/threads/{thread}/runs", json=body, headers={"x-request-id": "abc"}).json()
    assert run["kwargs"]["config"]["configurable"]["langgraph_request_id"] == "abc"


@pytest.mark.requirement("runs.list")
@pytest.mark.anyio
async def test_runs_are_listed_newest_first_in_pages(sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    runs = [(await sdk.runs.create(thread, "steps", input={"count": 1}))["run_id"] for _ in range(3)]
    for run in runs:
        await sdk.runs.join(thread, run)
    listed = await sdk.runs.list(thread)
    assert [run["run_id"] for run in listed] == runs[::-1]
    assert [run["run_id"] for run in await sdk.runs.list(thread, limit=1, offset=1)] == [runs[1]]
    assert len(await sdk.runs.list(thread, status="success")) == 3
    assert await sdk.runs.list(thread, status="error") == []
    assert listed[0] == await sdk.runs.get(thread, runs[2])


@pytest.mark.requirement("runs.unknown_run")
def test_an_unknown_run_is_404_and_a_bad_id_422(http: httpx.Client, thread: str) -> None:
    operations = [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/join"), ("GET", "/stream")]
    for method, path in operations:
        refused(http.request(method, f"/threads/{thread}/runs/{UNKNOWN_ID}{path}"), 404)
        bad = http.request(method, f"/threads/{thread}/runs/nonsense{path}")
        assert refused(bad, 422) == "Invalid run ID: must be a UUID"


@pytest.mark.requirement("runs.own_thread_only")
def test_a_run_is_found_under_its_own_thread_only(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", input={"count": 1})
    join(http, thread, run)
    other = new_thread(http)
    for method, path in [("GET", ""), ("DELETE", ""), ("POST", "/cancel")]:
        refused(http.request(method, f"/threads/{other}/runs/{run}{path}"), 404)
    assert run_status(http, thread, run) == "success"


@pytest.mark.requirement("runs.own_thread_only", "runs.unknown_run")
def test_a_run_is_joined_and_followed_under_its_own_thread_only(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", input={"count": 1})
    for path in ("/join", "/stream"):
        refused(http.get(f"/threads/{new_thread(http)}/runs/{run}{path}"), 404)


@pytest.mark.requirement("runs.delete")
def test_deleting_an_ended_run_keeps_the_state(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", input={"count": 1})
    join(http, thread, run)
    answer = http.delete(f"/threads/{thread}/runs/{run}")
    assert (answer.status_code, answer.content) == (204, b"")
    refused(http.get(f"/threads/{thread}/runs/{run}"), 404)
    assert get_thread(http, thread)["values"] == {"log": [0], "count": 1}


@pytest.mark.requirement("runs.delete_running")
def test_deleting_a_running_run_stops_it_and_frees_its_thread(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", **LONG)
    until_running(http, thread, run)
    assert http.delete(f"/threads/{thread}/runs/{run}").status_code == 204
    refused(http.get(f"/threads/{thread}/runs/{run}"), 404)
    assert get_thread(http, thread)["status"] == "interrupted"
    assert wait(http, thread, "steps", input={"count": 1, "pause": 0})["count"] == 1


@pytest.mark.requirement("runs.unknown_place")
@pytest.mark.parametrize("operation", ["", "/stream", "/wait"])
def test_starting_on_an_unknown_thread_or_assistant_is_404(http: httpx.Client, thread: str, operation: str) -> None:
    unknown = http.post(f"/threads/{UNKNOWN_ID}/runs{operation}", json={"assistant_id": "steps"})
    assert refused(unknown, 404) == "Thread or assistant not found."
    refused(http.post(f"/threads/{thread}/runs{operation}", json={"assistant_id": UNKNOWN_ID}), 404)
    no_graph = http.post(f"/threads/{thread}/runs{operation}", json={"assistant_id": "nope"})
    assert refused(no_graph, 422).startswith("Invalid assistant: 'nope'. Must be either:")


@pytest.mark.requirement("runs.configurable_and_context")
def test_configurable_and_context_together_are_refused(http: httpx.Client, thread: str) -> None:
    body = {"assistant_id": "steps", "config": {"configurable": {"a": 1}}, "context": {"b": 1}}
    refused(http.post(f"/threads/{thread}/runs", json=body), 400)


@pytest.mark.requirement("runs.if_not_exists")
def test_if_not_exists_create_makes_the_thread(http: httpx.Client) -> None:
    thread = str(uuid.uuid4())
    values = wait(
        http,
        thread,
        "steps",
        input={"count": 1},
        if_not_exists="create",
        metadata={"a": 1},
        config={"metadata": {"b": 2}},
    )
    assert values["log"] == [0]
    metadata = get_thread(http, thread)["metadata"]
    assert metadata["a"] == 1
    assert metadata["b"] == 2
    assert metadata["graph_id"] == "steps"
    assert wait(http, thread, "steps", input={}, if_not_exists="create")["log"] == [0, 1]
    assert get_thread(http, thread)["metadata"] == metadata


# --- cancel ---


@pytest.mark.requirement("runs.cancel_pending")
def test_cancelling_a_pending_run_leaves_its_thread_idle(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", input={"count": 1}, after_seconds=3600)
    answer = http.post(f"/threads/{thread}/runs/{run}/cancel")
    assert (answer.status_code, answer.content) == (202, b"")
    assert run_status(http, thread, run) == "interrupted"
    assert get_thread(http, thread)["status"] == "idle"


@pytest.mark.requirement("runs.cancel_running")
def test_cancelling_a_running_run_keeps_what_it_has_done(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", **LONG)
    until(lambda: steps_of(http, thread) > 3, "a few steps are done")
    answer = http.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": 1})
    assert answer.status_code == 200
    assert answer.json() == {}
    assert answer.headers["location"] == f"/threads/{thread}/runs/{run}/join"
    assert run_status(http, thread, run) == "interrupted"
    row = get_thread(http, thread)
    assert row["status"] == "interrupted"
    assert row["error"]["error"] == "UserInterrupt"
    assert len(row["values"]["log"]) >= 1
    assert http.get(f"/threads/{thread}/state").json()["next"] == ["step"]


@pytest.mark.requirement("runs.cancel")
def test_cancelling_without_waiting_ends_the_run_soon(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", **LONG)
    until_running(http, thread, run)
    assert http.post(f"/threads/{thread}/runs/{run}/cancel").status_code == 202
    until(lambda: run_status(http, thread, run) == "interrupted", "the run is interrupted", 2)


@pytest.mark.requirement("runs.cancel_rollback")
def test_rollback_takes_the_run_and_its_checkpoints_back(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "steps", input={"count": 1})
    before = steps_of(http, thread)
    run = start(http, thread, "steps", **LONG)
    until(lambda: steps_of(http, thread) > before + 2, "a few steps are done")
    answer = http.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": 1, "action": "rollback"})
    assert answer.status_code == 200
    refused(http.get(f"/threads/{thread}/runs/{run}"), 404)
    assert steps_of(http, thread) == before
    row = get_thread(http, thread)
    assert (row["status"], row["values"]) == ("idle", {"log": [0], "count": 1})
    assert row["error"]["error"] == "UserRollback"


@pytest.mark.requirement("runs.cancel_rollback")
def test_rollback_of_a_pending_run_deletes_it(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", input={"count": 1}, after_seconds=3600)
    http.post(f"/threads/{thread}/runs/{run}/cancel", params={"action": "rollback"})
    refused(http.get(f"/threads/{thread}/runs/{run}"), 404)


@pytest.mark.requirement("runs.cancel_rollback_pending")
def test_rollback_of_a_pending_run_frees_its_thread(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", input={"count": 1}, after_seconds=3600)
    http.post(f"/threads/{thread}/runs/{run}/cancel", params={"action": "rollback"})
    assert get_thread(http, thread)["status"] == "idle"


@pytest.mark.requirement("runs.cancel_nothing")
def test_there_is_nothing_to_cancel_about_an_ended_run(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", input={"count": 1})
    join(http, thread, run)
    refused(http.post(f"/threads/{thread}/runs/{run}/cancel"), 404)
    assert run_status(http, thread, run) == "success"


@pytest.mark.requirement("runs.cancel_stream")
@pytest.mark.parametrize("action", ["interrupt", "rollback"])
def test_an_open_stream_just_ends_when_its_run_is_cancelled(
    server: Server, http: httpx.Client, thread: str, action: str
) -> None:
    body = {"assistant_id": "steps", **LONG, "stream_mode": "updates"}
    with server.http(timeout=20) as follower, follower.stream("POST", f"/threads/{thread}/runs/stream", json=body) as s:
        chunks = s.iter_bytes()
        received = next(chunks)
        run = s.headers["content-location"].rsplit("/", 1)[-1]
        http.post(f"/threads/{thread}/runs/{run}/cancel", params={"action": action})
        received += b"".join(chunks)
    assert b"event: error" not in received
    assert received.endswith(b"\r\n\r\n")


# --- wait and join ---


@pytest.mark.requirement("runs.wait")
def test_wait_answers_the_values_and_where_to_join(http: httpx.Client, thread: str) -> None:
    answer = http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "steps", "input": {"count": 1}})
    location = answer.headers["content-location"]
    assert answer.json() == {"log": [0], "count": 1}
    assert answer.headers["location"] == f"{location}/join"
    assert answer.headers["content-type"] == "application/json"
    assert http.get(f"{location}/join").json() == {"log": [0], "count": 1}


@pytest.mark.requirement("runs.wait_question")
def test_wait_of_a_question_answers_values_and_the_question(http: httpx.Client, thread: str) -> None:
    result = wait(http, thread, "approve", input={"log": ["before"]})
    [question] = result.pop("__interrupt__")
    assert result == {"log": ["before"]}
    assert question["value"] == {"question": "may I?"}
    assert http.get(f"/threads/{thread}/runs").json()[0]["status"] == "success"


@pytest.mark.requirement("runs.wait_question")
def test_several_questions_come_as_one_list(http: httpx.Client, thread: str) -> None:
    result = wait(http, thread, "parallel", input={})
    assert [question["value"]["question"] for question in result["__interrupt__"]] == [1, 2]


@pytest.mark.requirement("runs.wait_failed")
@pytest.mark.parametrize("operation", ["wait", "join"])
def test_a_failed_run_answers_200_with_the_error(http: httpx.Client, thread: str, operation: str) -> None:
    if operation == "wait":
        result = wait(http, thread, "failing", input={})
    else:
        result = join(http, thread, start(http, thread, "failing", input={}))
    assert result == {"__error__": {"error": "ValueError", "message": "as told"}}
    assert http.get(f"/threads/{thread}/runs").json()[0]["status"] == "error"
    assert get_thread(http, thread)["status"] == "error"


@pytest.mark.requirement("runs.wait_failed")
@pytest.mark.anyio
async def test_the_sdk_raises_what_wait_reports(sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    with pytest.raises(Exception, match="as told"):
        await sdk.runs.wait(thread, "failing", input={})
    kept = await sdk.runs.wait(thread, "failing", input={}, raise_error=False)
    assert kept["__error__"]["error"] == "ValueError"  # type: ignore[call-overload]


@pytest.mark.requirement("runs.empty_input")
def test_no_input_with_nothing_pending_is_a_failed_run(http: httpx.Client, thread: str) -> None:
    assert wait(http, thread, "steps", input=None)["__error__"]["error"] == "EmptyInputError"


@pytest.mark.requirement("runs.join")
def test_a_client_may_join_while_the_run_goes_on(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", input={"pause": 0.02, "count": 5})
    assert join(http, thread, run)["log"] == [0, 1, 2, 3, 4]
    assert run_status(http, thread, run) == "success"


# --- durability, multitasking, delay ---


@pytest.mark.requirement("runs.durability")
@pytest.mark.parametrize(
    ("asked", "checkpoints"),
    [
        ({"durability": "exit"}, 1),
        ({"durability": "async"}, 5),
        ({"durability": "sync"}, 5),
        ({}, 5),
        ({"checkpoint_during": False}, 1),
        ({"checkpoint_during": True}, 5),
    ],
)
def test_durability_decides_how_many_checkpoints_stay(
    http: httpx.Client, thread: str, asked: dict[str, Any], checkpoints: int
) -> None:
    wait(http, thread, "steps", input={"count": 3}, **asked)
    assert steps_of(http, thread) == checkpoints


@pytest.mark.requirement("runs.multitask_reject")
@pytest.mark.anyio
async def test_reject_refuses_a_second_run_and_leaves_the_first_alone(sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    first = await sdk.runs.create(thread, "steps", input={"pause": 0.02, "count": 10})
    with pytest.raises(ConflictError, match="Thread is already running a task"):
        await sdk.runs.create(thread, "steps", input={}, multitask_strategy="reject")
    assert len((await sdk.runs.join(thread, first["run_id"]))["log"]) == 10  # type: ignore[call-overload]
    assert len(await sdk.runs.list(thread)) == 1


@pytest.mark.requirement("runs.multitask_enqueue")
def test_enqueued_runs_follow_each_other_and_never_overlap(http: httpx.Client, thread: str) -> None:
    runs = [start(http, thread, "echo", input={"messages": [{"role": "user", "content": str(n)}]}) for n in range(4)]
    values = join(http, thread, runs[-1])
    said = [message["content"] for message in values["messages"]]
    assert said == [text for n in range(4) for text in (str(n), f"you said: {n}")]
    assert {run_status(http, thread, run) for run in runs} == {"success"}


@pytest.mark.requirement("runs.multitask_interrupt")
def test_interrupt_stops_the_old_run_and_goes_on_from_its_state(http: httpx.Client, thread: str) -> None:
    old = start(http, thread, "steps", **LONG)
    until(lambda: steps_of(http, thread) > 3, "a few steps are done")
    new = start(http, thread, "steps", input={"pause": 0, "count": 1}, multitask_strategy="interrupt")
    values = join(http, thread, new)
    assert run_status(http, thread, old) == "interrupted"
    assert run_status(http, thread, new) == "success"
    assert values["count"] == 1
    assert len(values["log"]) >= 2
    row = get_thread(http, thread)
    assert (row["status"], row["error"]) == ("idle", None)


@pytest.mark.requirement("runs.multitask_rollback")
def test_rollback_starts_from_before_the_old_run(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "steps", input={"count": 1})
    before = steps_of(http, thread)
    old = start(http, thread, "steps", **LONG)
    until(lambda: steps_of(http, thread) > before + 2, "a few steps are done")
    new = start(http, thread, "steps", input={"pause": 0, "count": 2}, multitask_strategy="rollback")
    assert join(http, thread, new) == {"log": [0, 1], "count": 2, "pause": 0}
    refused(http.get(f"/threads/{thread}/runs/{old}"), 404)
    history = http.get(f"/threads/{thread}/history", params={"limit": 100}).json()
    assert all(row["metadata"]["run_id"] != old for row in history)


@pytest.mark.requirement("runs.multitask_interrupt")
def test_interrupt_also_clears_the_queue(http: httpx.Client, thread: str) -> None:
    running = start(http, thread, "steps", **LONG)
    queued = start(http, thread, "steps", input={})
    last = start(http, thread, "steps", input={"pause": 0, "count": 1}, multitask_strategy="interrupt")
    join(http, thread, last)
    assert run_status(http, thread, running) == "interrupted"
    assert run_status(http, thread, queued) == "interrupted"
    assert run_status(http, thread, last) == "success"


@pytest.mark.requirement("runs.after_seconds")
def test_a_delayed_run_waits_and_keeps_its_thread_busy(http: httpx.Client, thread: str) -> None:
    created = http.post(f"/threads/{thread}/runs", json={"assistant_id": "steps", "input": {}, "after_seconds": 60})
    run = created.json()
    assert run["status"] == "pending"
    assert run["created_at"] > run["updated_at"]
    assert get_thread(http, thread)["status"] == "busy"
    http.post(f"/threads/{thread}/runs/{run['run_id']}/cancel")


@pytest.mark.requirement("runs.after_seconds")
def test_a_delayed_run_starts_by_itself_when_it_is_due(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", input={"count": 1}, after_seconds=0.2)
    assert run_status(http, thread, run) == "pending"
    assert join(http, thread, run) == {"log": [0], "count": 1}


# --- clients that go away ---


@pytest.mark.requirement("runs.on_disconnect")
@pytest.mark.anyio
@pytest.mark.parametrize("operation", ["stream", "wait"])
@pytest.mark.parametrize(
    ("on_disconnect", "status"), [("cancel", "interrupted"), ("continue", "success"), (None, "success")]
)
async def test_a_client_that_leaves_takes_its_run_along_only_if_it_said_so(
    server: Server, sdk: LangGraphClient, operation: str, on_disconnect: str | None, status: str
) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    count = 1000 if on_disconnect == "cancel" else 10
    body = {"assistant_id": "steps", "input": {"pause": 0.05, "count": count}, "config": {"recursion_limit": 2000}}
    if on_disconnect:
        body["on_disconnect"] = on_disconnect
    async with (
        httpx.AsyncClient(base_url=server.url) as leaving,
        leaving.stream("POST", f"/threads/{thread}/runs/{operation}", json=body) as answer,
    ):
        run = answer.headers["content-location"].rsplit("/", 1)[-1]

        async def under_way() -> bool:
            return bool((await sdk.threads.get_state(thread))["next"])

        await eventually(under_way, "the run is under way")

    async def ended() -> bool:
        return (await sdk.runs.get(thread, run))["status"] == status

    await eventually(ended, f"the run is {status}")
    row = await sdk.threads.get(thread)
    assert row["status"] == ("interrupted" if status == "interrupted" else "idle")


@pytest.mark.requirement("runs.on_disconnect")
@pytest.mark.anyio
@pytest.mark.parametrize("operation", ["stream", "join"])
async def test_a_follower_may_cancel_on_leaving_too(server: Server, sdk: LangGraphClient, operation: str) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    run = (await sdk.runs.create(thread, "steps", **LONG))["run_id"]
    path = f"/threads/{thread}/runs/{run}/{operation}"
    async with (
        httpx.AsyncClient(base_url=server.url) as leaving,
        leaving.stream("GET", path, params={"cancel_on_disconnect": "1"}) as answer,
    ):
        assert answer.status_code == 200

    async def interrupted() -> bool:
        return (await sdk.runs.get(thread, run))["status"] == "interrupted"

    await eventually(interrupted, "the run is interrupted")
