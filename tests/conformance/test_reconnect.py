"""The official SDK behind a wire that breaks: nothing is lost, nothing comes twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from tests.support.follow import Wire, wire_to
from tests.support.server import Server
from tests.support.talk import eventually

pytestmark = pytest.mark.anyio
STEPS = {"pause": 0.08, "count": 20}
MODES = ["updates", "values"]


@pytest.fixture
async def wire(server: Server) -> AsyncIterator[Wire]:
    async with wire_to(server.port) as wire:
        yield wire


@pytest.fixture
async def far(wire: Wire) -> AsyncIterator[LangGraphClient]:
    """The SDK at the other end of the wire."""
    async with get_client(url=wire.url) as client:
        yield client


async def cut_after(wire: Wire, parts: AsyncIterator[Any], number: int) -> list[Any]:
    """All parts; the wire is cut once, after so many."""
    seen = []
    async for part in parts:
        seen.append(part)
        if len(seen) == number:
            wire.cut()
    return seen


async def replayed(sdk: LangGraphClient, thread: str, run: str, **how: Any) -> list[Any]:
    return [part async for part in sdk.runs.join_stream(thread, run, last_event_id="-1", **how)]


async def new_thread(sdk: LangGraphClient) -> str:
    return str((await sdk.threads.create())["thread_id"])


@pytest.mark.requirement("streams.reconnect")
async def test_a_cut_run_stream_goes_on_where_it_was_cut(
    wire: Wire, far: LangGraphClient, sdk: LangGraphClient
) -> None:
    thread = await new_thread(sdk)
    parts = far.runs.stream(thread, "steps", input=STEPS, stream_mode=MODES, stream_resumable=True)
    seen = await cut_after(wire, parts, 6)
    assert wire.connections == 2
    assert seen == await replayed(sdk, thread, seen[0].data["run_id"])
    assert [part.event for part in seen].count("updates") == 20


@pytest.mark.requirement("streams.reconnect_filtered")
async def test_a_cut_join_keeps_its_filter(wire: Wire, far: LangGraphClient, sdk: LangGraphClient) -> None:
    thread = await new_thread(sdk)
    run = (await sdk.runs.create(thread, "steps", input=STEPS, stream_mode=MODES, stream_resumable=True))["run_id"]
    parts = far.runs.join_stream(thread, run, stream_mode="updates", last_event_id="-1")
    seen = await cut_after(wire, parts, 4)
    assert wire.connections == 2
    assert [part.event for part in seen] == ["updates"] * 20
    assert seen == await replayed(sdk, thread, run, stream_mode="updates")


@pytest.mark.requirement("streams.thread_reconnect")
async def test_a_cut_thread_stream_goes_on_in_its_modes(wire: Wire, far: LangGraphClient, sdk: LangGraphClient) -> None:
    thread = await new_thread(sdk)
    runs = [(await sdk.runs.create(thread, "steps", input=STEPS))["run_id"] for _ in range(2)]
    seen: list[Any] = []
    async for part in await far.threads.join_stream(thread, stream_mode="lifecycle", last_event_id="-"):
        seen.append(part)
        if len(seen) == 1:
            wire.cut()
        if len(seen) == 4:
            break
    assert wire.connections == 2
    assert [part.data["run_id"] for part in seen] == [runs[0], runs[0], runs[1], runs[1]]
    assert len({part.id for part in seen}) == 4


@pytest.mark.requirement("streams.reconnect_wait")
async def test_a_cut_wait_is_joined_again(wire: Wire, far: LangGraphClient, sdk: LangGraphClient) -> None:
    thread = await new_thread(sdk)
    created: list[Any] = []
    waiting = asyncio.create_task(far.runs.wait(thread, "steps", input=STEPS, on_run_created=created.append))

    async def begun() -> bool:
        return bool(created)

    await eventually(begun, "the run has begun")
    wire.cut()
    with pytest.warns(UserWarning, match="attempting reconnect to Location"):
        values = await waiting
    assert wire.connections == 2
    assert len(values["log"]) == 20
    assert await sdk.runs.join(thread, created[0]["run_id"]) == values
