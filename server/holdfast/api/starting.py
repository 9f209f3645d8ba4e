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
from holdfast.db.crons import Firing
from holdfast.db.runs import Answers, NewRun
from holdfast.errors import BadRequest, Missing
from holdfast.rules.caller import Caller
from holdfast.rules.command import bind_resume
from holdfast.wire import codec
from holdfast.wire.runs import RESERVED_CONFIGURABLE, RunCreate, new_run_metadata, stored_kwargs
from holdfast.wire.threads import searchable


@dataclass(frozen=True, slots=True)
class Started:
    """A run that was admitted."""

    run_id: UUID
    thread_id: UUID


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run comes from, besides its body: `headers` are those that may enter its configurable values.

    `firing` is the due time of the cron that starts it.
    """

    request_id: str
    headers: Mapping[str, str] = field(default_factory=dict)
    firing: Firing | None = None


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
    assistant = await with_.assistants.get(who, resolve(with_, body.assistant_id))
    config, context = _merged(assistant, body, origin)
    answers = await _bound(with_, who, body, thread_id)
    kwargs = stored_kwargs(body, config, context, answers.values if answers else None)
    metadata = new_run_metadata(body, assistant["assistant_id"])
    searchable(metadata, "metadata")
    if origin.firing is not None:
        metadata["cron_id"] = str(origin.firing.cron_id)
    new = NewRun(
        run_id=uuids.uuid7(),
        thread_id=thread_id or uuids.uuid7(),
        assistant_id=assistant["assistant_id"],
        graph_id=assistant["graph_id"],
        kwargs=codec.dumps_exact(kwargs),
        metadata={**assistant["metadata"], **metadata},
        strategy=body.multitask_strategy,
        resumable=body.stream_resumable,
        logged=followed or body.stream_resumable,
        ephemeral=thread_id is None and body.on_completion == "delete",
        after_seconds=body.after_seconds or 0.0,
        answers=answers,
        new_thread=_thread_metadata(body, thread_id),
        webhook=_webhook(with_, body),
        firing=origin.firing,
    )
    await _admit(with_, who, new)
    return Started(new.run_id, new.thread_id)


async def check(with_: Services, who: Caller, body: RunCreate) -> UUID:
    """Refuse now what `start` would refuse later, whatever the thread's state will be; the assistant's id.

    Raises:
        Missing: no such assistant.
        BadRequest, Invalid: contradictory or malformed.
    """
    assistant = await with_.assistants.get(who, resolve(with_, body.assistant_id))
    config, context = _merged(assistant, body, Origin(""))
    stored_kwargs(body, config, context, None)
    searchable(new_run_metadata(body, assistant["assistant_id"]), "metadata")
    _webhook(with_, body)
    found: UUID = assistant["assistant_id"]
    return found


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
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Config and context of the run: the assistant's, then the request's; either mirrors the other.

    Raises:
        BadRequest: the request gives both configurable and context.
    """
    given = {key: value for key, value in body.config.configurable.items() if not _reserved(key)}
    if given.keys() - {"thread_id"} and body.context:
        raise BadRequest("Cannot specify both configurable and context. Prefer setting context alone.")
    asked = {key: value for key, value in (body.context or given).items() if not _reserved(key)}
    preset = assistant["config"]
    configurable = {**preset.get("configurable", {}), **assistant["context"], **given, **asked, **origin.headers}
    configurable["langgraph_request_id"] = origin.request_id
    if origin.firing is not None:
        configurable["cron_id"] = str(origin.firing.cron_id)
    config = {
        "configurable": configurable,
        "metadata": body.config.metadata,
        "tags": [*preset.get("tags", []), *(body.config.tags or [])],
        "recursion_limit": body.config.recursion_limit or preset.get("recursion_limit"),
    }
    context = {**assistant["context"], **asked}
    return config, context or None


def _webhook(with_: Services, body: RunCreate) -> str | None:
    if body.webhook is None or with_.webhooks is None:
        return None
    return with_.webhooks.checked(body.webhook)


def _reserved(key: str) -> bool:
    return key in RESERVED_CONFIGURABLE or key.startswith("__otel_")


def _thread_metadata(body: RunCreate, thread_id: UUID | None) -> dict[str, Any] | None:
    if thread_id is not None and body.if_not_exists == "reject":
        return None
    metadata = {**body.config.metadata, **body.metadata}
    searchable(metadata, "metadata")
    return metadata
