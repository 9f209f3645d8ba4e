"""Threads on the wire; their states are in `wire/states.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, get_args
from uuid import UUID

from langgraph.types import Command, StateUpdate
from pydantic import BaseModel, ConfigDict, Field, field_validator

from holdfast.errors import Invalid
from holdfast.rules.thread import MOST_MINUTES, Strategy, Ttl
from holdfast.wire import codec
from holdfast.wire.problems import Failure
from holdfast.wire.runs import CommandBody, goto
from holdfast.wire.state import Question, questions
from holdfast.wire.times import time

Status = Literal["idle", "busy", "interrupted", "error"]
SortBy = Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"]
ThreadField = Literal[
    "thread_id",
    "created_at",
    "updated_at",
    "state_updated_at",
    "metadata",
    "status",
    "config",
    "context",
    "values",
    "interrupts",
    "error",
    "ttl",
]
"""What `select` may name. `context` is in the SDK's list, but no thread has one."""

_ALL_BUT_TTL = frozenset(get_args(ThreadField)) - {"ttl"}

MOST_PATHS = 10
_PATH = re.compile(r"(values|metadata|config|interrupts)((?:\.[^.\[\]]+|\[-?\d{1,9}\])*)")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(-?\d+)\]")


Minutes = Annotated[float, Field(gt=0, le=MOST_MINUTES)]


class TtlBody(BaseModel):
    """`ttl`: minutes after the thread's last activity, and what goes then."""

    ttl: Minutes
    strategy: Strategy = "delete"

    @property
    def value(self) -> Ttl:
        return Ttl(self.ttl, self.strategy)


