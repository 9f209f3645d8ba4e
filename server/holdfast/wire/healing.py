"""Repairing a thread on the wire; ours, not the official server's."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

FindingKind = Literal[
    "busy_without_runs",
    "resting_with_runs",
    "held_answers",
    "untold_ends",
    "unreadable_state",
    "graph_changed",
    "dangling_tool_calls",
]


class ThreadRepair(BaseModel):
    """What `POST /threads/{thread_id}/repair` takes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"dry_run": True}]})

    dry_run: bool = Field(False, description="Only look, change nothing")

    @field_validator("dry_run", mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        return False if value is None else value


class Found(BaseModel):
    """Something that is wrong with a thread."""

    kind: FindingKind
    detail: str


class ThreadRepaired(BaseModel):
    """What was found, and the kinds of what was mended."""

    thread_id: str
    findings: list[Found]
    repaired: list[FindingKind]
    dry_run: bool
