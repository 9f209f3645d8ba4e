"""Copies of threads, what threads take up, and making them smaller."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.support.talk import (
    LONG,
    UNKNOWN_ID,
    get_thread,
    join,
    new_thread,
    refused,
    start,
    until,
    until_running,
    wait,
)


def history(http: httpx.Client, thread: str, **body: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.post(f"/threads/{thread}/history", json={"limit": 1000, **body}).json()
    return found


def state(http: httpx.Client, thread: str) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"/threads/{thread}/state", params={"subgraphs": True}).json()
    return found


def storage(http: httpx.Client, thread: str) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"/threads/{thread}/storage").json()
    return found


# --- copy ---


@pytest.mark.requirement("threads.copy", "threads.copy_state")
@pytest.mark.anyio
async def test_a_copy_has_everything_but_the_runs(sdk: LangGraphClient) -> None:
    thread = await sdk.threads.create(metadata={"a": 1}, ttl={"ttl": 90, "strategy": "keep_latest"})
    await sdk.runs.wait(thread["thread_id"], "steps", input={"count": 2})
    original = await sdk.threads.get(thread["thread_id"], include=["ttl"])
    copy: Any = await sdk.threads.copy(thread["thread_id"])
    assert uuid.UUID(copy["thread_id"]).version == 4
    own = ("thread_id", "created_at", "updated_at", "state_updated_at", "ttl")
    assert {k: v for k, v in copy.items() if k not in own} == {k: v for k, v in original.items() if k not in own}
    assert (copy["ttl"]["ttl_minutes"], copy["ttl"]["strategy"]) == (90.0, "keep_latest")
    assert copy["created_at"] > original["created_at"]
    assert await sdk.runs.list(copy["thread_id"]) == []


@pytest.mark.requirement("threads.copy")
def test_a_copy_has_the_same_history_under_its_own_id(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "steps", input={"count": 2}, config={"metadata": {"thread_id": thread, "kept": thread}})
    copy = http.post(f"/threads/{thread}/copy").json()["thread_id"]
    theirs, ours = history(http, copy), history(http, thread)
    assert [row["checkpoint_id"] for row in theirs] == [row["checkpoint_id"] for row in ours]
    assert [row["values"] for row in theirs] == [row["values"] for row in ours]
    assert {row["checkpoint"]["thread_id"] for row in theirs} == {copy}
    assert {row["metadata"].get("thread_id", copy) for row in theirs} == {copy}
    assert storage(http, copy) == {**storage(http, thread), "thread_id": copy}


@pytest.mark.requirement("threads.copy_state")
def test_a_copied_question_can_be_answered_in_both(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "approve", input={})
    copy = http.post(f"/threads/{thread}/copy").json()
    assert copy["status"] == "interrupted"
    assert copy["interrupts"] == get_thread(http, thread)["interrupts"] != {}
    assert wait(http, copy["thread_id"], "approve", command={"resume": "theirs"})["log"] == ["theirs", "done"]
    assert get_thread(http, thread)["status"] == "interrupted"
    assert wait(http, thread, "approve", command={"resume": "ours"})["log"] == ["ours", "done"]


@pytest.mark.requirement("threads.copy_independent")
@pytest.mark.parametrize("graph", ["steps", "growing"])
def test_a_copy_and_its_source_go_separate_ways(http: httpx.Client, thread: str, graph: str) -> None:
    wait(http, thread, graph, input={"log": [], "count": 2})
    copy = http.post(f"/threads/{thread}/copy").json()["thread_id"]
    wait(http, copy, graph, input={"log": ["theirs"], "count": 4})
    wait(http, thread, graph, input={"log": ["ours"], "count": 4})
    ours = get_thread(http, thread)["values"]["log"]
    assert ours[:3] == [*get_thread(http, copy)["values"]["log"][:2], "ours"]
    assert http.delete(f"/threads/{thread}").status_code == 204
    assert "theirs" in state(http, copy)["values"]["log"]
    assert "ours" not in state(http, copy)["values"]["log"]


@pytest.mark.requirement("threads.copy_busy", "threads.copy_state")
def test_a_copy_of_a_busy_thread_stands_where_its_checkpoints_stood(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "steps", input={"count": 1, "log": []})
    run = start(http, thread, "steps", **LONG)
    until(lambda: len(state(http, thread)["values"]["log"]) > 5, "the run has made some steps")
    copy = http.post(f"/threads/{thread}/copy").json()
    assert get_thread(http, thread)["status"] == "busy"
    latest = state(http, copy["thread_id"])
    assert (copy["status"], latest["next"]) == ("interrupted", ["step"])
    assert copy["values"] == latest["values"]
    assert len(copy["values"]["log"]) > 5
    http.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": 1})
    assert state(http, copy["thread_id"]) == latest


@pytest.mark.requirement("threads.copy", "threads.copy_state")
def test_a_copy_of_a_new_thread_is_a_new_thread(http: httpx.Client) -> None:
    thread = new_thread(http, metadata={"a": 1})
    copy = http.post(f"/threads/{thread}/copy", content=b"").json()
    assert (copy["status"], copy["values"], copy["metadata"]) == ("idle", None, {"a": 1})


@pytest.mark.requirement("threads.copy_unknown")
def test_what_does_not_exist_cannot_be_copied(http: httpx.Client) -> None:
    assert refused(http.post(f"/threads/{UNKNOWN_ID}/copy"), 404) == f"Thread with ID {UNKNOWN_ID} not found"


# --- storage ---


@pytest.mark.requirement("threads.storage")
def test_storage_counts_what_a_thread_takes_up(http: httpx.Client, thread: str) -> None:
    nothing = {"count": 0, "bytes": 0}
    assert storage(http, thread) == {
        "thread_id": thread,
        "total_bytes": 0,
        "checkpoints": nothing,
        "channel_values": {**nothing, "by_channel": {}},
        "pending_writes": nothing,
    }
    wait(http, thread, "approve", input={"log": ["a" * 1000]})
    found = storage(http, thread)
    channels = found["channel_values"]
    assert found["checkpoints"]["count"] == len(history(http, thread))
    assert channels["count"] == sum(channel["versions"] for channel in channels["by_channel"].values()) > 0
    assert channels["bytes"] == sum(channel["bytes"] for channel in channels["by_channel"].values())
    assert channels["by_channel"]["log"]["bytes"] > 0
    assert found["pending_writes"]["count"] > 0
    assert found["total_bytes"] == sum(
        found[part]["bytes"] for part in ("checkpoints", "channel_values", "pending_writes")
    )
    wait(http, thread, "approve", input={"log": [str(uuid.uuid4()) for _ in range(500)]})
    assert storage(http, thread)["total_bytes"] > found["total_bytes"] + 500 * 36


# --- prune ---


@pytest.mark.requirement("threads.prune_delete")
@pytest.mark.anyio
async def test_prune_deletes_threads_and_counts_those_that_were_there(sdk: LangGraphClient) -> None:
    threads = [(await sdk.threads.create())["thread_id"] for _ in range(3)]
    await sdk.runs.wait(threads[0], "steps", input={"count": 1})
    assert await sdk.threads.prune([*threads[:2], threads[1], UNKNOWN_ID]) == {"pruned_count": 2}
    assert await sdk.threads.prune(threads[:2]) == {"pruned_count": 0}
    assert [row["thread_id"] for row in await sdk.threads.search(ids=threads)] == threads[2:]
    again = await sdk.threads.create(thread_id=threads[0])
    assert again["values"] is None
    assert await sdk.threads.get_history(threads[0]) == []


@pytest.mark.requirement("threads.prune_keep_latest")
@pytest.mark.anyio
@pytest.mark.parametrize("graph", ["steps", "growing"])
async def test_prune_keeps_the_latest_state_as_it_was(sdk: LangGraphClient, http: httpx.Client, graph: str) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    for count in (3, 5):
        await sdk.runs.wait(thread, graph, input={"log": ["go"], "count": count})
    row, before, weight = await sdk.threads.get(thread), state(http, thread), storage(http, thread)
    assert await sdk.threads.prune([thread, UNKNOWN_ID], strategy="keep_latest") == {"pruned_count": 1}
    assert await sdk.threads.get(thread) == row
    after = state(http, thread)
    for key in ("values", "next", "tasks", "checkpoint", "created_at"):
        assert after[key] == before[key]
    assert after["parent_checkpoint"] is None
    assert [row["checkpoint_id"] for row in history(http, thread)] == [after["checkpoint_id"]]
    assert storage(http, thread)["checkpoints"]["count"] == 1
    assert storage(http, thread)["total_bytes"] < weight["total_bytes"]
    assert await sdk.threads.prune([thread], strategy="keep_latest") == {"pruned_count": 1}
    assert state(http, thread) == after


@pytest.mark.requirement("threads.prune_keep_latest")
@pytest.mark.parametrize("graph", ["steps", "growing"])
def test_a_pruned_thread_goes_on_as_if_it_had_not_been(http: httpx.Client, graph: str) -> None:
    pruned, whole = new_thread(http), new_thread(http)
    for thread in (pruned, whole):
        wait(http, thread, graph, input={"log": ["go"], "count": 3})
    http.post("/threads/prune", json={"thread_ids": [pruned], "strategy": "keep_latest"})
    for thread in (pruned, whole):
        wait(http, thread, graph, input={"log": ["on"], "count": 6})
        http.post(f"/threads/{thread}/state", json={"values": {"log": ["edited"]}, "as_node": "step"})
    for key in ("values", "next"):
        assert state(http, pruned)[key] == state(http, whole)[key]
    assert [row["values"] for row in history(http, pruned)] == [row["values"] for row in history(http, whole)][
        : len(history(http, pruned))
    ]


@pytest.mark.requirement("threads.prune_namespaces")
@pytest.mark.parametrize("graph", ["nested_ask", "growing_nested"])
def test_a_question_inside_a_subgraph_survives_pruning(http: httpx.Client, thread: str, graph: str) -> None:
    for _ in range(2):
        wait(http, thread, graph, input={"log": ["go"]})
        wait(http, thread, graph, command={"resume": "answered"})
    wait(http, thread, graph, input={"log": ["go"]})
    before = state(http, thread)
    inner = before["tasks"][0]["state"]
    assert inner["values"]["log"]
    http.post("/threads/prune", json={"thread_ids": [thread], "strategy": "keep_latest"})
    after = state(http, thread)
    assert after["tasks"][0]["interrupts"] == before["tasks"][0]["interrupts"]
    assert after["tasks"][0]["state"]["values"] == inner["values"]
    assert after["tasks"][0]["state"]["next"] == inner["next"]
    # Root and the call that asks; the calls that are over went with the checkpoints they were made from.
    assert storage(http, thread)["checkpoints"]["count"] == 2
    log = wait(http, thread, graph, command={"resume": "yes"})["log"]
    assert log[: len(before["values"]["log"])] == before["values"]["log"]
    assert log[-1] == "yes"


@pytest.mark.requirement("threads.prune_namespaces")
def test_a_delta_channel_that_no_graph_explains_keeps_its_history(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "growing", input={"log": ["go"], "count": 4})
    before = history(http, thread)
    http.patch(f"/threads/{thread}", json={"metadata": {"graph_id": "steps"}})
    assert http.post("/threads/prune", json={"thread_ids": [thread], "strategy": "keep_latest"}).json() == {
        "pruned_count": 1
    }
    http.patch(f"/threads/{thread}", json={"metadata": {"graph_id": "growing"}})
    assert history(http, thread) == before


@pytest.mark.requirement("threads.prune_busy")
@pytest.mark.parametrize("strategy", ["delete", "keep_latest"])
def test_prune_passes_over_busy_threads(http: httpx.Client, thread: str, strategy: str) -> None:
    run = start(http, thread, "steps", **LONG)
    until_running(http, thread, run)
    idle = new_thread(http)
    answer = http.post("/threads/prune", json={"thread_ids": [thread, idle], "strategy": strategy})
    assert answer.json() == {"pruned_count": 1}
    assert http.get(f"/threads/{thread}/runs/{run}").json()["status"] == "running"
    http.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": 1})
    join(http, thread, run)
    assert history(http, thread)[-1]["metadata"]["step"] == -1


@pytest.mark.requirement("threads.prune_bounds")
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"thread_ids": None},
        {"thread_ids": "text"},
        {"thread_ids": ["nonsense"]},
        {"thread_ids": [5]},
        {"thread_ids": [UNKNOWN_ID], "strategy": "burn"},
        {"thread_ids": [UNKNOWN_ID], "strategy": 5},
        {"thread_ids": [UNKNOWN_ID], "dry_run": "perhaps"},
        {"thread_ids": [UNKNOWN_ID], "include_interrupted": 7},
    ],
)
def test_a_prune_that_makes_no_sense_is_refused(http: httpx.Client, body: dict[str, Any]) -> None:
    refused(http.post("/threads/prune", json=body), 422)


@pytest.mark.requirement("threads.prune_delete")
def test_pruning_nothing_is_fine(http: httpx.Client) -> None:
    assert http.post("/threads/prune", json={"thread_ids": []}).json() == {"pruned_count": 0}
    assert http.post("/threads/prune", json={"thread_ids": [str(uuid.uuid4())]}).json() == {"pruned_count": 0}


@pytest.mark.requirement("system.nulls")
def test_a_null_strategy_is_the_default(http: httpx.Client) -> None:
    body = {"thread_ids": [str(uuid.uuid4())], "strategy": None, "dry_run": None, "include_interrupted": None}
    assert http.post("/threads/prune", json=body).json() == {"pruned_count": 0}
