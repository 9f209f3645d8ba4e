"""Runs on the wire: what clients send, what is stored, what they get back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from langgraph.types import Command, Send
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from holdfast.errors import Invalid
from holdfast.rules.admission import Strategy
from holdfast.rules.approval import OnPending
from holdfast.rules.run import RunStatus
from holdfast.rules.thread import ThreadStatus
from holdfast.wire import codec
from holdfast.wire.modes import STREAM_MODES
from holdfast.wire.problems import Failure
from holdfast.wire.state import Question
from holdfast.wire.times import time

Durability = Literal["sync", "async", "exit"]
RunField = Literal[
    "run_id",
    "thread_id",
    "assistant_id",
    "created_at",
    "updated_at",
    "status",
    "metadata",
    "kwargs",
    "multitask_strategy",
    "langsmith_session_name",
    "cancel_reason",
]
"""What `select` takes. The SDK's list has `cancel_reason`, which nobody can give; it is null."""

_MODE = {"type": "string", "enum": sorted(STREAM_MODES)}

Nodes = Literal["*"] | list[str]
OnCompletion = Literal["delete", "keep", "keep_interrupted"]
"""What becomes of a stateless run's thread; `keep_interrupted` keeps one that asks something, for the answer."""

MOST_PRIORITY = 10
"""Runs have priorities from -10 to 10, as the table's CHECK says; one step is worth a minute of waiting."""


def listed(value: object) -> object:
    """One name is a list of one."""
    return [value] if isinstance(value, str) else value


class CommandBody(BaseModel):
    """`command`: resume (any JSON), update (an object, or pairs), goto (a node, a Send, or a list of them)."""

    update: dict[str, Any] | list[tuple[str, Any]] | None = None
    resume: Any = None
    goto: Any = None


class CheckpointBody(BaseModel):
    """`checkpoint`: which checkpoint to start from."""

    checkpoint_id: str | None = None
    checkpoint_ns: str = ""
    checkpoint_map: dict[str, Any] | None = None


class ConfigBody(BaseModel):
    """`config`, as far as a client may set it."""

    tags: list[str] | None = None
    recursion_limit: Annotated[int, Field(ge=1, le=100_000)] | None = None
    configurable: dict[str, Any] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)

    @field_validator("configurable", "metadata", mode="before")
    @classmethod
    def _null_is_empty(cls, value: object) -> object:
        return {} if value is None else value


class RunCreate(BaseModel):
    """The body of every operation that starts a run; unknown fields are ignored, as the official server does.

    Among those are `langsmith_tracer` (nothing is sent to LangSmith) and `strict_resume` (an answer that is not for a
    pending question is refused in any case). `feedback_keys` are kept with the run; without LangSmith there is nobody
    to sign URLs for them, so no `feedback` event comes. Ours are `if_thread_status`, the statuses that the thread may
    be in when the run is admitted; `on_pending_interrupt`, what becomes of new input while the thread waits for an
    answer, which can only be stricter than the graph's own policy; and `priority`: among the waiting runs of its owner
    the run counts as so many minutes older.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "assistant_id": "agent",
                    "input": {"messages": [{"role": "user", "content": "What is 6 times 7?"}]},
                    "stream_mode": ["values", "messages-tuple"],
                }
            ]
        }
    )

    assistant_id: str
    input: Any = None
    command: CommandBody | None = None
    config: ConfigBody = Field(default_factory=ConfigBody)
    context: dict[str, Any] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    checkpoint: CheckpointBody | None = None
    checkpoint_id: str | None = None
    interrupt_before: Annotated[Nodes, BeforeValidator(lambda v: v if v == "*" else listed(v))] | None = None
    interrupt_after: Annotated[Nodes, BeforeValidator(lambda v: v if v == "*" else listed(v))] | None = None
    stream_mode: Annotated[
        list[str], BeforeValidator(listed), WithJsonSchema({"anyOf": [_MODE, {"type": "array", "items": _MODE}]})
    ] = Field(default_factory=lambda: ["values"])
    stream_subgraphs: bool = False
    stream_resumable: bool = False
    feedback_keys: list[str] | None = None
    multitask_strategy: Strategy = "enqueue"
    if_thread_status: Annotated[list[ThreadStatus], BeforeValidator(listed), Field(min_length=1)] | None = None
    on_pending_interrupt: OnPending = "discard"
    if_not_exists: Literal["create", "reject"] = "reject"
    after_seconds: Annotated[float, Field(ge=0, le=31_536_000)] | None = None
    durability: Durability | None = None
    checkpoint_during: bool | None = None
    on_disconnect: Literal["cancel", "continue"] = "continue"
    on_completion: OnCompletion = "delete"
    webhook: str | None = None
    priority: Annotated[int, Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY)] = 0

    @field_validator(
        "config",
        "metadata",
        "multitask_strategy",
        "on_pending_interrupt",
        "on_disconnect",
        "if_not_exists",
        "priority",
        mode="before",
    )
    @classmethod
    def _null_is_absent(cls, value: object, info: Any) -> object:
        return cls.model_fields[info.field_name].get_default(call_default_factory=True) if value is None else value

    @field_validator("stream_mode", mode="before")
    @classmethod
    def _default_mode(cls, value: object) -> object:
        return ["values"] if value is None or value == [] else value

    @field_validator("stream_mode")
    @classmethod
    def _known_modes(cls, modes: list[str]) -> list[str]:
        if unknown := sorted(set(modes) - STREAM_MODES):
            raise ValueError(f"unknown stream mode {', '.join(unknown)}; expected {', '.join(sorted(STREAM_MODES))}")
        return modes

    @property
    def addressed(self) -> str | None:
        """The checkpoint id that the request names."""
        return self.checkpoint_id or (self.checkpoint.checkpoint_id if self.checkpoint else None)

    @property
    def resumes(self) -> bool:
        return self.command is not None and self.command.resume is not None

    @property
    def continues(self) -> bool:
        """Whether it brings nothing, so that the thread goes on where it stopped."""
        return self.input is None and self.command is None and self.addressed is None

    @property
    def handed_on(self) -> dict[str, Any]:
        """Answers that a graph gives on, of which this one is a node (RemoteGraph): all that it was given itself."""
        answers = self.config.configurable.get("__pregel_resume_map")
        return answers if isinstance(answers, dict) and self.command is None else {}

    def answering(self, answers: Mapping[str, Any]) -> Self:
        """The same request with a resume in the place of its input."""
        return self.model_copy(update={"command": CommandBody(resume=dict(answers)), "input": None})


class RunBatch(RootModel[Annotated[list[RunCreate], Field(min_length=1, max_length=1000)]]):
    """The body of `POST /runs/batch`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                [
                    {
                        "assistant_id": "agent",
                        "input": {"messages": [{"role": "user", "content": "What is 6 times 7?"}]},
                    },
                    {
                        "assistant_id": "agent",
                        "input": {"messages": [{"role": "user", "content": "What is 7 times 8?"}]},
                    },
                ]
            ]
        }
    )


