"""What a run leaves: a snapshot of the graph's state, turned into what the thread row and the waiting clients get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.types import StateSnapshot

from holdfast.db.threads import Outcome
from holdfast.wire import codec
from holdfast.wire.state import interrupts_by_task, questions

MOST_ELEMENTS = 10_000
"""A longer list is one value: it is data rather than a record that grows by a turn, and so is a list of numbers."""

ROOT = "__root__"
"""The channel name of a state that is no mapping (the functional API)."""


def outcome_of(snapshot: StateSnapshot, *, error: Mapping[str, str] | None = None, failed: bool = False) -> Outcome:
    """The thread's new standing; each element of a list channel is serialised once, for the row and the answer."""
    checkpoint_id = snapshot.config["configurable"].get("checkpoint_id")
    return Outcome(
        checkpoint_id=checkpoint_id,
        values=_values(snapshot.values),
        interrupts=codec.for_jsonb(interrupts_by_task(snapshot)),
        unfinished=bool(snapshot.next),
        error=error,
        failed=failed,
    )


def finished_outcome(checkpoint: Mapping[str, Any] | None) -> Outcome | None:
    """The outcome of a graph that ran to its end, from the last item of its `checkpoints` stream.

    Spares reading back the whole state that was in memory a moment ago. None while tasks are left: what they ask stands
    in writes that the stream does not show.
    """
    if checkpoint is None or checkpoint["next"]:
        return None
    return Outcome(
        checkpoint_id=checkpoint["config"]["configurable"]["checkpoint_id"],
        values=_values(checkpoint["values"]),
        interrupts={},
        unfinished=False,
    )


def pending_ids(snapshot: StateSnapshot) -> frozenset[str]:
    """The interrupt ids that wait for an answer."""
    return frozenset(asked["id"] for task in interrupts_by_task(snapshot).values() for asked in task)


def has_open_tasks(snapshot: StateSnapshot) -> bool:
    """Whether there is something to do without an answer from outside.

    Tasks whose writes are all saved are still tasks: the process died before their step became a checkpoint.
    """
    asking = [task for task in snapshot.tasks if task.interrupts]
    return len(snapshot.tasks) > len(asking) and (
        not asking or any(task.result is None for task in snapshot.tasks if not task.interrupts)
    )


def result_json(outcome: Outcome, error: Mapping[str, str] | None) -> bytes:
    """What `wait` and `join` answer: the values, `__interrupt__` if something is asked, `__error__` if it failed."""
    if error is not None:
        return codec.dumps({"__error__": error})
    parts = [codec.dumps(channel) + b":" + _joined(value) for channel, value in outcome.values.items()]
    if asked := questions(outcome.interrupts):
        parts.append(b'"__interrupt__":' + codec.dumps(asked))
    return b"{" + b",".join(parts) + b"}"


def _values(state: Any) -> Mapping[str, bytes | Sequence[bytes]]:
    channels = state if isinstance(state, Mapping) else {ROOT: state}
    return {_name(channel): _ready(value) for channel, value in channels.items()}


def _name(channel: Any) -> str:
    """A state without channels of its own may have any keys; here they are texts that Postgres takes."""
    [name] = codec.for_jsonb({channel: None})
    return str(name)


def _ready(value: Any) -> bytes | list[bytes]:
    """JSON of a value, or of each element of a list that is kept element by element."""
    if not isinstance(value, list) or len(value) > MOST_ELEMENTS or (value and isinstance(value[0], int | float)):
        return codec.dumps(value)
    return [codec.dumps(element) for element in value]


def _joined(value: Any) -> bytes:
    return value if isinstance(value, bytes) else b"[" + b",".join(value) + b"]"
