"""Starting a run: the one way in, for every operation that starts one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuids
from pydantic import BaseModel
from starlette.requests import Request
from structlog.contextvars import bind_contextvars

from holdfast.api.access import REQUEST_ID
from holdfast.api.assistants import resolve
from holdfast.api.auth import lacks
from holdfast.api.cancelling import tell
from holdfast.api.deps import Services, services
from holdfast.db.admission import NO_PLACE, Answers, NewRun
from holdfast.db.crons import Firing
from holdfast.db.idempotency import Key, Made
from holdfast.errors import BadRequest, Forbidden, Missing, Refusal
from holdfast.rules.approval import OnPending, stricter
from holdfast.rules.caller import Caller, Sight
from holdfast.rules.command import bind_resume
from holdfast.rules.headers import visible
from holdfast.rules.scope import Scope, run_lacks
from holdfast.rules.trace import TRACEPARENT, named_trace, trace_of
from holdfast.sections import HeaderPatterns
from holdfast.wire import codec
from holdfast.wire.idempotency import HEADER, key_name, request_digest
from holdfast.wire.merging import merged_config, merged_metadata, mirrored, own_metadata
from holdfast.wire.runs import RunCreate, stored_kwargs
from holdfast.wire.threads import searchable

NO_PATTERNS = HeaderPatterns()


@dataclass(frozen=True, slots=True)
class Started:
    """A run that was admitted; `repeated`: by an earlier request with the same idempotency key."""

    run_id: UUID
    thread_id: UUID
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run comes from, besides its body: `headers` are those that may enter its configurable values.

    The same `operation` with the same body under one `idempotency_key` starts one run. Without a request the key may be
    anything that is as unique as the run shall be, and the operation stays empty.
    `firing` is the due time of the cron that starts it, `expiring` the approval whose deadline does, `answered_by` who
    answers what another asked. `trace_id` is the
    trace that the caller is in (`rules/trace.py`).
    """

    request_id: str
    headers: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    operation: str = ""
    firing: Firing | None = None
    expiring: UUID | None = None
    answered_by: Caller | None = None
    trace_id: UUID | None = None

    @property
    def is_ours(self) -> bool:
        """Whether the server itself starts the run; who may was asked when it was told to."""
        return self.firing is not None or self.expiring is not None or self.answered_by is not None

    def key(self, thread_id: UUID | None, *bodies: BaseModel) -> Key | None:
        """The key of a request of this origin."""
        if self.idempotency_key is None:
            return None
        return Key(self.idempotency_key, request_digest(self.operation, thread_id, *bodies))


def origin(request: Request) -> Origin:
    """The origin of a run that a request asks for.

    Raises:
        Invalid: a malformed idempotency key.
    """
    patterns = services(request).sections.http.configurable_headers or NO_PATTERNS
    return Origin(
        request.scope.get(REQUEST_ID) or str(uuids.uuid7()),
        headers=visible(request.headers.items(), includes=patterns.includes, excludes=patterns.excludes),
        idempotency_key=key_name(request.headers.getlist(HEADER)),
        operation=request.url.path,
        trace_id=named_trace(request.headers.getlist(TRACEPARENT)),
    )


async def start(
    with_: Services, who: Caller, body: RunCreate, *, thread_id: UUID | None, followed: bool, origin: Origin
) -> Started:
    """Admit a run; on return it will reach an end without any client's help (invariant 2).

    Args:
        thread_id: None for a stateless run, which gets a thread of its own.
        followed: somebody may stream or join it later, so its events are logged.

    Raises:
        Missing: no such thread or assistant; or the key's run is gone.
        Conflict: the thread is busy (`reject`) or in another status than asked for, or an answer came too late.
        BadRequest, Invalid: contradictory or malformed; or the key stands for another request.
    """
    key = origin.key(thread_id, body)

    async def admit() -> list[Started]:
        if not body.resumes:
            # An answer frees what waits for it.
            await with_.limits.runs(who.owner)
        new = await _new_run(with_, who, body, thread_id=thread_id, followed=followed, origin=origin)
        before = await _admit(with_, who, new, key)
        return [Started(new.run_id, new.thread_id)] if before is None else await _again(with_, who, before)

    [started] = await _once(with_, who, key, admit)
    bind_contextvars(run_id=str(started.run_id), thread_id=str(started.thread_id))
    return started