class CancelMany(BaseModel):
    """The body of `POST /runs/cancel`: all runs in a status, or runs of one thread."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"status": "pending"}],
            "oneOf": [{"required": ["status"]}, {"required": ["thread_id", "run_ids"]}],
        }
    )

    status: Literal["pending", "running", "all"] | None = None
    thread_id: UUID | None = None
    run_ids: Annotated[list[UUID], Field(min_length=1, max_length=1000)] | None = None

    @model_validator(mode="after")
    def _one_or_the_other(self) -> CancelMany:
        given = (self.status is not None, self.thread_id is not None, self.run_ids is not None)
        if given not in ((True, False, False), (False, True, True)):
            raise ValueError("give either status, or thread_id and run_ids")
        return self

    @property
    def statuses(self) -> list[str]:
        return ["pending", "running"] if self.status == "all" else [str(self.status)]


class Run(BaseModel):
    """An execution of an assistant on a thread.

    `kwargs` is the request, with its config merged and its answers bound. `success` includes a run that stopped to ask
    something; `interrupted` means cancelled.
    """

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    created_at: datetime
    updated_at: datetime
    metadata: dict[str, Any]
    status: RunStatus
    kwargs: dict[str, Any]
    multitask_strategy: Strategy
    langsmith_session_name: None
    cancel_reason: None = None


class RunResult(BaseModel):
    """The thread's values when the run had ended, and what they ask; or how the run failed."""

    model_config = ConfigDict(extra="allow")

    asked: Annotated[list[Question] | None, Field(alias="__interrupt__")] = None
    failed: Annotated[Failure | None, Field(alias="__error__")] = None


class Nothing(BaseModel):
    """An empty object: the run has stopped."""


@dataclass(frozen=True, slots=True)
class RunKwargs:
    """What a worker needs to know of a run, as it is stored with it; `command` has its resume bound already."""

    input: Any
    command: Mapping[str, Any] | None
    config: Mapping[str, Any]
    context: Mapping[str, Any] | None
    stream_mode: list[str]
    interrupt_before: Any
    interrupt_after: Any
    subgraphs: bool
    durability: Durability
    checkpoint: Mapping[str, Any] | None
    on_completion: OnCompletion | None
    user: Mapping[str, Any] | None
    """What authentication said about the caller; it may hold credentials, and no client sees it."""
    on_pending_interrupt: OnPending | None
    """What becomes of the run if its thread asks something; None: a resume, or nothing special."""

    @classmethod
    def load(cls, stored: bytes) -> RunKwargs:
        kwargs = codec.loads(stored)
        return cls(**{name: kwargs.get(name) for name in cls.__slots__})

    @property
    def answers(self) -> Mapping[str, Any] | None:
        """`{interrupt_id: value}`; None if the run is no resume."""
        return self.command.get("resume") if self.command else None

    def as_input(self, answers: Mapping[str, Any] | None) -> Any:
        """The input as LangGraph takes it, with these answers in the place of the stored ones."""
        if self.command is None:
            return self.input
        return Command(
            update=_update(self.command.get("update")),
            resume=dict(answers) if answers is not None else None,
            goto=goto(self.command.get("goto")),
        )

    @staticmethod
    def answers_only(answers: Mapping[str, Any]) -> Command[Any]:
        """Continue with these answers and nothing else; an empty map answers nothing."""
        return Command(resume=dict(answers))


