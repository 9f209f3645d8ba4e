"""What a run leaves: a snapshot of the graph's state, turned into what the thread row and the waiting clients get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph.types import StateSnapshot

from holdfast.db.threads import Outcome
from holdfast.wire import codec
from holdfast.wire.state import interrupts_by_task

ROOT = "__root__"
"""The channel name of a state that is no mapping (the functional API)."""


def outcome_of(snapshot: StateSnapshot, *, error: Mapping[str, str] | None = None, failed: bool = False) -> Outcome:
    """The thread's new standing; each element of a list channel is serialised once, for the row and the answer."""
    values = snapshot.values if isinstance(snapshot.values, Mapping) else {ROOT: snapshot.values}
    checkpoint_id = snapshot.config["configurable"].get("checkpoint_id")
    return Outcome(
        checkpoint_id=checkpoint_id,
        values={channel: _ready(value) for channel, value in values.items()},
        interrupts=codec.loads(codec.dumps(interrupts_by_task(snapshot))),
        unfinished=bool(snapshot.next),
        error=error,
        failed=failed,
    )


def pending_ids(snapshot: StateSnapshot) -> frozenset[str]:
    """The interrupt ids that wait for an answer."""
    return frozenset(asked["id"] for task in interrupts_by_task(snapshot).values() for asked in task)


def result_json(outcome: Outcome, error: Mapping[str, str] | None) -> bytes:
    """What `wait` and `join` answer: the values, `__interrupt__` if something is asked, `__error__` if it failed."""
    if error is not None and outcome.failed:
        return codec.dumps({"__error__": error})
    parts = [codec.dumps(channel) + b":" + _joined(value) for channel, value in outcome.values.items()]
    if asked := [question for task in outcome.interrupts.values() for question in task]:
        parts.append(b'"__interrupt__":' + codec.dumps(asked))
    return b"{" + b",".join(parts) + b"}"


def _ready(value: Any) -> bytes | list[bytes]:
    return [codec.dumps(element) for element in value] if isinstance(value, list) else codec.dumps(value)


def _joined(value: Any) -> bytes:
    return value if isinstance(value, bytes) else b"[" + b",".join(value) + b"]"