async def start_all(with_: Services, who: Caller, bodies: Sequence[RunCreate], *, origin: Origin) -> list[Started]:
    """Admit stateless runs to work on in the background, all or none.

    Raises:
        As `start`, for any of them.
    """
    key = origin.key(None, *bodies)

    async def admit() -> list[Started]:
        await with_.limits.runs(who.owner, len(bodies))
        new = [await _new_run(with_, who, body, thread_id=None, followed=True, origin=origin) for body in bodies]
        if before := await with_.admissions.admit_all(who, new, key=key):
            return await _again(with_, who, before)
        with_.dispatcher.wake()
        with_.bell.ring("run")
        return [Started(run.run_id, run.thread_id) for run in new]

    return await _once(with_, who, key, admit)


async def _once(
    with_: Services, who: Caller, key: Key | None, admit: Callable[[], Awaitable[list[Started]]]
) -> list[Started]:
    """Admit, unless the key says that it was done."""
    try:
        return await admit()
    except Refusal:
        # What the first of two equal requests did may be the very reason to refuse the second.
        before = await with_.keys.find(who, key) if key else None
        if before is None:
            raise
    return await _again(with_, who, before)


async def _again(with_: Services, who: Caller, before: Made) -> list[Started]:
    rows = await with_.runs.get_all(who, before.run_ids)
    return [Started(row["run_id"], row["thread_id"], repeated=True) for row in rows]


async def _new_run(
    with_: Services, who: Caller, body: RunCreate, *, thread_id: UUID | None, followed: bool, origin: Origin
) -> NewRun:
    try:
        assistant = await _assistant(with_, who, resolve(with_, body.assistant_id), thread_id, asks=not origin.is_ours)
    except Missing:
        raise Missing(NO_PLACE) from None
    body = await _taken_on(with_, who, body, thread_id)
    if not origin.is_ours:
        _check_scope(who, body)
        _check_surgery(with_, who, assistant, body)
    config, context, metadata = _merged(assistant, body, origin)
    searchable(metadata, "metadata")
    answers = await _bound(with_, who, body, thread_id, origin.answered_by)
    run_id, on_thread = uuids.uuid7(), thread_id or uuids.uuid7()
    identity = {
        "run_id": str(run_id),
        "thread_id": str(on_thread),
        "graph_id": assistant["graph_id"],
        "assistant_id": str(assistant["assistant_id"]),
        "user_id": who.owner,
    }
    if origin.firing is not None:
        identity["cron_id"] = metadata["cron_id"] = str(origin.firing.cron_id)
    config["configurable"] = {**config["configurable"], **identity}
    temporary = thread_id is None and body.on_completion != "keep"
    values = answers.values if answers else None
    on_pending = _on_pending(with_, assistant, body)
    kwargs = stored_kwargs(body, config, context, values, temporary=temporary, user=who.user, on_pending=on_pending)
    return NewRun(
        run_id=run_id,
        thread_id=on_thread,
        assistant_id=assistant["assistant_id"],
        graph_id=assistant["graph_id"],
        kwargs=codec.dumps_exact(kwargs),
        metadata=metadata,
        strategy=body.multitask_strategy,
        resumable=body.stream_resumable,
        logged=followed or body.stream_resumable,
        ephemeral=temporary,
        after_seconds=body.after_seconds or 0.0,
        answers=answers,
        new_thread=_thread_metadata(who, body) if thread_id is None or body.if_not_exists == "create" else None,
        thread_status=body.if_thread_status,
        webhook=_webhook(with_, body),
        firing=origin.firing,
        priority=body.priority,
        on_pending=on_pending,
        expiring=origin.expiring,
        continues=thread_id is not None and body.continues,
        trace_id=origin.trace_id,
    )


def _on_pending(with_: Services, assistant: Mapping[str, Any], body: RunCreate) -> OnPending:
    """The strictest of what the run's graph, the graph that ran on the thread last and the request want."""
    policies = (with_.policies.of(graph).on_pending for graph in _graphs(assistant))
    return reduce(stricter, policies, body.on_pending_interrupt)


def _graphs(assistant: Mapping[str, Any]) -> set[str]:
    """The run's graph, and the one that ran on the thread last."""
    ran_last = (assistant["thread_metadata"] or {}).get("graph_id")
    return {assistant["graph_id"], *([ran_last] if isinstance(ran_last, str) else [])}


async def check(with_: Services, who: Caller, body: RunCreate) -> UUID:
    """Refuse now what `start` would refuse later, whatever the thread's state will be; the assistant's id.

    Raises:
        Missing: no such assistant.
        Forbidden: they may not start runs.
        BadRequest, Invalid: contradictory or malformed.
    """
    _check_scope(who, body)
    assistant = await _assistant(with_, who, resolve(with_, body.assistant_id), None, asks=True)
    config, context, metadata = _merged(assistant, body, Origin(""))
    stored_kwargs(body, config, context, None, temporary=False, user=None)
    searchable(metadata, "metadata")
    _webhook(with_, body)
    found: UUID = assistant["assistant_id"]
    return found


