"""Invariant 6 over the wire: whatever a run says and however its followers come and go, all read the same bytes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.wire.modes import STREAM_MODES
from tests.support.server import Server
from tests.support.talk import Event, new_thread, parse

MODES = sorted(STREAM_MODES)
HELLO = {"messages": [{"role": "user", "content": "hello there"}]}
INPUTS: dict[str, dict[str, Any]] = {
    "steps": {"log": [], "pause": 0.01, "count": 4},
    "nested": HELLO,
    "echo": HELLO,
    "approve": {"log": ["a"]},
    "failing": {},
    "parallel": {},
}
FROM_THE_START = "-1"


@dataclass(frozen=True)
class Talk:
    """One run: of which graph, with what to say."""

    graph: str
    modes: list[str]
    subgraphs: bool
    resumable: bool


@dataclass(frozen=True)
class Patience:
    """How a follower behaves: when it comes, and after how many events it hangs up, time and again."""

    comes_after: float
    hangs_up_after: list[int]


talks = st.builds(
    Talk,
    st.sampled_from(sorted(INPUTS)),
    st.lists(st.sampled_from(MODES), min_size=1, max_size=4, unique=True),
    st.booleans(),
    st.booleans(),
)
patience = st.builds(Patience, st.sampled_from([0, 0.01, 0.03]), st.lists(st.integers(1, 6), max_size=3))


async def heard(client: httpx.AsyncClient, path: str, how: Patience, last_event: bytes = b"") -> bytes:
    """What a follower has read in the end; it hangs up and comes back as it is told.

    Args:
        last_event: part of the last event of a stream that does not end.
    """
    await asyncio.sleep(how.comes_after)
    read, last = b"", FROM_THE_START
    for limit in [*how.hangs_up_after, None]:
        piece, over = await _until(client, path, last, limit, last_event)
        read += piece
        events = parse(piece)
        last = str(events[-1].id) if events else last
        if over:
            break
    return read


async def _until(
    client: httpx.AsyncClient, path: str, last: str, limit: int | None, last_event: bytes
) -> tuple[bytes, bool]:
    """Whole frames, up to `limit` of them; whether that was all there is."""
    received = b""
    async with client.stream("GET", path, headers={"Last-Event-ID": last}) as answer:
        async for chunk in answer.aiter_raw():
            received += chunk
            frames = received.split(b"\r\n\r\n")[:-1]
            if limit is not None and len(frames) >= limit:
                received = b"".join(frame + b"\r\n\r\n" for frame in frames[:limit])
                return received, bool(last_event) and last_event in received
            if last_event and last_event in received and received.endswith(b"\r\n\r\n"):
                return received, True
    return received, True


async def conversation(url: str, thread: str, said: list[Talk], crowd: list[Patience]) -> None:
    last_run = ""
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=20, limits=limits) as client, asyncio.TaskGroup() as group:
        followers = []
        for talk in said:
            body = {
                "assistant_id": talk.graph,
                "input": INPUTS[talk.graph],
                "stream_mode": talk.modes,
                "stream_subgraphs": talk.subgraphs,
                "stream_resumable": talk.resumable,
            }
            last_run = (await client.post(f"/threads/{thread}/runs", json=body)).json()["run_id"]
            path = f"/threads/{thread}/runs/{last_run}/stream"
            # Without ids nobody can come back to where they were.
            behaviour = crowd if talk.resumable else [Patience(each.comes_after, []) for each in crowd]
            followers.append((path, b"", [group.create_task(heard(client, path, each)) for each in behaviour]))
        end = b'"run_done","run_id":"%b"' % last_run.encode()
        path = f"/threads/{thread}/stream"
        followers.append((path, end, [group.create_task(heard(client, path, each, end)) for each in crowd]))
        for path, end, live in followers:
            listened = [await one for one in live]
            replay = await heard(client, path, Patience(0, []), end)
            assert listened == [replay] * len(live)
            assert _numbers(parse(replay)) == sorted(set(_numbers(parse(replay))))


def _numbers(events: list[Event]) -> list[int]:
    return [int(event.id.partition("-")[2]) for event in events if event.id]


@pytest.mark.requirement("streams.live_equals_replay")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    said=st.lists(talks, min_size=1, max_size=3),
    crowd=st.lists(patience, min_size=1, max_size=3),
)
def test_every_follower_of_runs_and_threads_reads_the_same_bytes(
    server: Server, said: list[Talk], crowd: list[Patience]
) -> None:
    with server.http() as http:
        thread = new_thread(http)
    asyncio.run(conversation(server.url, thread, said, crowd))
