"""What Schemathesis cannot know of the API: names and ids that exist, and requests that never end.

Its data are as random as ever; but nearly all of it would be refused at the door, because no such graph, thread or
run exists. So half of the names and ids in it become real ones. What they become follows from what they were, so that
a run with the same seed sends the same.
"""

from __future__ import annotations

import json
import os
from typing import Any
from uuid import UUID
from zlib import crc32

import schemathesis
from schemathesis.generation.meta import TestPhase

GRAPHS = ("echo", "steps", "approve", "mirror", "nested", "failing")
"""Graphs that are quick whatever they are given."""

NAMES = {"assistant_id": GRAPHS, "graph_id": GRAPHS, "schedule": ("0 9 1 1 *", "30 4 29 2 *")}
NOBODY = "00000000-0000-4000-8000-000000000000"
KNOWN: dict[str, list[Any]] = json.loads(os.environ.get("FUZZ_KNOWN", "{}"))
"""What exists when the run begins: see `campaign.py`."""

THREADS = KNOWN.get("thread_id", [])
_RUN = "/threads/{thread_id}/runs/{run_id}"
STOPPING = {("DELETE", _RUN), ("POST", f"{_RUN}/cancel")}


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Let a case reach further, and come back from there."""
    _place(case.method, case.operation.path, case.path_parameters or {}, linked=_is_linked(case))
    for body in case.body if isinstance(case.body, list) else [case.body]:
        if isinstance(body, dict):
            _settle(body)
            if case.operation.path == "/runs/cancel" and body.get("status") in ("pending", "all"):
                body["status"] = "running"  # others are to cancel those that wait


def _is_linked(case: Any) -> bool:
    """One of a sequence of requests, about what an earlier one made."""
    return case.meta is not None and case.meta.phase.name == TestPhase.STATEFUL


def _place(method: str, path: str, ids: dict[str, Any], *, linked: bool) -> None:
    for name, value in ids.items():
        ids[name] = value if linked else _real(name, value)
    if path == "/threads/{thread_id}/stream":
        ids["thread_id"] = NOBODY  # a real one's stream has no end
    elif "run_id" in ids and ids.get("thread_id") in THREADS:
        place = THREADS.index(ids["thread_id"])
        if (method, path) in STOPPING:
            ids["thread_id"], ids["run_id"] = KNOWN["asleep"][place]
        else:
            ids["run_id"] = KNOWN["run_id"][place]


def _settle(body: dict[str, Any]) -> None:
    for name, value in body.items():
        body[name] = _real(name, value)
    if isinstance(delay := body.get("after_seconds"), int | float) and delay > 0:
        body["after_seconds"] = min(delay, 0.1)


def _real(name: str, value: Any) -> Any:
    if not isinstance(value, str) or _is_ours(value):
        return value
    number = crc32(value.encode(errors="replace"))
    choices = [*NAMES.get(name, ()), *KNOWN.get(name, ())]
    return choices[number // 2 % len(choices)] if choices and number % 2 else value


def _is_ours(text: str) -> bool:
    """An id that the server made and a link carried on: UUIDv7."""
    try:
        return UUID(text).version == 7
    except ValueError:
        return False