def _check_scope(who: Caller, body: RunCreate) -> None:
    """Raises: Forbidden: they may not start, or may not answer."""
    steers = _steers(body)
    brings = body.input is not None or steers
    if scope := run_lacks(who.scopes, answers=body.resumes, brings=brings, steers=steers):
        raise lacks(scope)


def _steers(body: RunCreate) -> bool:
    return body.command is not None and (body.command.update is not None or body.command.goto is not None)


def _check_surgery(with_: Services, who: Caller, assistant: Mapping[str, Any], body: RunCreate) -> None:
    """Raises: Forbidden: the run would go past a question that is not for everybody to answer."""
    if _steers(body):
        for graph in sorted(_graphs(assistant)):
            check_state_writer(with_, who, graph)


def check_state_writer(with_: Services, who: Caller, graph_id: object) -> None:
    """Whoever writes states can write one in which a question was answered, or make the graph go past it.

    Raises:
        Forbidden: it matters who answers this graph's questions, and they are no admin.
    """
    if isinstance(graph_id, str) and with_.policies.of(graph_id).by and Scope.ADMIN not in who.scopes:
        raise Forbidden(
            f"Not everybody may answer what graph '{graph_id}' asks, so its states are made by runs: "
            f"to write one needs the scope '{Scope.ADMIN}'."
        )


async def _assistant(
    with_: Services, who: Caller, assistant_id: UUID, thread_id: UUID | None, *, asks: bool
) -> Mapping[str, Any]:
    """What the run is made of. Whether its caller may read the assistant is another question than who may run.

    A cron asked it when it was made, a deadline when the run was that asked.
    """
    reader = replace(who, sight=Sight.ALL)
    if asks:
        asked = {"assistant_id": assistant_id, "metadata": {}}
        reader = await with_.gate.allow(who, "assistants", "read", asked)
    return await with_.assistants.on_thread(reader, assistant_id, thread_id, of_thread=who)


async def _admit(with_: Services, who: Caller, new: NewRun, key: Key | None) -> Made | None:
    """Let the run in; what its key stands for, if that was done before."""
    worker_id = with_.dispatcher.reserve()
    try:
        admitted = await with_.admissions.admit(who, new, worker_id=worker_id, key=key)
    except BaseException:
        if worker_id is not None:
            with_.dispatcher.release()
        raise
    if admitted.claimed is not None:
        bind_contextvars(trace_id=trace_of(new.run_id, admitted.claimed.trace_id))
        with_.dispatcher.start(admitted.claimed)
    elif worker_id is not None:
        with_.dispatcher.release()
    if admitted.claimed is None and new.answers is None and not new.continues:
        bind_contextvars(trace_id=trace_of(new.run_id, new.trace_id))
    tell(with_, admitted.others)
    if admitted.claimed is None and admitted.before is None:
        with_.dispatcher.wake()
        with_.bell.ring("run", new.run_id)
    return admitted.before


async def _taken_on(with_: Services, who: Caller, body: RunCreate, thread_id: UUID | None) -> RunCreate:
    """The request as an answer, if a parent graph hands on answers to what this thread asks."""
    if not body.handed_on or thread_id is None or (asked := await with_.threads.questions(who, thread_id)) is None:
        return body
    answers = {interrupt_id: body.handed_on[interrupt_id] for interrupt_id in asked.pending & body.handed_on.keys()}
    return body.answering(answers) if answers else body


async def _bound(
    with_: Services, who: Caller, body: RunCreate, thread_id: UUID | None, by: Caller | None
) -> Answers | None:
    """The resume bound to what the thread asks at this moment; None if this run resumes nothing."""
    if not body.resumes:
        return None
    assert body.command is not None
    if thread_id is None:
        raise BadRequest("You must provide a thread_id when resuming.")
    asked = await with_.threads.questions(who, thread_id)
    if asked is None:
        raise Missing(NO_PLACE)
    values = bind_resume(body.command.resume, asked, addressed=body.addressed)
    return Answers(asked, values, frozenset(with_.catalog.ids()), with_.policies, by)


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


def _thread_metadata(who: Caller, body: RunCreate) -> dict[str, Any]:
    """What a thread that is made for the run carries."""
    return who.marked(own_metadata({**body.config.metadata, **body.metadata}))


def _webhook(with_: Services, body: RunCreate) -> str | None:
    if body.webhook is None or with_.webhooks is None:
        return None
    return with_.webhooks.checked(body.webhook)