def _minutes(value: object) -> object:
    """A bare number means minutes, as in the SDK's own `ttl`."""
    return {"ttl": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class UpdateBody(BaseModel):
    """One update of a superstep: values, or a command, as if this node had returned them."""

    values: Any = None
    command: CommandBody | None = None
    as_node: str

    def as_update(self) -> StateUpdate:
        """As LangGraph takes it."""
        if self.command is None:
            return StateUpdate(self.values, self.as_node)
        command: Any = Command(update=self.command.update, resume=self.command.resume, goto=goto(self.command.goto))
        return StateUpdate(command, self.as_node)


class SuperstepBody(BaseModel):
    """A superstep: its updates are applied together."""

    updates: Annotated[list[UpdateBody], Field(min_length=1)]


class ThreadCreate(BaseModel):
    """The body of `POST /threads`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"metadata": {"user": "ada"}, "ttl": 1440}]})

    thread_id: UUID | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    if_exists: Literal["raise", "do_nothing"] = "raise"
    ttl: TtlBody | None = None
    supersteps: list[SuperstepBody] | None = None

    @field_validator("metadata", "if_exists", mode="before")
    @classmethod
    def _null_is_absent(cls, value: object, info: Any) -> object:
        return cls.model_fields[info.field_name].get_default(call_default_factory=True) if value is None else value

    @field_validator("ttl", mode="before", json_schema_input_type=TtlBody | Minutes | None)
    @classmethod
    def _number_is_minutes(cls, value: object) -> object:
        return _minutes(value)

    @property
    def updates(self) -> list[list[StateUpdate]]:
        return [[update.as_update() for update in superstep.updates] for superstep in self.supersteps or ()]


class ThreadPatch(BaseModel):
    """The body of `PATCH /threads/{thread_id}`: metadata is merged shallowly, a ttl replaces the one before."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"metadata": {"topic": "numbers"}}]})

    metadata: dict[str, Any] = Field(default_factory=dict)
    ttl: TtlBody | None = None

    @field_validator("metadata", mode="before")
    @classmethod
    def _null_is_empty(cls, value: object) -> object:
        return {} if value is None else value

    @field_validator("ttl", mode="before", json_schema_input_type=TtlBody | Minutes | None)
    @classmethod
    def _number_is_minutes(cls, value: object) -> object:
        return _minutes(value)


class ThreadPrune(BaseModel):
    """The body of `POST /threads/prune`.

    Ours are `dry_run`, which only says what would be pruned, and `include_interrupted`: false spares threads that wait
    for somebody. Who names threads means them, so that they are pruned by default, as on the official server.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"thread_ids": ["01a1ff0e-aeab-72fd-8d3a-df59e01a7deb"]}]}
    )

    thread_ids: list[UUID]
    strategy: Strategy = "delete"
    dry_run: bool = False
    include_interrupted: bool = True

    @field_validator("strategy", "dry_run", "include_interrupted", mode="before")
    @classmethod
    def _null_is_absent(cls, value: object, info: Any) -> object:
        return cls.model_fields[info.field_name].default if value is None else value


class ThreadTerms(BaseModel):
    """The body of `POST /threads/count`: all terms must hold."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "interrupted"}]})

    ids: list[UUID] | None = None
    metadata: dict[str, Any] | None = None
    values: dict[str, Any] | None = None
    status: Status | None = None


class ThreadSearch(ThreadTerms):
    """The body of `POST /threads/search`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"metadata": {"user": "ada"}, "limit": 20}]})

    limit: Annotated[int, Field(ge=1, le=1000)] = 10
    offset: Annotated[int, Field(ge=0)] = 0
    sort_by: SortBy = "updated_at"
    sort_order: Literal["asc", "desc"] = "desc"
    select: list[ThreadField] | None = None
    extract: Annotated[dict[str, str], Field(max_length=MOST_PATHS)] | None = None

    @field_validator("sort_by", "sort_order", "limit", "offset", mode="before")
    @classmethod
    def _null_is_absent(cls, value: object, info: Any) -> object:
        return cls.model_fields[info.field_name].default if value is None else value


class TtlView(BaseModel):
    """A thread's time to live, and when it ends as things stand."""

    strategy: Strategy
    ttl_minutes: float
    expires_at: datetime


class Thread(BaseModel):
    """A conversation. `values` are those of its latest state; null before its first.

    `interrupts` is what it asks, by task. `ttl` comes if it is asked for, or was set by the request; `extracted` if a
    search extracts something.
    """

    thread_id: UUID
    created_at: datetime
    updated_at: datetime
    state_updated_at: datetime
    metadata: dict[str, Any]
    status: Status
    config: dict[str, Any]
    values: dict[str, Any] | None
    interrupts: dict[str, list[Question]]
    error: Failure | None
    ttl: TtlView | None = None
    extracted: dict[str, Any] = Field(default_factory=dict)


class Pruned(BaseModel):
    """How many threads were pruned; with `dry_run`, how many would be, and how many bytes would be freed."""

    pruned_count: Annotated[int, Field(ge=0)]
    bytes: Annotated[int | None, Field(ge=0)] = None


class Volume(BaseModel):
    """Rows, and bytes as they are stored."""

    count: Annotated[int, Field(ge=0)]
    bytes: Annotated[int, Field(ge=0)]


class ChannelVolume(BaseModel):
    """Versions of one channel's value, and their bytes."""

    versions: Annotated[int, Field(ge=0)]
    bytes: Annotated[int, Field(ge=0)]


class ValuesVolume(Volume):
    """What the values of channels take up, all and each."""

    by_channel: dict[str, ChannelVolume]


class ThreadStorage(BaseModel):
    """What a thread takes up in the database."""

    thread_id: UUID
    total_bytes: Annotated[int, Field(ge=0)]
    checkpoints: Volume
    channel_values: ValuesVolume
    pending_writes: Volume


def paths(extract: Mapping[str, str]) -> dict[str, tuple[str | int, ...]]:
    """`{alias: "values.messages[-1].content"}` -> `{alias: ("values", "messages", -1, "content")}`.

    Raises:
        Invalid: a path that begins with none of the roots, or is none at all.
    """
    return {alias: _path(text) for alias, text in extract.items()}


def _path(text: str) -> tuple[str | int, ...]:
    if (match := _PATH.fullmatch(text)) is None:
        raise Invalid(
            f"Invalid extract path: {text!r}. It begins with values, metadata, config or interrupts and goes on with"
            " .key or [index]"
        )
    steps = [key or int(place) for key, place in _STEP.findall(match[2])]
    return (match[1], *steps)


def thread_view(row: Mapping[str, Any], *, select: Collection[str] | None = None, with_ttl: bool = False) -> bytes:
    """A thread as clients see it, as JSON: the values come as JSON from the database and stay it.

    Args:
        select: the fields to show; all if it is empty.
        with_ttl: show the time to live, even if it is none.
    """
    shown = select or _ALL_BUT_TTL
    head: dict[str, Any] = {
        "thread_id": str(row["thread_id"]),
        "created_at": time(row["created_at"]),
        "updated_at": time(row["updated_at"]),
        "state_updated_at": time(row["state_updated_at"]),
        "metadata": row["metadata"],
        "status": row["status"],
        "config": row["config"],
        "interrupts": row["interrupts"],
        "error": row["error"],
        "ttl": _ttl_view(row),
    }
    kept = {name: value for name, value in head.items() if name in shown or (with_ttl and name == "ttl")}
    parts = [codec.dumps(kept)[1:-1]] if kept else []
    if "values" in shown:
        parts.append(b'"values":' + (row["values"] or b"null"))
    if row["extracted"] is not None:
        parts.append(b'"extracted":' + row["extracted"])
    return b"{" + b",".join(parts) + b"}"


def _ttl_view(row: Mapping[str, Any]) -> dict[str, Any] | None:
    if row["ttl_strategy"] is None:
        return None
    return {
        "strategy": row["ttl_strategy"],
        "ttl_minutes": row["ttl_minutes"],
        "expires_at": time(row["expires_at"]),
    }


def storage_view(thread_id: UUID, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a thread takes up in the database: counts, and bytes as they are stored. What belongs to the values of no
    single channel has none."""
    parts: dict[str, dict[str, Any]] = {
        part: {"count": 0, "bytes": 0} for part in ("checkpoints", "channel_values", "pending_writes")
    }
    for row in rows:
        parts[row["part"]]["count"] += row["count"]
        parts[row["part"]]["bytes"] += row["bytes"]
    parts["channel_values"]["by_channel"] = {
        row["channel"]: {"versions": row["count"], "bytes": row["bytes"]}
        for row in rows
        if row["part"] == "channel_values" and row["channel"] is not None
    }
    total = sum(part["bytes"] for part in parts.values())
    return {"thread_id": str(thread_id), "total_bytes": total, **parts}


def result_view(row: Mapping[str, Any]) -> bytes:
    """What `wait` and `join` answer for a thread: its values, and `__interrupt__` if it asks something."""
    asked = questions(row["interrupts"])
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
