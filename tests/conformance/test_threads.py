"""Threads on the wire, without the defects that clients of the official server stumble over."""

from __future__ import annotations

import uuid
from datetime import datetime

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError

from tests.support.talk import LONG, UNKNOWN_ID, get_thread, new_thread, refused, start, wait

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


@pytest.mark.anyio
async def test_a_new_thread_is_idle_and_has_all_its_keys(sdk: LangGraphClient) -> None:
    thread = await sdk.threads.create(metadata={"who": "ada"})
    assert set(thread) == KEYS
    assert (thread["status"], thread["values"], thread["interrupts"]) == ("idle", None, {})
    assert thread["metadata"] == {"who": "ada"}
    assert thread["error"] is None
    assert uuid.UUID(thread["thread_id"]).version == 7
    assert await sdk.threads.get(thread["thread_id"]) == thread


@pytest.mark.parametrize("key", ["created_at", "updated_at", "state_updated_at"])
def test_times_are_iso_with_microseconds_and_an_offset(http: httpx.Client, thread: str, key: str) -> None:
    text = get_thread(http, thread)[key]
    assert text.endswith("+00:00")
    assert len(text) == len("2026-01-01T00:00:00.000000+00:00")
    assert datetime.fromisoformat(text).tzinfo is not None


@pytest.mark.anyio
async def test_an_id_of_the_clients_own_is_kept(sdk: LangGraphClient) -> None:
    wanted = str(uuid.uuid4())
    assert (await sdk.threads.create(thread_id=wanted))["thread_id"] == wanted


@pytest.mark.anyio
async def test_a_taken_id_is_a_conflict_unless_told_to_do_nothing(sdk: LangGraphClient) -> None:
    first = await sdk.threads.create(metadata={"a": 1})
    with pytest.raises(ConflictError):
        await sdk.threads.create(thread_id=first["thread_id"], metadata={"a": 2})
    with pytest.raises(ConflictError):
        await sdk.threads.create(thread_id=first["thread_id"], if_exists="raise")
    kept = await sdk.threads.create(thread_id=first["thread_id"], if_exists="do_nothing", metadata={"a": 2})
    assert kept == first


@pytest.mark.anyio
async def test_the_sdk_puts_the_graph_id_into_the_metadata(sdk: LangGraphClient) -> None:
    thread = await sdk.threads.create(graph_id="echo")
    assert thread["metadata"] == {"graph_id": "echo"}


@pytest.mark.anyio
async def test_an_update_merges_metadata_shallowly(sdk: LangGraphClient) -> None:
    thread = await sdk.threads.create(metadata={"a": {"x": 1}, "b": 1})
    changed = await sdk.threads.update(thread["thread_id"], metadata={"a": {"y": 2}, "c": 3})
    assert changed["metadata"] == {"a": {"y": 2}, "b": 1, "c": 3}
    assert changed["updated_at"] > thread["updated_at"]


