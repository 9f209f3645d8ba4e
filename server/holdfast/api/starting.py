"""Starting a run: the one way in, for every operation that starts one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuids
from starlette.requests import Request

from holdfast.api.assistants import resolve
from holdfast.api.deps import Services
from holdfast.db.runs import Answers, NewRun
from holdfast.errors import BadRequest, Missing
from holdfast.rules.caller import Caller
from holdfast.rules.command import bind_resume
from holdfast.wire import codec
from holdfast.wire.merging import merged_config, merged_metadata, mirrored
from holdfast.wire.runs import RunCreate, stored_kwargs
from holdfast.wire.threads import searchable


@dataclass(frozen=True, slots=True)
class Started:
    """A run that was admitted."""

    run_id: UUID
    thread_id: UUID


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run comes from, besides its body: `headers` are those that may enter its configurable values."""

    request_id: str
    headers: Mapping[str, str] = field(default_factory=dict)


def origin(request: Request) -> Origin:
    """The origin of a run that a request asks for."""
    return Origin(request.headers.get("x-request-id") or str(uuids.uuid7()))


async def start(
    with_: Services, who: Caller, body: RunCreate, *, thread_id: UUID | None, followed: bool, origin: Origin
) -> Started:
    """Admit a run; on return it will reach an end without any client's help (invariant 2).

    Args:
        thread_id: None for a stateless run, which gets a thread of its own.
        followed: somebody may stream or join it later, so its events are logged.

    Raises:
        Missing: no such thread or assistant.
        Conflict: the thread is busy (`reject`), or an answer came too late.
        BadRequest, Invalid: contradictory or malformed.
    """
    assistant = await with_.assistants.on_thread(who, resolve(with_, body.assistant_id), thread_id)
    config, context, metadata = _merged(assistant, body, origin)
    answers = await _bound(with_, who, body, thread_id)
    kwargs = stored_kwargs(body, config, context, answers.values if answers else None)
    searchable(metadata, "metadata")
    new = NewRun(
        run_id=uuids.uuid7(),
        thread_id=thread_id or uuids.uuid7(),
        assistant_id=assistant["assistant_id"],
        graph_id=assistant["graph_id"],
        kwargs=codec.dumps_exact(kwargs),
        metadata=metadata,
        strategy=body.multitask_strategy,
        resumable=body.stream_resumable,
        logged=followed or body.stream_resumable,
        ephemeral=thread_id is None and body.on_completion == "delete",
        after_seconds=body.after_seconds or 0.0,
        answers=answers,
        new_thread=_thread_metadata(body, thread_id),
    )
    await _admit(with_, who, new)
    return Started(new.run_id, new.thread_id)


async def _admit(with_: Services, who: Caller, new: NewRun) -> None:
    worker_id = with_.dispatcher.reserve()
    try:
        admitted = await with_.runs.admit(who, new, worker_id=worker_id)
    except BaseException:
        if worker_id is not None:
            with_.dispatcher.release()
        raise
    if admitted.claimed is not None:
        with_.dispatcher.start(admitted.claimed)
    elif worker_id is not None:
        with_.dispatcher.release()
    for run_id in admitted.stopping:
        with_.bell.ring("cancel", run_id)
    if admitted.stopping:
        with_.dispatcher.look_for_cancels()
    if admitted.claimed is None:
        with_.bell.ring("run", new.run_id)


async def _bound(with_: Services, who: Caller, body: RunCreate, thread_id: UUID | None) -> Answers | None:
    """The resume bound to what the thread asks at this moment; None if this run resumes nothing."""
    if not body.resumes:
        return None
    assert body.command is not None
    if thread_id is None:
        raise BadRequest("You must provide a thread_id when resuming.")
    asked = await with_.threads.questions(who, thread_id)
    if asked is None:
        raise Missing("Thread or assistant not found.")
    return Answers(asked, bind_resume(body.command.resume, asked, addressed=body.addressed))


def _merged(
    assistant: Mapping[str, Any], body: RunCreate, origin: Origin
) -> tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any]]:
    """Config, context and metadata of the run.

    Raises:
        BadRequest: the request gives both configurable and context.
    """
    configurable, context = mirrored(body.config.configurable, body.context)
    config = merged_config(
        assistant["config"],
        assistant["thread_config"],
        {"tags": body.config.tags, "recursion_limit": body.config.recursion_limit, "metadata": body.config.metadata},
        configurable,
        {**origin.headers, "langgraph_request_id": origin.request_id},
    )
    metadata = merged_metadata(
        str(assistant["assistant_id"]),
        assistant["metadata"],
        assistant["thread_metadata"],
        body.config.metadata,
        body.metadata,
    )
    return config, {**assistant["context"], **context} or None, metadata


def _thread_metadata(body: RunCreate, thread_id: UUID | None) -> dict[str, Any] | None:
    if thread_id is not None and body.if_not_exists == "reject":
        return None
    metadata = {**body.config.metadata, **body.metadata}
    searchable(metadata, "metadata")
    return metadata
