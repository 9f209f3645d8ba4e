"""Threads on the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field, field_validator

from holdfast.errors import Invalid
from holdfast.wire import codec
from holdfast.wire.runs import CheckpointBody
from holdfast.wire.times import time

Status = Literal["idle", "busy", "interrupted", "error"]
SortBy = Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"]


class ThreadCreate(BaseModel):
    """The body of `POST /threads`."""

    thread_id: UUID | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    if_exists: Literal["raise", "do_nothing"] = "raise"

    @field_validator("metadata", "if_exists", mode="before")
    @classmethod
    def _null_is_absent(cls, value: object, info: Any) -> object:
        return cls.model_fields[info.field_name].get_default(call_default_factory=True) if value is None else value


class ThreadPatch(BaseModel):
    """The body of `PATCH /threads/{thread_id}`: metadata is merged shallowly."""

    metadata: dict[str, Any] = Field(default_factory=dict)

    @field_validator("metadata", mode="before")
    @classmethod
    def _null_is_empty(cls, value: object) -> object:
        return {} if value is None else value


class ThreadTerms(BaseModel):
    """The body of `POST /threads/count`: all terms must hold."""

    ids: list[UUID] | None = None
    metadata: dict[str, Any] | None = None
    values: dict[str, Any] | None = None
    status: Status | None = None


class ThreadSearch(ThreadTerms):
    """The body of `POST /threads/search`."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 10
    offset: Annotated[int, Field(ge=0)] = 0
    sort_by: SortBy = "updated_at"
    sort_order: Literal["asc", "desc"] = "desc"

    @field_validator("sort_by", "sort_order", "limit", "offset", mode="before")
    @classmethod
    def _null_is_absent(cls, value: object, info: Any) -> object:
        return cls.model_fields[info.field_name].default if value is None else value


class StateUpdate(BaseModel):
    """The body of `POST /threads/{thread_id}/state`."""

    values: dict[str, Any] | list[Any] | None = None
    as_node: str | None = None
    checkpoint: CheckpointBody | None = None
    checkpoint_id: str | None = None

    @property
    def start(self) -> dict[str, Any] | None:
        return _start(self.checkpoint, self.checkpoint_id)


class StateAt(BaseModel):
    """The body of `POST /threads/{thread_id}/state/checkpoint`."""

    checkpoint: CheckpointBody
    subgraphs: bool = False


class HistorySearch(BaseModel):
    """The body of `POST /threads/{thread_id}/history`."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 1
    before: Any = None
    metadata: dict[str, Any] | None = None
    checkpoint: CheckpointBody | None = None

    @field_validator("limit", mode="before")
    @classmethod
    def _null_is_one(cls, value: object) -> object:
        return 1 if value is None else value


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


def thread_view(row: Mapping[str, Any]) -> bytes:
    """A thread as clients see it, as JSON: the values come as JSON from the database and stay it."""
    head = {
        "thread_id": str(row["thread_id"]),
        "created_at": time(row["created_at"]),
        "updated_at": time(row["updated_at"]),
        "state_updated_at": time(row["state_updated_at"]),
        "metadata": row["metadata"],
        "status": row["status"],
        "config": row["config"],
        "interrupts": row["interrupts"],
        "error": row["error"],
    }
    return codec.dumps(head)[:-1] + b',"values":' + (row["values"] or b"null") + b"}"


def result_view(row: Mapping[str, Any]) -> bytes:
    """What `wait` and `join` answer for a thread: its values, and `__interrupt__` if it asks something."""
    asked = [question for task in row["interrupts"].values() for question in task]
    values: bytes = row["values"]
    if not asked:
        return values
    head = values[:-1] + (b"," if len(values) > 2 else b"")
    return head + b'"__interrupt__":' + codec.dumps(asked) + b"}"


def searchable(value: Any, what: str) -> None:
    """Metadata is searched, so it has to be text that Postgres can hold.

    Raises:
        Invalid: a NUL character or half of a surrogate pair somewhere in it.
    """
    try:
        text = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Invalid(f"{what} must be valid Unicode text") from None
    if b"\\u0000" in text.replace(b"\\\\", b""):
        raise Invalid(f"{what} must not contain NUL characters")


def _start(checkpoint: CheckpointBody | None, checkpoint_id: str | None) -> dict[str, Any] | None:
    if checkpoint is None:
        return {"checkpoint_id": checkpoint_id} if checkpoint_id else None
    start = checkpoint.model_dump(exclude_none=True)
    if checkpoint_id:
        start["checkpoint_id"] = checkpoint_id
    return start
