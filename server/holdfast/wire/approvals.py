"""Approvals on the wire: what was asked, what became of it, and who decided."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator

from holdfast.rules.approval import ApprovalState, Outcome
from holdfast.wire import codec
from holdfast.wire.runs import listed
from holdfast.wire.times import moment, time

MOST_OFFSET = 2**63 - 1


_STATE = {"type": "string", "enum": [state.value for state in ApprovalState]}
States = Annotated[
    list[ApprovalState],
    BeforeValidator(listed),
    Field(min_length=1),
    WithJsonSchema({"anyOf": [_STATE, {"type": "array", "items": _STATE, "minItems": 1}]}),
]
Moment = Annotated[datetime, BeforeValidator(moment)]


class ApprovalSearch(BaseModel):
    """The body of `POST /approvals/search`: all terms must hold. `assistant_id` may be the name of a graph.

    `state` is one state or a list of them. `asked_after` includes its moment, the others do not.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"state": "pending", "limit": 20}]})

    state: States | None = None
    thread_id: UUID | None = None
    graph_id: str | None = None
    assistant_id: str | None = None
    asked_after: Moment | None = None
    asked_before: Moment | None = None
    due_before: Moment | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 10
    offset: Annotated[int, Field(ge=0, le=MOST_OFFSET)] = 0


class Approval(BaseModel):
    """A question that a graph asked with `interrupt()`.

    `question` and `answer` are any JSON; `answer` is null until somebody answered, and so are `decided_by` (a caller's
    name), `decided_run_id` and `decided_at`. `outcome` is what happens at `due_at`; `escalated_at` or the state say
    that it did, `problem` why it could not. `requested_by` is who started what the question is about.
    """

    approval_id: UUID
    thread_id: UUID
    interrupt_id: str
    task_id: str
    checkpoint_id: str | None
    graph_id: str | None
    assistant_id: UUID | None
    run_id: UUID | None
    question: Any
    asked_at: datetime
    state: ApprovalState
    answer: Any
    decided_by: str | None
    decided_run_id: UUID | None
    decided_at: datetime | None
    due_at: datetime | None
    outcome: Outcome | None
    escalated_at: datetime | None
    problem: str | None
    requested_by: str


class ApprovalAnswer(BaseModel):
    """The body of `POST /approvals/{approval_id}/answer`: what `command.resume` would be, any JSON but null."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"answer": "yes"}]})

    answer: Any

    @field_validator("answer")
    @classmethod
    def _says_something(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("null answers nothing")
        return value


def approval_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """An approval as clients see it."""
    return {
        "approval_id": str(row["approval_id"]),
        "thread_id": str(row["thread_id"]),
        "interrupt_id": row["interrupt_id"],
        "task_id": row["task_id"],
        "checkpoint_id": row["checkpoint_id"],
        "graph_id": row["graph_id"],
        "assistant_id": _text(row["assistant_id"]),
        "run_id": _text(row["run_id"]),
        "question": codec.loads(row["question"]),
        "asked_at": time(row["asked_at"]),
        "state": row["state"],
        "answer": None if row["answer"] is None else codec.loads(row["answer"]),
        "decided_by": row["decided_by"],
        "decided_run_id": _text(row["decided_run_id"]),
        "decided_at": _time(row["decided_at"]),
        "due_at": _time(row["due_at"]),
        "outcome": row["outcome"],
        "escalated_at": _time(row["acted_at"]) if row["outcome"] == "escalate" else None,
        "problem": row["problem"],
        "requested_by": row["requested_by"],
    }


def escalation(row: Mapping[str, Any]) -> bytes:
    """The body of the webhook that tells of a question which nobody answered in time."""
    return codec.dumps({"event": "approval.due", "approval": approval_view(row)})


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else time(moment)
