"""What a request may say about a run besides its input, and what of it is shown, kept or dropped."""

from __future__ import annotations

import warnings
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError

from tests.support.talk import (
    LONG,
    UNKNOWN_ID,
    eventually,
    get_thread,
    join,
    new_thread,
    refused,
    start,
    stream,
    until_running,
    wait,
)

ONE_STEP: dict[str, Any] = {"assistant_id": "steps", "input": {"count": 1}}
KWARGS = {
    "input",
    "command",
    "config",
    "context",
    "stream_mode",
    "interrupt_before",
    "interrupt_after",
    "webhook",
    "feedback_keys",
    "on_completion",
    "temporary",
    "subgraphs",
    "resumable",
    "checkpoint_during",
    "durability",
    "checkpoint",
}
RESERVED = [
    "langgraph_auth_user",
    "langgraph_auth_user_id",
    "langgraph_auth_permissions",
    "langgraph_request_id",
    "__langsmith_project__",
    "__langsmith_example_id__",
    "__request_start_time_ms__",
    "__after_seconds__",
    "__otel_traceparent__",
    "__dd_trace_headers__",
    "__pregel_node_finished",
    "__context_provided__",
]


def create(http: httpx.Client, thread: str, **body: Any) -> Any:
    """A run that has ended, as it was answered at its start."""
    answer = http.post(f"/threads/{thread}/runs", json={**ONE_STEP, **body})
    assert answer.status_code == 200, answer.text
    join(http, thread, answer.json()["run_id"])
    return answer.json()


# --- what is shown ---


@pytest.mark.requirement("runs.kwargs")
def test_a_run_shows_what_was_asked_for(http: httpx.Client, thread: str) -> None:
    asked = {
        "stream_mode": ["updates", "custom"],
        "stream_subgraphs": True,
        "stream_resumable": True,
        "interrupt_before": ["nobody"],
        "interrupt_after": "*",
        "feedback_keys": ["liked"],
        "checkpoint_during": True,
        "durability": "async",
    }
    kwargs = create(http, thread, **asked)["kwargs"]
    assert {*kwargs, "checkpoint"} == KWARGS
    assert kwargs["input"] == {"count": 1}
    shown = {
        **asked,
        "subgraphs": True,
        "resumable": True,
        "on_completion": "delete",
        "temporary": False,
        "webhook": None,
    }
    del shown["stream_subgraphs"], shown["stream_resumable"]
    assert {key: kwargs[key] for key in shown} == shown


@pytest.mark.requirement("runs.kwargs_identity")
def test_a_runs_config_names_the_run(http: httpx.Client, thread: str) -> None:
    run = create(http, thread)
    configurable = run["kwargs"]["config"]["configurable"]
    identity = {key: run[key] for key in ("run_id", "thread_id", "assistant_id")}
    assert {key: configurable[key] for key in identity} == identity
    assert configurable["graph_id"] == "steps"
    assert isinstance(configurable["user_id"], str)