def test_an_update_that_prefers_a_minimal_answer_gets_204(http: httpx.Client, thread: str) -> None:
    answer = http.patch(f"/threads/{thread}", json={"metadata": {"a": 1}}, headers={"Prefer": "return=minimal"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert get_thread(http, thread)["metadata"] == {"a": 1}


def test_a_deleted_thread_is_gone_for_every_operation(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "steps", input={"count": 1})
    assert http.delete(f"/threads/{thread}").status_code == 204
    refused(http.get(f"/threads/{thread}"), 404)
    refused(http.delete(f"/threads/{thread}"), 404)
    refused(http.get(f"/threads/{thread}/state"), 404)
    refused(http.get(f"/threads/{thread}/runs"), 404)
    refused(http.post(f"/threads/{thread}/runs", json={"assistant_id": "steps"}), 404)
    assert http.post("/threads/search", json={"ids": [thread]}).json() == []


def test_a_busy_thread_can_be_deleted(http: httpx.Client, thread: str) -> None:
    run = start(http, thread, "steps", **LONG)
    assert http.delete(f"/threads/{thread}").status_code == 204
    refused(http.get(f"/threads/{thread}/runs/{run}/stream"), 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("GET", "/state"),
        ("POST", "/state"),
        ("GET", f"/state/{UNKNOWN_ID}"),
        ("GET", "/history"),
        ("POST", "/history"),
        ("GET", "/runs"),
    ],
)
def test_an_unknown_thread_is_404_and_a_bad_id_422(http: httpx.Client, method: str, path: str) -> None:
    body = {"json": {}} if method in ("POST", "PATCH") else {}
    unknown = http.request(method, f"/threads/{UNKNOWN_ID}{path}", **body)
    assert refused(unknown, 404) == f"Thread with ID {UNKNOWN_ID} not found"
    bad = http.request(method, f"/threads/nonsense{path}", **body)
    assert refused(bad, 422) == "Invalid thread ID: must be a UUID"


# --- search and count ---


@pytest.mark.anyio
async def test_search_contains_metadata_at_any_depth(sdk: LangGraphClient, tag: dict[str, str]) -> None:
    wanted = await sdk.threads.create(metadata={**tag, "deep": {"a": {"b": 1}, "c": [1, 2]}})
    await sdk.threads.create(metadata={**tag, "deep": {"a": {"b": 2}}})
    for part in ({"a": {"b": 1}}, {"c": [2]}):
        found = await sdk.threads.search(metadata={**tag, "deep": part})
        assert [row["thread_id"] for row in found] == [wanted["thread_id"]]
        assert await sdk.threads.count(metadata={**tag, "deep": part}) == 1
    assert await sdk.threads.count(metadata=tag) == 2
    assert await sdk.threads.search(metadata={**tag, "deep": {"a": 1}}) == []


@pytest.mark.anyio
async def test_search_by_values_works_beside_threads_without_values(sdk: LangGraphClient, tag: dict[str, str]) -> None:
    await sdk.threads.create(metadata=tag)
    thread = await sdk.threads.create(metadata=tag)
    await sdk.runs.wait(thread["thread_id"], "steps", input={"count": 2})
    for values in ({"count": 2}, {"log": [1]}, {"count": 2, "log": [0, 1]}):
        found = await sdk.threads.search(metadata=tag, values=values)
        assert [row["thread_id"] for row in found] == [thread["thread_id"]]
        assert await sdk.threads.count(metadata=tag, values=values) == 1
    assert await sdk.threads.search(metadata=tag, values={"count": 3}) == []


@pytest.mark.anyio
async def test_search_by_ids_status_and_both(sdk: LangGraphClient, tag: dict[str, str]) -> None:
    idle = (await sdk.threads.create(metadata=tag))["thread_id"]
    asking = (await sdk.threads.create(metadata=tag))["thread_id"]
    await sdk.runs.wait(asking, "approve", input={})
    found = await sdk.threads.search(ids=[idle, UNKNOWN_ID])
    assert [row["thread_id"] for row in found] == [idle]
    found = await sdk.threads.search(metadata=tag, status="interrupted")
    assert [row["thread_id"] for row in found] == [asking]
    assert await sdk.threads.search(ids=[idle], status="interrupted") == []
    assert await sdk.threads.count(metadata=tag, status="idle") == 1


def test_paging_headers_say_whether_more_exists(http: httpx.Client, tag: dict[str, str]) -> None:
    for _ in range(5):
        new_thread(http, metadata=tag)
    pages: list[list[str]] = []
    offset: int | None = 0
    while offset is not None:
        answer = http.post("/threads/search", json={"metadata": tag, "limit": 2, "offset": offset})
        pages.append([row["thread_id"] for row in answer.json()])
        following = answer.headers.get("x-pagination-next")
        total = int(answer.headers["x-pagination-total"])
        assert total == (offset + 3 if following else 5)
        offset = int(following) if following else None
    assert [len(page) for page in pages] == [2, 2, 1]
    assert len({thread for page in pages for thread in page}) == 5


@pytest.mark.parametrize("sort_by", ["thread_id", "status", "created_at", "updated_at", "state_updated_at"])
def test_search_sorts_both_ways(http: httpx.Client, tag: dict[str, str], sort_by: str) -> None:
    threads = [new_thread(http, metadata=tag) for _ in range(3)]
    http.patch(f"/threads/{threads[0]}", json={"metadata": {"touched": True}})
    wait(http, threads[1], "approve", input={})
    rows = {}
    for order in ("asc", "desc"):
        body = {"metadata": tag, "sort_by": sort_by, "sort_order": order}
        rows[order] = [row[sort_by] for row in http.post("/threads/search", json=body).json()]
        assert rows[order] == sorted(rows[order], reverse=order == "desc")
    assert len(rows["asc"]) == 3


def test_the_last_touched_thread_comes_first(http: httpx.Client, tag: dict[str, str]) -> None:
    first, second = new_thread(http, metadata=tag), new_thread(http, metadata=tag)
    http.patch(f"/threads/{first}", json={"metadata": {"touched": True}})
    found = http.post("/threads/search", json={"metadata": tag}).json()
    assert [row["thread_id"] for row in found] == [first, second]


def test_search_takes_ten_by_default_and_a_thousand_at_most(http: httpx.Client, tag: dict[str, str]) -> None:
    for _ in range(11):
        new_thread(http, metadata=tag)
    assert len(http.post("/threads/search", json={"metadata": tag}).json()) == 10
    assert len(http.post("/threads/search", json={"metadata": tag, "limit": 1000}).json()) == 11
    refused(http.post("/threads/search", json={"limit": 1001}), 422)
    refused(http.post("/threads/search", json={"limit": 0}), 422)
    refused(http.post("/threads/search", json={"sort_by": "values"}), 422)
    refused(http.post("/threads/search", json={"status": "bogus"}), 422)


# --- what a run leaves on its thread ---


def test_a_run_stamps_its_thread_so_that_chat_front_ends_find_it(http: httpx.Client, tag: dict[str, str]) -> None:
    thread = new_thread(http, metadata=tag)
    wait(http, thread, "echo", input={"messages": [{"role": "user", "content": "hello"}]})
    stamped = get_thread(http, thread)["metadata"]
    assistant = http.get("/assistants/echo").json()["assistant_id"]
    assert stamped == {**tag, "graph_id": "echo", "assistant_id": assistant}
    for key in ("graph_id", "assistant_id"):
        body = {"metadata": {**tag, key: stamped[key]}, "limit": 100, "offset": 0}
        [row] = http.post("/threads/search", json=body).json()
        assert row["values"]["messages"][0]["content"] == "hello"


def test_a_finished_run_leaves_its_thread_idle_with_values(http: httpx.Client, thread: str) -> None:
    before = get_thread(http, thread)
    wait(http, thread, "steps", input={"count": 2})
    after = get_thread(http, thread)
    assert (after["status"], after["interrupts"], after["error"]) == ("idle", {}, None)
    assert after["values"] == {"log": [0, 1], "count": 2}
    assert after["state_updated_at"] > before["state_updated_at"]


def test_a_question_leaves_its_thread_interrupted_with_the_question(http: httpx.Client, thread: str) -> None:
    result = wait(http, thread, "approve", input={})
    after = get_thread(http, thread)
    assert after["status"] == "interrupted"
    state = http.get(f"/threads/{thread}/state").json()
    [task] = state["tasks"]
    [question] = task["interrupts"]
    assert question["value"] == {"question": "may I?"}
    assert after["interrupts"] == {task["id"]: [question]}
    assert result["__interrupt__"] == [question]
    assert state["interrupts"] == [question]
    assert state["next"] == ["ask"]


def test_a_breakpoint_leaves_its_thread_interrupted_without_a_question(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "steps", input={"count": 1}, interrupt_before=["step"])
    after = get_thread(http, thread)
    assert (after["status"], after["interrupts"], after["error"]) == ("interrupted", {}, None)
    assert http.get(f"/threads/{thread}/state").json()["next"] == ["step"]


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


@pytest.mark.anyio
async def test_the_sdk_raises_the_right_kind_of_error(sdk: LangGraphClient) -> None:
    with pytest.raises(NotFoundError):
        await sdk.threads.get(UNKNOWN_ID)
    with pytest.raises(UnprocessableEntityError):
        await sdk.threads.get("nonsense")
