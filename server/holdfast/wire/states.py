"""What clients ask about states, and which part of the answer they want."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from holdfast.errors import Invalid
from holdfast.wire.runs import CheckpointBody
from holdfast.wire.state import Checkpoint

STATE_FIELDS = frozenset(
    {
        "values",
        "next",
        "tasks",
        "metadata",
        "created_at",
        "checkpoint",
        "parent_checkpoint",
        "interrupts",
        "checkpoint_id",
        "parent_checkpoint_id",
    }
)
_VALUES = "values."


class StateUpdate(BaseModel):
    """The body of `POST /threads/{thread_id}/state`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"values": {"messages": [{"role": "user", "content": "Hello"}]}}]}
    )

    values: dict[str, Any] | list[Any] | None = None
    as_node: str | None = None
    checkpoint: CheckpointBody | None = None
    checkpoint_id: str | None = None

    @property
    def start(self) -> dict[str, Any] | None:
        return _start(self.checkpoint, self.checkpoint_id)


class StateAt(BaseModel):
    """The body of `POST /threads/{thread_id}/state/checkpoint`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"checkpoint": {"checkpoint_ns": ""}}]})

    checkpoint: CheckpointBody
    subgraphs: bool = False
    select: list[str] | None = None


class HistorySearch(BaseModel):
    """The body of `POST /threads/{thread_id}/history`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"limit": 10}]})

    limit: Annotated[int, Field(ge=1, le=1000)] = 1
    before: Any = None
    metadata: dict[str, Any] | None = None
    checkpoint: CheckpointBody | None = None
    select: list[str] | None = None

    @field_validator("limit", mode="before")
    @classmethod
    def _null_is_one(cls, value: object) -> object:
        return 1 if value is None else value


class StateUpdated(BaseModel):
    """The checkpoint that an update wrote, in the three ways that clients look for it."""

    checkpoint: Checkpoint
    configurable: Checkpoint
    checkpoint_id: str | None


def before_checkpoint(before: Any) -> str | None:
    """The checkpoint id in any of the three forms that clients send: an id, a checkpoint, a config.

    Raises:
        Invalid: none of them.
    """
    if before is None or isinstance(before, str):
        return before or None
    if isinstance(before, dict):
        place = before.get("configurable", before)
        if isinstance(place, dict) and isinstance(place.get("checkpoint_id"), str):
            return str(place["checkpoint_id"])
    raise Invalid("before must be a checkpoint id, a checkpoint, or a config with configurable.checkpoint_id")


def selection(select: Sequence[str] | None) -> frozenset[str] | None:
    """The fields that `select` names: those of a state, and `values.<key>` for one key of the values. Each entry may
    hold several, with commas. None for all.

    Raises:
        Invalid: no field of a state.
    """
    names = frozenset(name for entry in select or () for name in entry.split(",") if name)
    for name in names:
        if name not in STATE_FIELDS and not (name.startswith(_VALUES) and name != _VALUES):
            raise Invalid(f"Invalid select field: {name!r}. Expected values.<key> or one of {sorted(STATE_FIELDS)}")
    return names or None


def selected(state: Mapping[str, Any], names: frozenset[str] | None) -> Mapping[str, Any]:
    """The part of a ThreadState that was asked for."""
    if names is None:
        return state
    shown = {field: value for field, value in state.items() if field in names}
    keys = {name.removeprefix(_VALUES) for name in names if name.startswith(_VALUES)}
    if keys and "values" not in shown:
        values = state["values"]
        if isinstance(values, Mapping):
            values = {key: value for key, value in values.items() if key in keys}
        shown["values"] = values
    return shown


def _start(checkpoint: CheckpointBody | None, checkpoint_id: str | None) -> dict[str, Any] | None:
    if checkpoint is None:
        return {"checkpoint_id": checkpoint_id} if checkpoint_id else None
    start = checkpoint.model_dump(exclude_none=True)
    if checkpoint_id:
        start["checkpoint_id"] = checkpoint_id
    return start
