"""Crons on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from holdfast.errors import Invalid
from holdfast.rules.caller import LOCAL
from holdfast.wire import codec
from holdfast.wire.runs import ConfigBody, Durability, RunCreate
from holdfast.wire.times import moment, time

OnRunCompleted = Literal["delete", "keep"]
SortBy = Literal["cron_id", "assistant_id", "thread_id", "created_at", "updated_at", "next_run_date", "end_time"]
Shown = Literal[
    "cron_id",
    "assistant_id",
    "thread_id",
    "end_time",
    "schedule",
    "timezone",
    "created_at",
    "updated_at",
    "user_id",
    "payload",
    "next_run_date",
    "metadata",
    "now",
    "on_run_completed",
    "enabled",
]


OF_THE_CRON = frozenset({"schedule", "timezone", "end_time", "enabled", "on_run_completed"})
"""Fields of the request that say when; the others say what."""


class CronCreate(RunCreate):
    """The body of the operations that create a cron: a run's body, and when."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "assistant_id": "agent",
                    "input": {"messages": [{"role": "user", "content": "Happy new year!"}]},
                    "schedule": "0 9 1 1 *",
                    "timezone": "Europe/Lisbon",
                }
            ]
        }
    )

    schedule: str
    timezone: str | None = None
    end_time: datetime | None = None
    enabled: bool = True
    on_run_completed: OnRunCompleted | None = None

    _moment = field_validator("end_time", mode="before")(moment)

    @field_validator("enabled", mode="before")
    @classmethod
    def _enabled_unless_said(cls, value: object) -> object:
        return True if value is None else value


class CronPatch(BaseModel):
    """The body of `PATCH /runs/crons/{cron_id}`. What is null or absent stays, but `end_time: null` clears it.

    `metadata` is merged shallowly, everything else replaces what was there.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": False}], "minProperties": 1})

    schedule: str | None = None
    timezone: str | None = None
    end_time: datetime | None = None
    enabled: bool | None = None
    on_run_completed: OnRunCompleted | None = None
    input: Any = None
    metadata: dict[str, Any] | None = None
    config: ConfigBody | None = None
    context: dict[str, Any] | None = None
    webhook: str | None = None
    interrupt_before: Any = None
    interrupt_after: Any = None
    stream_mode: Any = None
    stream_subgraphs: bool | None = None
    stream_resumable: bool | None = None
    durability: Durability | None = None

    _moment = field_validator("end_time", mode="before")(moment)

    def changes(self) -> dict[str, Any]:
        """What was asked to be different, as JSON."""
        asked = self.model_dump(mode="json", exclude_unset=True)
        return {key: value for key, value in asked.items() if value is not None or key == "end_time"}


class CronTerms(BaseModel):
    """The body of `POST /runs/crons/count`: all terms must hold. `assistant_id` may be the name of a graph."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": True}]})

    assistant_id: str | None = None
    thread_id: UUID | None = None
    enabled: bool | None = None
    metadata: dict[str, Any] | None = None


class CronSearch(CronTerms):
    """The body of `POST /runs/crons/search`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"assistant_id": "agent", "limit": 20}]})

    limit: Annotated[int, Field(ge=1, le=1000)] = 10
    offset: Annotated[int, Field(ge=0, lt=2**63)] = 0
    sort_by: SortBy = "created_at"
    sort_order: Literal["asc", "desc"] = "desc"
    select: list[Shown] | None = None

    @field_validator("sort_by", "sort_order", "limit", "offset", mode="before")
    @classmethod
    def _null_is_absent(cls, value: object, info: Any) -> object:
        return cls.model_fields[info.field_name].default if value is None else value


class Cron(BaseModel):
    """A request that the clock repeats.

    `payload` is that request. `next_run_date` is null when it starts no more runs. `last_error` comes if the last due
    time started none, `now` if it is selected.
    """

    cron_id: UUID
    assistant_id: UUID
    thread_id: UUID | None
    user_id: str | None
    schedule: str
    timezone: str | None
    end_time: datetime | None
    enabled: bool
    on_run_completed: OnRunCompleted | None
    metadata: dict[str, Any]
    payload: dict[str, Any]
    next_run_date: datetime | None
    created_at: datetime
    updated_at: datetime
    last_error: str = ""
    now: datetime | None = None


def payload_of(body: CronCreate, cron_id: UUID) -> dict[str, Any]:
    """The request as it is kept and shown: what was given, and the cron's own id among its configurable values."""
    return marked(body.model_dump(mode="json", exclude_unset=True), cron_id)


def marked(payload: Mapping[str, Any], cron_id: UUID) -> dict[str, Any]:
    """The payload with `config.configurable.cron_id`."""
    config = payload.get("config") or {}
    configurable = {**(config.get("configurable") or {}), "cron_id": str(cron_id)}
    return {**payload, "config": {**config, "configurable": configurable}}


def run_body(payload: Mapping[str, Any], assistant_id: UUID, on_run_completed: str | None) -> RunCreate:
    """The request for one run of a cron.

    Raises:
        Invalid: the payload is not a request (any more).
    """
    config = payload.get("config") or {}
    configurable = {key: value for key, value in (config.get("configurable") or {}).items() if key != "cron_id"}
    asked = {
        **payload,
        "assistant_id": str(assistant_id),
        "config": {**config, "configurable": configurable},
        "on_completion": on_run_completed or "keep",
    }
    try:
        return RunCreate.model_validate(asked)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors(include_url=False)
        )
        raise Invalid(problems) from None


def cron_view(row: Mapping[str, Any], select: list[Shown] | None = None) -> dict[str, Any]:
    """A cron as clients see it. `last_error` is ours, and there only when the last due time started no run."""
    owner = row["owner"]
    view = {
        "cron_id": str(row["cron_id"]),
        "assistant_id": str(row["assistant_id"]),
        "thread_id": str(row["thread_id"]) if row["thread_id"] else None,
        "user_id": None if owner == LOCAL.owner else owner,
        "schedule": row["schedule"],
        "timezone": row["timezone"],
        "end_time": time(row["end_time"]) if row["end_time"] else None,
        "enabled": row["enabled"],
        "on_run_completed": row["on_run_completed"],
        "metadata": row["metadata"],
        "payload": codec.loads(row["payload"]),
        "next_run_date": time(row["next_run_date"]) if row["next_run_date"] else None,
        "created_at": time(row["created_at"]),
        "updated_at": time(row["updated_at"]),
    }
    if select is not None:
        return {key: value for key, value in {**view, "now": time(row["now"])}.items() if key in select}
    return {**view, "last_error": row["last_error"]} if row["last_error"] else view
