"""Talking to a server in tests: event streams taken apart, and what nearly every conversation needs."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

PATIENCE = 15.0
PAUSE = 0.02
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
LONG: dict[str, Any] = {"input": {"pause": 0.03, "count": 1000}, "config": {"recursion_limit": 2000}}
"""A run of `steps` with this goes on until it is cancelled."""

GRAPHS = uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
"""The namespace in which the ids of system assistants are made of their graphs' names."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event; `raw` is the frame with its ending."""

    name: str
    data: Any
    id: str | None
    raw: bytes


def parse(body: bytes) -> list[Event]:
    """The events of a stream that is byte for byte as the contract says; heartbeats are passed over."""
    *frames, rest = body.split(b"\r\n\r\n")
    assert rest == b"", f"the stream ends in the middle of a frame: {rest!r}"
    return [_event(frame) for frame in frames if frame != b": heartbeat"]


def _event(frame: bytes) -> Event:
    lines = frame.split(b"\r\n")
    assert len(lines) in (2, 3), frame
    assert lines[0].startswith(b"event: "), frame
    assert lines[1].startswith(b"data: "), frame
    assert b"\n" not in lines[0] + lines[1], frame
    number = None
    if len(lines) == 3:
        assert lines[2].startswith(b"id: "), frame
        number = lines[2].removeprefix(b"id: ").decode()
    data = json.loads(lines[1].removeprefix(b"data: "))
    return Event(lines[0].removeprefix(b"event: ").decode(), data, number, frame + b"\r\n\r\n")


def system_assistant(graph: str) -> str:
    """The id of a graph's own assistant, on every server."""
    return str(uuid.uuid5(GRAPHS, graph))


def new_thread(http: httpx.Client, **body: Any) -> str:
    """The id of a new thread."""
    created = http.post("/threads", json=body)
    assert created.status_code == 200, created.text
    return str(created.json()["thread_id"])


def wait(http: httpx.Client, thread: str, graph: str, **body: Any) -> dict[str, Any]:
    """Run to the end; the final values."""
    answer = http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": graph, **body})
    assert answer.status_code == 200, answer.text
    values: dict[str, Any] = answer.json()
    return values


def start(http: httpx.Client, thread: str, graph: str, **body: Any) -> str:
    """The id of a run started in the background."""
    created = http.post(f"/threads/{thread}/runs", json={"assistant_id": graph, **body})
    assert created.status_code == 200, created.text
    return str(created.json()["run_id"])


def stream(http: httpx.Client, thread: str, graph: str, **body: Any) -> list[Event]:
    """The events of a run, to the end."""
    answer = http.post(f"/threads/{thread}/runs/stream", json={"assistant_id": graph, **body})
    assert answer.status_code == 200, answer.text
    return parse(answer.content)


def join(http: httpx.Client, thread: str, run: str) -> Any:
    """Wait for a run's end; its result."""
    return http.get(f"/threads/{thread}/runs/{run}/join").json()


def get_thread(http: httpx.Client, thread: str) -> dict[str, Any]:
    """The thread as clients see it."""
    found: dict[str, Any] = http.get(f"/threads/{thread}").json()
    return found


def run_status(http: httpx.Client, thread: str, run: str) -> str:
    return str(http.get(f"/threads/{thread}/runs/{run}").json()["status"])


def until(check: Callable[[], T], what: str, seconds: float = PATIENCE, pause: float = PAUSE) -> T:
    """Poll until `check` is true; its value. Fails when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(pause)
    return found


async def eventually(check: Callable[[], Awaitable[T]], what: str, seconds: float = PATIENCE) -> T:
    """`until` for the event loop."""
    deadline = time.monotonic() + seconds
    while not (found := await check()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(PAUSE)
    return found


def until_running(http: httpx.Client, thread: str, run: str) -> None:
    until(lambda: run_status(http, thread, run) == "running", "the run is running")


def refused(answer: httpx.Response, status: int) -> str:
    """The detail of a refusal in the contract's shape."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text[:500]}"
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert list(body) == ["detail"]
    assert isinstance(body["detail"], str)
    assert body["detail"]
    return str(body["detail"])


@contextmanager
def unchanged(http: httpx.Client, thread: str) -> Iterator[None]:
    """Whatever happens inside: no thread comes or goes, and this one has the same runs, states and row after it."""
    before = _standing(http, thread)
    yield
    assert _standing(http, thread) == before


def _standing(http: httpx.Client, thread: str) -> tuple[Any, ...]:
    return (
        http.post("/threads/count", json={}).json(),
        http.get(f"/threads/{thread}").json(),
        http.get(f"/threads/{thread}/runs").json(),
        http.get(f"/threads/{thread}/history", params={"limit": 100}).json(),
    )
