"""Health, identity and figures on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from holdfast.wire.times import time


class Health(BaseModel):
    """Whether all is well, and with which part it is not."""

    ok: bool
    services: dict[str, Literal["healthy", "unhealthy", "stopping"]] = Field(default_factory=dict)


class Info(BaseModel):
    """What serves here. `version` is the langgraph-api version whose wire it speaks."""

    version: str
    langgraph_py_version: str
    holdfast_version: str
    flags: dict[str, bool]
    host: dict[str, Any]


class Queue(BaseModel):
    """Runs that wait and runs that go on; how long, in seconds, null where none waits."""

    n_pending: Annotated[int, Field(ge=0)]
    n_running: Annotated[int, Field(ge=0)]
    pending_runs_wait_time_max_secs: float | None
    pending_runs_wait_time_med_secs: float | None
    pending_unblocked_runs_wait_time_max_secs: float | None


class Answered(BaseModel):
    """How often an operation answered with this status."""

    method: str
    path: str
    status: int
    count: int


class Traffic(BaseModel):
    """What this process answered."""

    http_requests_total: list[Answered]


class Storage(BaseModel):
    """What threads took up when they were last measured, in bytes as Postgres keeps them."""

    measured_at: datetime
    threads: Annotated[int, Field(ge=0)]
    bytes: Annotated[int, Field(ge=0)]
    threads_up_to_bytes: dict[str, int]
    largest_bytes: list[int]


class Figures(BaseModel):
    """The queue of all processes, what threads take up (null before the first round), and the traffic of this one."""

    queue: Queue
    storage: Storage | None
    alerts: Annotated[dict[str, int], Field(description="Alerts that go on, by kind")]
    api: Traffic


def storage_view(measured_at: datetime, report: Mapping[str, Any]) -> dict[str, Any]:
    """The report without ids: figures are for everybody."""
    sizes = [thread["bytes"] for thread in report["largest"]]
    return {
        "measured_at": time(measured_at),
        "threads": report["threads"],
        "bytes": report["bytes"],
        "threads_up_to_bytes": report["threads_up_to_bytes"],
        "largest_bytes": sizes,
    }
