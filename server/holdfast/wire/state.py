"""langgraph's snapshots and configs in the shapes the API shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph.types import Interrupt, PregelTask, StateSnapshot
from pydantic import BaseModel

_CHECKPOINT_KEYS = ("checkpoint_id", "thread_id", "checkpoint_ns", "checkpoint_map")
_INTERNAL_KEYS = ("__", "langgraph_auth")
_MAX_METADATA_DEPTH = 32


class Question(BaseModel):
    """What a task asks with `interrupt()`; a resume may answer it by its id."""

    id: str
    value: Any
    response_schema: Any = None


class Checkpoint(BaseModel):
    """Where a state is kept."""

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str | None = None
    checkpoint_map: dict[str, Any] | None = None


class Task(BaseModel):
    """A node that is due or ran. `state` is its subgraph's, if it has one and subgraphs were asked for."""

    id: str
    name: str
    path: list[Any]
    error: str | None
    interrupts: list[Question]
    checkpoint: Checkpoint | None
    state: ThreadState | None
    result: Any


class ThreadState(BaseModel):
    """A thread after one superstep. `values` is an object, unless the graph's state is something else."""

    values: Any
    next: list[str]
    tasks: list[Task]
    metadata: dict[str, Any] | None
    created_at: datetime | None
    checkpoint: Checkpoint | None
    parent_checkpoint: Checkpoint | None
    interrupts: list[Question]
    checkpoint_id: str | None
    parent_checkpoint_id: str | None


def thread_state(snapshot: StateSnapshot) -> dict[str, Any]:
    """`ThreadState` of the API; a thread without a checkpoint has empty values and nulls.

    A checkpoint id that was asked for but does not exist is still named in the answer.
    """
    checkpoint = checkpoint_of(snapshot.config)
    parent = checkpoint_of(snapshot.parent_config) if snapshot.parent_config else None
    return {
        "values": snapshot.values,
        "next": list(snapshot.next),
        "tasks": [_task(task) for task in snapshot.tasks],
        "metadata": snapshot.metadata,
        "created_at": snapshot.created_at,
        "checkpoint": checkpoint if "checkpoint_id" in checkpoint else None,
        "parent_checkpoint": parent,
        "interrupts": [_interrupt(interrupt) for interrupt in snapshot.interrupts],
        "checkpoint_id": checkpoint.get("checkpoint_id"),
        "parent_checkpoint_id": parent.get("checkpoint_id") if parent else None,
    }


def interrupts_by_task(snapshot: StateSnapshot) -> dict[str, list[dict[str, Any]]]:
    """`{task_id: [{id, value}]}` of the questions that still wait for an answer.

    Give it the latest state, read without a checkpoint id: only then does langgraph leave out the interrupts that were
    answered while other tasks of the same step still wait.
    """
    return {
        task.id: [_interrupt(interrupt) for interrupt in task.interrupts]
        for task in snapshot.tasks
        if task.interrupts and task.result is None
    }


def checkpoint_of(config: RunnableConfig) -> dict[str, Any]:
    """`{checkpoint_id, thread_id, checkpoint_ns[, checkpoint_map]}`, without the keys that the config lacks."""
    configurable = config.get("configurable", {})
    return {key: configurable[key] for key in _CHECKPOINT_KEYS if key in configurable}


def public_config(config: RunnableConfig) -> dict[str, Any]:
    """The part of a config that clients may see: its configurable values, cleaned by `public`."""
    return {"configurable": public(config.get("configurable", {}))}


def public(entries: Mapping[str, Any]) -> dict[str, Any]:
    """`entries` without internal keys, the caller's credentials, and live objects."""
    return {key: value for key, value in entries.items() if not str(key).startswith(_INTERNAL_KEYS) and _is_data(value)}


def _is_data(value: Any, depth: int = _MAX_METADATA_DEPTH) -> bool:
    if value is None or isinstance(value, str | int | float | UUID | datetime):
        return True
    if depth == 0:
        return False
    if isinstance(value, dict):
        return all(_is_data(item, depth - 1) for item in value.values())
    return isinstance(value, list | tuple | set | frozenset) and all(_is_data(item, depth - 1) for item in value)


def _task(task: PregelTask) -> dict[str, Any]:
    nested = thread_state(task.state) if isinstance(task.state, StateSnapshot) else None
    checkpoint = None if nested or not isinstance(task.state, dict) else checkpoint_of(task.state)
    return {
        "id": task.id,
        "name": task.name,
        "path": list(task.path),
        "error": _error(task.error),
        "interrupts": [_interrupt(interrupt) for interrupt in task.interrupts],
        "checkpoint": checkpoint,
        "state": nested,
        "result": task.result,
    }


def _error(error: object) -> str | None:
    # A checkpointer hands back the repr that it stored; only a task of this process still has the exception.
    return error if error is None or isinstance(error, str) else repr(error)


def _interrupt(interrupt: Interrupt) -> dict[str, Any]:
    shape = {"id": interrupt.id, "value": interrupt.value}
    if interrupt.response_schema is not None:
        shape["response_schema"] = interrupt.response_schema
    return shape


def questions(interrupts: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """All that a thread asks, in the shape of streams and results: there `response_schema` is null if it is not set."""
    return [
        {**asked, "response_schema": asked.get("response_schema")} for task in interrupts.values() for asked in task
    ]
