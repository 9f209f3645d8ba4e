"""Looking at everything through the public API when an episode is over."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import httpx

from tests.durability.chaos.evidence import ThreadView
from tests.durability.chaos.judging.runs import ACTIVE
from tests.support.talk import PAUSE

FAILED = frozenset({"error", "timeout"})


def settled(http: httpx.Client, threads: Sequence[str], within: float) -> float:
    """Wait until no run of these threads is active, or no longer; how long it took."""
    begun = time.monotonic()
    for thread in threads:
        while time.monotonic() < begun + within and _active(http, thread):
            time.sleep(PAUSE)
    return time.monotonic() - begun


def views(http: httpx.Client, threads: Sequence[str]) -> dict[str, ThreadView]:
    """What the API shows of each thread."""
    return {thread: _view(http, thread) for thread in threads}


def _active(http: httpx.Client, thread: str) -> bool:
    row = http.get(f"/threads/{thread}")
    return row.status_code != 404 and (
        row.status_code != 200
        or row.json()["status"] == "busy"
        or any(run["status"] in ACTIVE for run in _runs(http, thread))
    )


def _runs(http: httpx.Client, thread: str) -> list[dict[str, Any]]:
    answer = http.get(f"/threads/{thread}/runs", params={"limit": 1000})
    return answer.json() if answer.status_code == 200 else []


def _view(http: httpx.Client, thread: str) -> ThreadView:
    row = http.get(f"/threads/{thread}")
    if row.status_code == 404:
        return ThreadView(None)
    runs = _runs(http, thread)
    ended = [run for run in runs if run["status"] not in ACTIVE]
    return ThreadView(
        row.raise_for_status().json(),
        runs,
        http.get(f"/threads/{thread}/state").raise_for_status().json(),
        http.get(f"/threads/{thread}/history", params={"limit": 1000}).raise_for_status().json(),
        {run["run_id"]: _replay(http, thread, run["run_id"]) for run in ended},
        {
            run["run_id"]: http.get(f"/threads/{thread}/runs/{run['run_id']}/join").json()
            for run in ended
            if run["status"] in FAILED
        },
    )


def _replay(http: httpx.Client, thread: str, run: str) -> list[str]:
    """The run's frames from the start. What an ended run says is all there, so that the stream ends by itself."""
    answer = http.get(f"/threads/{thread}/runs/{run}/stream", headers={"last-event-id": "-1"})
    frames = answer.raise_for_status().content.split(b"\r\n\r\n")
    return [frame.decode() for frame in frames if frame and not frame.startswith(b":")]
