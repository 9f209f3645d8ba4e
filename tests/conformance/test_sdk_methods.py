"""Every method of the Python SDK, of both its clients: a tour through all of them, and nothing is left out.

What each method does is tested by resource; here the point is that none is missing. Something is checked on the way,
so that an answer of the wrong shape does not pass.
"""

from __future__ import annotations

import inspect
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from langgraph_sdk import get_client, get_sync_client

from tests.support.server import Server
from tests.support.talk import LONG

RESOURCES = ("assistants", "threads", "runs", "crons", "store")
LATER = {("threads", "stream")}
"""The event streaming protocol: not on the v1 wire, and answered with 404 until it is there."""


class Tour:
    """A client that is called in the same way whether it is asynchronous or not, and knows what was called."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.called: set[tuple[str, str]] = set()

    async def __call__(self, resource: str, method: str, *args: Any, **options: Any) -> Any:
        self.called.add((resource, method))
        answer = getattr(getattr(self._client, resource), method)(*args, **options)
        if inspect.isawaitable(answer):
            answer = await answer
        if inspect.isasyncgen(answer) or hasattr(answer, "__aiter__"):
            return [item async for item in answer]
        return list(answer) if inspect.isgenerator(answer) else answer

    async def first(self, resource: str, method: str, *args: Any, **options: Any) -> Any:
        """The first item of an answer that never ends."""
        self.called.add((resource, method))
        answer = getattr(getattr(self._client, resource), method)(*args, **options)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, AsyncGenerator):
            item = await anext(answer)
            await answer.aclose()
            return item
        item = next(answer)
        answer.close()
        return item

    def left_out(self) -> set[tuple[str, str]]:
        methods = {
            (resource, name)
            for resource in RESOURCES
            for name, _ in inspect.getmembers(getattr(self._client, resource), callable)
            if not name.startswith("_")
        }
        return methods - self.called - LATER


@pytest.fixture(params=["async", "sync"])
async def tour(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[Tour]:
    if request.param == "async":
        async with get_client(url=server.url) as client:
            yield Tour(client)
    else:
        with get_sync_client(url=server.url) as sync_client:
            yield Tour(sync_client)


@pytest.mark.requirement("clients.python_sdk")
@pytest.mark.anyio
async def test_every_method_of_the_sdk_finds_its_door(tour: Tour) -> None:
    await through_assistants(tour)
    await through_threads(tour)
    await through_runs(tour)
    await through_crons(tour)
    await through_the_store(tour)
    assert tour.left_out() == set()


async def through_assistants(tour: Tour) -> None:
    tag = {"tour": str(uuid.uuid4())}
    made = await tour("assistants", "create", "nested", name="one", metadata=tag, context={"tone": "dry"})
    known = made["assistant_id"]
    assert (await tour("assistants", "update", known, name="two"))["version"] == 2
    assert [row["version"] for row in await tour("assistants", "get_versions", known)] == [2, 1]
    assert (await tour("assistants", "set_latest", known, 1))["name"] == "one"
    assert (await tour("assistants", "get", known))["context"] == {"tone": "dry"}
    found = await tour("assistants", "search", metadata=tag, response_format="object")
    assert [row["assistant_id"] for row in found["assistants"]] == [known]
    assert await tour("assistants", "count", metadata=tag) == 1
    assert "nodes" in await tour("assistants", "get_graph", known, xray=True)
    assert (await tour("assistants", "get_schemas", known))["graph_id"] == "nested"
    assert set(await tour("assistants", "get_subgraphs", known, recurse=True)) == {"child"}
    await tour("assistants", "delete", known, delete_threads=True)


async def through_threads(tour: Tour) -> None:
    tag = {"tour": str(uuid.uuid4())}
    thread = (await tour("threads", "create", graph_id="steps", metadata=tag, ttl=60))["thread_id"]
    await tour("runs", "wait", thread, "steps", input={"count": 2})
    assert (await tour("threads", "get", thread, include=["ttl"]))["ttl"]["ttl_minutes"] == 60
    assert (await tour("threads", "update", thread, metadata={"more": 1}))["metadata"]["more"] == 1
    assert [row["thread_id"] for row in await tour("threads", "search", metadata=tag)] == [thread]
    assert await tour("threads", "count", metadata=tag) == 1
    state = await tour("threads", "get_state", thread)
    assert state["values"]["log"] == [0, 1]
    history = await tour("threads", "get_history", thread, limit=10)
    assert (await tour("threads", "get_state", thread, checkpoint=history[1]["checkpoint"]))["values"]["log"] == [0]
    await tour("threads", "update_state", thread, {"log": ["mine"]}, as_node="step")
    copied = (await tour("threads", "copy", thread))["thread_id"]
    first = await tour.first("threads", "join_stream", thread, last_event_id="-", stream_mode="lifecycle")
    assert first.event == "metadata"
    assert (await tour("threads", "prune", [thread], strategy="keep_latest"))["pruned_count"] == 1
    for one in (thread, copied):
        await tour("threads", "delete", one)


async def through_runs(tour: Tour) -> None:
    thread = (await tour("threads", "create"))["thread_id"]
    events = await tour("runs", "stream", thread, "steps", input={"count": 1}, stream_resumable=True)
    assert [event.event for event in events][:2] == ["metadata", "values"]
    run = events[0].data["run_id"]
    assert (await tour("runs", "join", thread, run))["log"] == [0]
    assert await tour("runs", "join_stream", thread, run, last_event_id="-1") == events
    assert (await tour("runs", "get", thread, run))["status"] == "success"
    assert [row["run_id"] for row in await tour("runs", "list", thread, status="success")] == [run]
    await tour("runs", "delete", thread, run)
    batch = await tour("runs", "create_batch", [{"assistant_id": "steps", "input": {"count": 1}}])
    assert len(batch) == 1
    first, second = [(await tour("runs", "create", thread, "steps", **LONG))["run_id"] for _ in (1, 2)]
    await tour("runs", "cancel_many", thread_id=thread, run_ids=[second])
    await tour("runs", "cancel", thread, first, wait=True)
    assert {row["status"] for row in await tour("runs", "list", thread)} == {"interrupted"}


async def through_crons(tour: Tour) -> None:
    tag = {"tour": str(uuid.uuid4())}
    thread = (await tour("threads", "create"))["thread_id"]
    yearly = {"schedule": "0 0 1 1 *", "input": {"count": 1}, "metadata": tag}
    cron = (await tour("crons", "create", "steps", **yearly))["cron_id"]
    await tour("crons", "create_for_thread", thread, "steps", **yearly)
    assert await tour("crons", "count", metadata=tag) == 2
    assert len(await tour("crons", "search", thread_id=thread)) == 1
    assert (await tour("crons", "update", cron, enabled=False))["enabled"] is False
    await tour("crons", "delete", cron)
    await tour("threads", "delete", thread)


async def through_the_store(tour: Tour) -> None:
    place = ["tour", str(uuid.uuid4())]
    await tour("store", "put_item", place, "k", {"n": 1})
    assert (await tour("store", "get_item", place, "k"))["value"] == {"n": 1}
    assert len((await tour("store", "search_items", place, filter={"n": 1}))["items"]) == 1
    assert (await tour("store", "list_namespaces", prefix=place))["namespaces"] == [place]
    await tour("store", "delete_item", place, "k")