@pytest.mark.requirement("runs.select")
@pytest.mark.anyio
async def test_runs_are_listed_with_the_fields_that_were_asked_for(sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    run = await sdk.runs.create(thread, "steps", input={"count": 1})
    await sdk.runs.join(thread, run["run_id"])
    assert await sdk.runs.list(thread, select=["run_id", "status"]) == [{"run_id": run["run_id"], "status": "success"}]


@pytest.mark.requirement("runs.select_cancel_reason")
def test_the_sdks_field_cancel_reason_is_null(http: httpx.Client, thread: str) -> None:
    create(http, thread)
    assert http.get(f"/threads/{thread}/runs", params={"select": "cancel_reason"}).json() == [{"cancel_reason": None}]


@pytest.mark.requirement("runs.select")
def test_an_unknown_field_cannot_be_selected(http: httpx.Client, thread: str) -> None:
    for select in (["nope"], ["run_id", "nope"], ["run_id,status"], [""]):
        refused(http.get(f"/threads/{thread}/runs", params={"select": select}), 422)


@pytest.mark.requirement("runs.list_status")
def test_a_status_that_does_not_exist_has_no_runs(http: httpx.Client, thread: str) -> None:
    create(http, thread)
    for status in ("bogus", "busy", "SUCCESS", ""):
        answer = http.get(f"/threads/{thread}/runs", params={"status": status})
        assert (answer.status_code, answer.json()) == (200, [])
    assert len(http.get(f"/threads/{thread}/runs", params={"status": "success"}).json()) == 1


@pytest.mark.requirement("runs.list_unknown_thread")
def test_runs_of_an_unknown_thread_are_404(http: httpx.Client) -> None:
    refused(http.get(f"/threads/{UNKNOWN_ID}/runs"), 404)


# --- what is dropped ---


@pytest.mark.requirement("runs.reserved_configurable")
@pytest.mark.parametrize("where", ["configurable", "context"])
def test_reserved_names_are_taken_out_of_what_a_client_configures(http: httpx.Client, thread: str, where: str) -> None:
    given = {**dict.fromkeys(RESERVED, "forged"), "colour": "red"}
    run = create(
        http, thread, **({"config": {"configurable": given}} if where == "configurable" else {"context": given})
    )
    assert "forged" not in str(run["kwargs"])
    assert run["kwargs"]["config"]["configurable"]["colour"] == "red"
    assert run["kwargs"]["context"] == {"colour": "red"}
    assert "forged" not in str(http.get(f"/threads/{thread}/state").json()["metadata"])


@pytest.mark.requirement("runs.reserved_metadata")
@pytest.mark.parametrize("where", ["metadata", "config"])
def test_reserved_names_are_taken_out_of_metadata(http: httpx.Client, where: str) -> None:
    thread = UNKNOWN_ID.replace("8", "9" if where == "config" else "a")
    names = ("thread_id", "assistant_id", "run_id", "cron_id")
    given = {**dict.fromkeys(names, "forged"), "team": "a"}
    asked = {"metadata": given} if where == "metadata" else {"config": {"metadata": given}}
    run = create(http, thread, if_not_exists="create", **asked)
    assert "forged" not in str(run["metadata"])
    assert run["metadata"]["team"] == "a"
    assert get_thread(http, thread)["metadata"] == {
        "team": "a",
        "graph_id": "steps",
        "assistant_id": run["assistant_id"],
    }
    http.delete(f"/threads/{thread}")


@pytest.mark.requirement("runs.feedback_keys")
def test_feedback_keys_cost_nothing_and_bring_nothing(http: httpx.Client, thread: str) -> None:
    events = stream(http, thread, "steps", input={"count": 1}, feedback_keys=["liked"], stream_mode="updates")
    assert [event.name for event in events] == ["metadata", "updates"]
    assert "__feedback__" not in wait(http, thread, "steps", input={}, feedback_keys=["liked"])


@pytest.mark.requirement("runs.ignored_fields")
@pytest.mark.parametrize(
    "ignored",
    [
        {"langsmith_tracer": {"project_name": "p", "example_id": UNKNOWN_ID}},
        {"langsmith_tracer": None},
        {"strict_resume": True},
        {"strict_resume": False},
        {"on_completion": "delete"},
        {"nobody_knows": [1]},
    ],
)
def test_fields_without_a_meaning_here_are_ignored(http: httpx.Client, thread: str, ignored: dict[str, Any]) -> None:
    assert wait(http, thread, "steps", input={"count": 1}, **ignored) == {"log": [0], "count": 1}
    assert get_thread(http, thread)["status"] == "idle"


@pytest.mark.requirement("runs.strict_resume")
@pytest.mark.parametrize("strict", [True, False])
def test_a_resume_is_strict_whatever_was_asked(http: httpx.Client, thread: str, strict: bool) -> None:
    wait(http, thread, "twice", input={})
    body = {"assistant_id": "twice", "command": {"resume": {"0" * 32: "yes"}}, "strict_resume": strict}
    refused(http.post(f"/threads/{thread}/runs/wait", json=body), 409)
    assert get_thread(http, thread)["status"] == "interrupted"


# --- errors ---


@pytest.mark.requirement("runs.unknown_place")
@pytest.mark.parametrize("operation", ["", "/stream", "/wait"])
def test_a_missing_thread_and_a_missing_assistant_are_refused_alike(
    http: httpx.Client, thread: str, operation: str
) -> None:
    detail = "Thread or assistant not found."
    assert refused(http.post(f"/threads/{UNKNOWN_ID}/runs{operation}", json=ONE_STEP), 404) == detail
    unknown = {"assistant_id": UNKNOWN_ID}
    assert refused(http.post(f"/threads/{thread}/runs{operation}", json=unknown), 404) == detail
    if operation:
        assert refused(http.post(f"/runs{operation}", json=unknown), 404) == detail


# --- a thread's status as a condition ---


@pytest.mark.requirement("runs.if_thread_status")
@pytest.mark.parametrize("wanted", ["idle", ["idle"], ["error", "idle"], None])
def test_a_thread_in_the_status_that_was_asked_for_takes_the_run(http: httpx.Client, thread: str, wanted: Any) -> None:
    assert create(http, thread, if_thread_status=wanted)["thread_id"] == thread


@pytest.mark.requirement("runs.if_thread_status")
@pytest.mark.anyio
async def test_a_thread_in_another_status_refuses_and_says_both(sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    run = await sdk.runs.create(thread, "steps", **LONG)
    text = "Thread is busy, but the request wants it to be idle or interrupted."
    with pytest.raises(ConflictError, match=text):
        await sdk.http.post(f"/threads/{thread}/runs", json={**ONE_STEP, "if_thread_status": ["idle", "interrupted"]})
    assert len(await sdk.runs.list(thread)) == 1
    await sdk.runs.cancel(thread, run["run_id"], wait=True)


@pytest.mark.requirement("runs.if_thread_status")
@pytest.mark.parametrize("operation", ["", "/stream", "/wait"])
def test_an_interrupted_thread_is_resumed_only_as_such(http: httpx.Client, thread: str, operation: str) -> None:
    wait(http, thread, "twice", input={})
    path = f"/threads/{thread}/runs{operation}"
    body = {"assistant_id": "twice", "input": {}, "if_thread_status": "idle"}
    detail = refused(http.post(path, json=body), 409)
    assert detail == "Thread is interrupted, but the request wants it to be idle."
    body = {"assistant_id": "twice", "command": {"resume": "yes"}, "if_thread_status": "interrupted"}
    assert http.post(path, json=body).status_code == 200


@pytest.mark.requirement("runs.if_thread_status_new", "runs.if_thread_status")
def test_a_thread_that_is_yet_to_be_made_counts_as_idle(http: httpx.Client) -> None:
    for path, more in (("/runs/wait", {}), (f"/threads/{UNKNOWN_ID}/runs/wait", {"if_not_exists": "create"})):
        refused(http.post(path, json={**ONE_STEP, **more, "if_thread_status": "busy"}), 409)
        assert http.post(path, json={**ONE_STEP, **more, "if_thread_status": "idle"}).json()["log"] == [0]
    http.delete(f"/threads/{UNKNOWN_ID}")


@pytest.mark.requirement("runs.if_thread_status")
@pytest.mark.parametrize("wanted", ["maybe", [], ["idle", "maybe"], 5, {}, [5], [None]])
def test_a_status_that_does_not_exist_is_refused(http: httpx.Client, thread: str, wanted: Any) -> None:
    refused(http.post(f"/threads/{thread}/runs", json={**ONE_STEP, "if_thread_status": wanted}), 422)


# --- priorities ---


@pytest.mark.requirement("runs.priority")
@pytest.mark.parametrize("priority", [-10, 0, 10, None])
@pytest.mark.parametrize("operation", ["", "/stream", "/wait"])
def test_a_run_may_have_a_priority(http: httpx.Client, thread: str, operation: str, priority: int | None) -> None:
    body = {**ONE_STEP, "priority": priority}
    assert http.post(f"/threads/{thread}/runs{operation}", json=body).status_code == 200
    assert http.post(f"/runs{operation}", json=body).status_code == 200


@pytest.mark.requirement("runs.priority")
@pytest.mark.parametrize("priority", [11, -11, 1.5, "high", 10**30, [], {}])
def test_a_priority_out_of_bounds_is_refused(http: httpx.Client, thread: str, priority: Any) -> None:
    refused(http.post(f"/threads/{thread}/runs", json={**ONE_STEP, "priority": priority}), 422)
    refused(http.post("/runs/batch", json=[ONE_STEP, {**ONE_STEP, "priority": priority}]), 422)


# --- the SDK ---


@pytest.mark.requirement("runs.sdk_options")
@pytest.mark.anyio
@pytest.mark.parametrize("on_thread", [True, False])
async def test_every_option_of_the_sdk_is_taken(sdk: LangGraphClient, on_thread: bool) -> None:
    thread = (await sdk.threads.create())["thread_id"] if on_thread else None
    options: dict[str, Any] = {
        "input": {"count": 1},
        "metadata": {"m": 1},
        "config": {"tags": ["t"], "recursion_limit": 10, "configurable": {"colour": "red"}},
        "checkpoint_during": True,
        "interrupt_before": ["nobody"],
        "interrupt_after": ["nobody"],
        "multitask_strategy": "enqueue",
        "if_not_exists": "create",
        "on_completion": "delete",
        "after_seconds": 0,
        "langsmith_tracing": {"project_name": "p"},
        "durability": "exit",
        "strict_resume": True,
        "headers": {"x-request-id": "from the sdk"},
        "params": {"nobody": "knows"},
    }
    streaming = {"stream_mode": ["updates"], "stream_subgraphs": True, "stream_resumable": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # `checkpoint_during` is deprecated, and still sent.
        run = await sdk.runs.create(thread, "steps", **options, **streaming)
        waiting = await sdk.runs.wait(thread, "steps", **options, on_disconnect="cancel", raise_error=True)
        parts = sdk.runs.stream(thread, "steps", **options, **streaming, on_disconnect="continue", version="v1")
    assert run["kwargs"]["config"]["configurable"]["langgraph_request_id"] == "from the sdk"
    assert waiting["count"] == 1  # type: ignore[call-overload]
    assert [part.event async for part in parts] == ["metadata", "updates"]


@pytest.mark.requirement("runs.sdk_options")
@pytest.mark.anyio
async def test_the_sdk_cancels_joins_and_deletes(sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    first, second = [(await sdk.runs.create(thread, "steps", **LONG))["run_id"] for _ in range(2)]

    async def under_way() -> bool:
        return bool((await sdk.threads.get_state(thread))["next"])

    await eventually(under_way, "the first run is under way")
    await sdk.runs.cancel(thread, second, action="rollback")
    await sdk.runs.cancel(thread, first, wait=True, action="interrupt")
    assert (await sdk.runs.join(thread, first))["count"] == 1000
    assert [run["status"] for run in await sdk.runs.list(thread)] == ["interrupted"]
    await sdk.runs.delete(thread, first)
    assert await sdk.runs.list(thread) == []


@pytest.mark.requirement("runs.own_thread_only")
def test_deleting_a_running_run_of_another_thread_is_404(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", **LONG)
    until_running(http, thread, run)
    refused(http.delete(f"/threads/{new_thread(http)}/runs/{run}"), 404)
    assert http.delete(f"/threads/{thread}/runs/{run}").status_code == 204