def stored_kwargs(
    body: RunCreate,
    config: Mapping[str, Any],
    context: Mapping[str, Any] | None,
    answers: Mapping[str, Any] | None,
    *,
    temporary: bool,
    user: Mapping[str, Any] | None,
    on_pending: OnPending = "discard",
) -> dict[str, Any]:
    """The `kwargs` of a run: the request with config merged and answers bound. `temporary`: its thread goes with it.

    Raises:
        Invalid: a command that names nowhere to go.
    """
    command = None
    if body.command is not None and body.command != CommandBody():
        command = {"update": body.command.update, "resume": answers, "goto": body.command.goto}
        goto(body.command.goto)
    return {
        "input": body.input if command is None else None,
        "command": command,
        "config": dict(config),
        "context": context,
        "stream_mode": body.stream_mode,
        "interrupt_before": body.interrupt_before,
        "interrupt_after": body.interrupt_after,
        "webhook": body.webhook,
        "feedback_keys": body.feedback_keys,
        "temporary": temporary,
        "subgraphs": body.stream_subgraphs,
        "resumable": body.stream_resumable,
        "checkpoint_during": body.checkpoint_during,
        "durability": _durability(body),
        "checkpoint": _start(body),
        "on_completion": body.on_completion,
        "user": user,
        **({"on_pending_interrupt": on_pending} if on_pending != "discard" and answers is None else {}),
    }


def goto(value: Any) -> list[str | Send]:
    """`command.goto` as LangGraph takes it.

    Raises:
        Invalid: neither a node, nor `{node, input}`, nor a list of them.
    """
    if value is None:
        return []
    targets = value if isinstance(value, list) else [value]
    return [_target(target) for target in targets]


def run_view(row: Mapping[str, Any], select: Sequence[str] | None = None) -> dict[str, Any]:
    """A run as clients see it, or these fields of it."""
    run = _whole_view(row)
    return {key: run.get(key) for key in select} if select else run


def _whole_view(row: Mapping[str, Any]) -> dict[str, Any]:
    kwargs = codec.loads(row["kwargs"])
    if kwargs is not None:
        kwargs.pop("user", None)
    return {
        "run_id": str(row["run_id"]),
        "thread_id": str(row["thread_id"]),
        "assistant_id": str(row["assistant_id"]),
        "created_at": time(row["created_at"]),
        "updated_at": time(row["updated_at"]),
        "metadata": row["metadata"],
        "status": row["status"],
        "kwargs": kwargs,
        "multitask_strategy": row["multitask_strategy"],
        "langsmith_session_name": None,
    }


def graph_output(values: Mapping[str, Any], output_schema: Mapping[str, Any] | None) -> Any:
    """What of a thread's values a graph gives out, by its output schema; all of them where it has none."""
    if values.keys() == {"__root__"}:
        return values["__root__"]
    shown = (output_schema or {}).get("properties")
    return {key: value for key, value in values.items() if not shown or key in shown}


def _durability(body: RunCreate) -> Durability:
    if body.durability is not None:
        return body.durability
    if body.checkpoint_during is not None:
        return "async" if body.checkpoint_during else "exit"
    return "sync"


def _start(body: RunCreate) -> dict[str, Any] | None:
    # An answer is bound to the latest checkpoint and starts there, whatever the client names beside it.
    if body.addressed is None or body.resumes:
        return None
    start: dict[str, Any] = {"checkpoint_id": body.addressed}
    if body.checkpoint is not None and body.checkpoint.checkpoint_ns:
        start["checkpoint_ns"] = body.checkpoint.checkpoint_ns
    if body.checkpoint is not None and body.checkpoint.checkpoint_map:
        start["checkpoint_map"] = body.checkpoint.checkpoint_map
    return start


def _update(value: Any) -> Any:
    return [tuple(pair) for pair in value] if isinstance(value, list) else value


def _target(target: Any) -> str | Send:
    if isinstance(target, str):
        return target
    if isinstance(target, dict) and isinstance(target.get("node"), str):
        return Send(target["node"], target.get("input"))
    raise Invalid("command.goto must be a node name, {node, input}, or a list of them")
