"""Threads on the wire, without the defects that clients of the official server stumble over."""

from __future__ import annotations

import uuid
from datetime import datetime

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError

from tests.support.talk import LONG, UNKNOWN_ID, get_thread, new_thread, refused, start, system_assistant, wait

KEYS = {
    "thread_id",
    "created_at",
    "updated_at",
    "state_updated_at",
    "metadata",
    "status",
    "config",
    "values",
    "interrupts",
    "error",
}


@pytest.fixture
def tag() -> dict[str, str]:
    """Metadata that only this test's threads carry."""
    return {"tag": str(uuid.uuid4())}


@pytest.mark.requirement("threads.object", "threads.ids")
@pytest.mark.anyio
async def test_a_new_thread_is_idle_and_has_all_its_keys(sdk: LangGraphClient) -> None:
    thread = await sdk.threads.create(metadata={"who": "ada"})
    assert set(thread) == KEYS
    assert (thread["status"], thread["values"], thread["interrupts"]) == ("idle", None, {})
    assert thread["metadata"] == {"who": "ada"}
    assert thread["error"] is None
    assert uuid.UUID(thread["thread_id"]).version == 7
    assert await sdk.threads.get(thread["thread_id"]) == thread


@pytest.mark.requirement("threads.times")
@pytest.mark.parametrize("key", ["created_at", "updated_at", "state_updated_at"])
def test_times_are_iso_with_microseconds_and_an_offset(http: httpx.Client, thread: str, key: str) -> None:
    text = get_thread(http, thread)[key]
    assert text.endswith("+00:00")
    assert len(text) == len("2026-01-01T00:00:00.000000+00:00")
    assert datetime.fromisoformat(text).tzinfo is not None


@pytest.mark.requirement("threads.own_id")
@pytest.mark.anyio
async def test_an_id_of_the_clients_own_is_kept(sdk: LangGraphClient) -> None:
    wanted = str(uuid.uuid4())
    assert (await sdk.threads.create(thread_id=wanted))["thread_id"] == wanted


@pytest.mark.requirement("threads.if_exists")
@pytest.mark.anyio
async def test_a_taken_id_is_a_conflict_unless_told_to_do_nothing(sdk: LangGraphClient) -> None:
    first = await sdk.threads.create(metadata={"a": 1})
    with pytest.raises(ConflictError):
        await sdk.threads.create(thread_id=first["thread_id"], metadata={"a": 2})
    with pytest.raises(ConflictError):
        await sdk.threads.create(thread_id=first["thread_id"], if_exists="raise")
    kept = await sdk.threads.create(thread_id=first["thread_id"], if_exists="do_nothing", metadata={"a": 2})
    assert kept == first


@pytest.mark.requirement("threads.graph_id")
@pytest.mark.anyio
async def test_the_sdk_puts_the_graph_id_into_the_metadata(sdk: LangGraphClient) -> None:
    thread = await sdk.threads.create(graph_id="echo")
    assert thread["metadata"] == {"graph_id": "echo"}


@pytest.mark.requirement("threads.patch")
@pytest.mark.anyio
async def test_an_update_merges_metadata_shallowly(sdk: LangGraphClient) -> None:
    thread = await sdk.threads.create(metadata={"a": {"x": 1}, "b": 1})
    changed = await sdk.threads.update(thread["thread_id"], metadata={"a": {"y": 2}, "c": 3})
    assert changed["metadata"] == {"a": {"y": 2}, "b": 1, "c": 3}
    assert changed["updated_at"] > thread["updated_at"]


@pytest.mark.requirement("threads.patch_minimal")
def test_an_update_that_prefers_a_minimal_answer_gets_204(http: httpx.Client, thread: str) -> None:
    answer = http.patch(f"/threads/{thread}", json={"metadata": {"a": 1}}, headers={"Prefer": "return=minimal"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert get_thread(http, thread)["metadata"] == {"a": 1}


@pytest.mark.requirement("threads.delete")
def test_a_deleted_thread_is_gone_for_every_operation(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "steps", input={"count": 1})
    assert http.delete(f"/threads/{thread}").status_code == 204
    refused(http.get(f"/threads/{thread}"), 404)
    refused(http.delete(f"/threads/{thread}"), 404)
    refused(http.get(f"/threads/{thread}/state"), 404)
    refused(http.get(f"/threads/{thread}/runs"), 404)
    refused(http.post(f"/threads/{thread}/runs", json={"assistant_id": "steps"}), 404)
    assert http.post("/threads/search", json={"ids": [thread]}).json() == []


@pytest.mark.requirement("threads.delete_busy")
def test_a_busy_thread_can_be_deleted(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", **LONG)
    assert http.delete(f"/threads/{thread}").status_code == 204
    refused(http.get(f"/threads/{thread}/runs/{run}"), 404)


@pytest.mark.requirement("threads.unknown_404", "threads.bad_id_422")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        pytest.param("PATCH", "", marks=pytest.mark.requirement("threads.unknown_patch")),
        ("DELETE", ""),
        ("GET", "/state"),
        ("POST", "/state"),
        ("GET", f"/state/{UNKNOWN_ID}"),
        ("GET", "/history"),
        ("POST", "/history"),
        ("GET", "/runs"),
        pytest.param("POST", "/copy", marks=pytest.mark.requirement("threads.copy_unknown")),
        ("GET", "/storage"),
        ("POST", "/state/checkpoint"),
    ],
)
def test_an_unknown_thread_is_404_and_a_bad_id_422(http: httpx.Client, method: str, path: str) -> None:
    body = {"json": {"checkpoint": {}}} if method in ("POST", "PATCH") else {}
    unknown = http.request(method, f"/threads/{UNKNOWN_ID}{path}", **body)
    assert refused(unknown, 404) == f"Thread with ID {UNKNOWN_ID} not found"
    bad = http.request(method, f"/threads/nonsense{path}", **body)
    assert refused(bad, 422) == "Invalid thread ID: must be a UUID"


# --- what a run leaves on its thread ---


@pytest.mark.requirement("threads.run_stamps")
def test_a_run_stamps_its_thread_so_that_chat_front_ends_find_it(http: httpx.Client, tag: dict[str, str]) -> None:
    thread = new_thread(http, metadata=tag)
    wait(http, thread, "echo", input={"messages": [{"role": "user", "content": "hello"}]})
    stamped = get_thread(http, thread)["metadata"]
    assistant = system_assistant("echo")
    assert stamped == {**tag, "graph_id": "echo", "assistant_id": assistant}
    for key in ("graph_id", "assistant_id"):
        body = {"metadata": {**tag, key: stamped[key]}, "limit": 100, "offset": 0}
        [row] = http.post("/threads/search", json=body).json()
        assert row["values"]["messages"][0]["content"] == "hello"


@pytest.mark.requirement("threads.idle_after_run")
def test_a_finished_run_leaves_its_thread_idle_with_values(http: httpx.Client, thread: str) -> None:
    before = get_thread(http, thread)
    wait(http, thread, "steps", input={"count": 2})
    after = get_thread(http, thread)
    assert (after["status"], after["interrupts"], after["error"]) == ("idle", {}, None)
    assert after["values"] == {"log": [0, 1], "count": 2}
    assert after["state_updated_at"] > before["state_updated_at"]


@pytest.mark.requirement("threads.interrupted_with_question")
def test_a_question_leaves_its_thread_interrupted_with_the_question(http: httpx.Client, thread: str) -> None:
    result = wait(http, thread, "approve", input={})
    after = get_thread(http, thread)
    assert after["status"] == "interrupted"
    state = http.get(f"/threads/{thread}/state").json()
    [task] = state["tasks"]
    [question] = task["interrupts"]
    assert question["value"] == {"question": "may I?"}
    assert after["interrupts"] == {task["id"]: [question]}
    assert result["__interrupt__"] == [{**question, "response_schema": None}]
    assert state["interrupts"] == [question]
    assert state["next"] == ["ask"]


@pytest.mark.requirement("threads.interrupted_by_breakpoint")
def test_a_breakpoint_leaves_its_thread_interrupted_without_a_question(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "steps", input={"count": 1}, interrupt_before=["step"])
    after = get_thread(http, thread)
    assert (after["status"], after["interrupts"], after["error"]) == ("interrupted", {}, None)
    assert http.get(f"/threads/{thread}/state").json()["next"] == ["step"]


@pytest.mark.requirement("threads.error_after_failure")
def test_a_failed_run_leaves_its_thread_in_error_until_the_next_run(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "failing", input={})
    after = get_thread(http, thread)
    assert after["status"] == "error"
    assert after["error"] == {"error": "ValueError", "message": "as told"}
    [task] = http.get(f"/threads/{thread}/state").json()["tasks"]
    assert task["error"] == "ValueError('as told')"
    wait(http, thread, "steps", input={"count": 1})
    again = get_thread(http, thread)
    assert (again["status"], again["error"]) == ("idle", None)


@pytest.mark.requirement("threads.unknown_404", "threads.bad_id_422")
@pytest.mark.anyio
async def test_the_sdk_raises_the_right_kind_of_error(sdk: LangGraphClient) -> None:
    with pytest.raises(NotFoundError):
        await sdk.threads.get(UNKNOWN_ID)
    with pytest.raises(UnprocessableEntityError):
        await sdk.threads.get("nonsense")
