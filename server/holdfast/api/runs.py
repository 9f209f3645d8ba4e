"""Runs on threads."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from holdfast.api import following
from holdfast.api.auth import demand
from holdfast.api.deps import Services, With, may, read, uuid_of
from holdfast.api.documents import EVENTS, FOLLOWING, RUNNING, docs
from holdfast.api.idempotency import replayed
from holdfast.api.responses import Json
from holdfast.api.starting import Started, origin, start
from holdfast.db.cancelling import CancelAction
from holdfast.errors import Invalid
from holdfast.rules.caller import Caller
from holdfast.rules.run import ACTIVE
from holdfast.rules.scope import Scope
from holdfast.wire import sse
from holdfast.wire.runs import Nothing, Run, RunCreate, RunField, RunResult, run_view

router = APIRouter(prefix="/threads/{thread_id}/runs", tags=["Thread Runs"])

MayRun = Annotated[Caller, may("threads", "create_run")]
MayRead = Annotated[Caller, may("threads", "read")]
MayDelete = Annotated[Caller, may("threads", "delete")]
MayCancel = Annotated[Caller, may("threads", "update", scopes=(Scope.RUN,))]

CancelOnDisconnect = Annotated[str, Query(description="`true`: cancel the run if this client goes away")]
StreamMode = Annotated[
    list[str] | None, Query(description="Only events of these modes; a comma list or JSON array too")
]
Wait = Annotated[str, Query(description="`true`: answer when the run has stopped")]
Action = Annotated[str, Query(description="`rollback` drops what the run did; anything else is `interrupt`")]

_REFUSES = (400, 404, 409, 501)
STARTS = docs(takes=RunCreate, answers=Run, headers=("content-location",), refuses=_REFUSES, once=True)
STREAMS = docs(takes=RunCreate, answers=EVENTS, means=FOLLOWING, headers=RUNNING, refuses=_REFUSES, once=True)
WAITS = docs(takes=RunCreate, answers=RunResult, headers=RUNNING, refuses=_REFUSES, once=True)
JOINS = docs(answers=RunResult, headers=RUNNING, refuses=(404,))
FOLLOWS = docs(answers=EVENTS, means=FOLLOWING, headers=RUNNING, sends=("Last-Event-ID",), refuses=(404,))

TRUE = frozenset({"1", "true", "yes"})


@router.post("", summary="Start a run in the background", **STARTS)
async def create(thread_id: str, request: Request, with_: With, who: MayRun) -> Response:
    body = await read(request, RunCreate)
    run = await start(with_, who, body, thread_id=uuid_of(thread_id, "thread"), followed=True, origin=origin(request))
    row = await with_.runs.get(who, run.thread_id, run.run_id)
    return Json(run_view(row), headers={**following.content_location(run), **replayed(run.repeated)})


@router.post("/stream", summary="Start a run and follow its events", **STREAMS)
async def stream(thread_id: str, request: Request, with_: With, who: MayRun) -> Response:
    body = await read(request, RunCreate)
    run = await start(with_, who, body, thread_id=uuid_of(thread_id, "thread"), followed=True, origin=origin(request))
    return following.stream(with_, who, run, cancel_on_disconnect=body.on_disconnect == "cancel")


@router.post("/wait", summary="Start a run and wait for its result", **WAITS)
async def wait(thread_id: str, request: Request, with_: With, who: MayRun) -> Response:
    body = await read(request, RunCreate)
    run = await start(with_, who, body, thread_id=uuid_of(thread_id, "thread"), followed=False, origin=origin(request))
    return following.wait(with_, who, run, cancel_on_disconnect=body.on_disconnect == "cancel")


@router.get(
    "",
    summary="List a thread's runs, newest first",
    **docs(answers=list[Run], refuses=(404,), partly=True),
)
async def page(
    thread_id: str,
    with_: With,
    who: MayRead,
    limit: Annotated[int, Query(ge=0, le=1000)] = 10,
    offset: Annotated[int, Query(ge=0)] = 0,
    status: Annotated[str | None, Query(description="Only runs in this status")] = None,
    select: Annotated[list[RunField] | None, Query(description="Fields to show")] = None,
) -> Response:
    thread = uuid_of(thread_id, "thread")
    await with_.threads.standing(who, thread)
    rows = await with_.runs.page(who, thread, status=status, limit=limit, offset=offset)
    return Json([run_view(row, select) for row in rows])


@router.get("/{run_id}", summary="Get a run", **docs(answers=Run, refuses=(404,)))
async def get(thread_id: str, run_id: str, with_: With, who: MayRead) -> Response:
    run = _run(thread_id, run_id)
    return Json(run_view(await with_.runs.get(who, run.thread_id, run.run_id)))


@router.delete(
    "/{run_id}",
    status_code=204,
    summary="Delete a run's record, cancelling it first if it is active",
    **docs(status=204, refuses=(404, 409)),
)
async def delete(thread_id: str, run_id: str, with_: With, who: MayDelete) -> Response:
    run = _run(thread_id, run_id)
    row = await with_.runs.get(who, run.thread_id, run.run_id)
    if row["status"] in ACTIVE:
        await following.cancel(with_, who, run, "interrupt")
        await following.result(with_, who, run)
    await with_.runs.delete(who, run.thread_id, run.run_id)
    return Response(status_code=204)


@router.get("/{run_id}/join", summary="Wait for a run's result", **JOINS)
async def join(
    thread_id: str, run_id: str, with_: With, who: MayRead, cancel_on_disconnect: CancelOnDisconnect = "false"
) -> Response:
    cancels = cancel_wanted(who, cancel_on_disconnect)
    run = await _existing(with_, who, thread_id, run_id)
    return following.wait(with_, who, run, cancel_on_disconnect=cancels)


@router.get("/{run_id}/stream", summary="Follow a run's events, from Last-Event-ID on or live", **FOLLOWS)
async def join_stream(
    thread_id: str,
    run_id: str,
    request: Request,
    with_: With,
    who: MayRead,
    stream_mode: StreamMode = None,
    cancel_on_disconnect: CancelOnDisconnect = "false",
) -> Response:
    cancels = cancel_wanted(who, cancel_on_disconnect)
    run = await _existing(with_, who, thread_id, run_id)
    return following.stream(
        with_,
        who,
        run,
        after=last_event_id(request),
        modes=following.join_modes(stream_mode or []),
        cancel_on_disconnect=cancels,
    )


@router.post(
    "/{run_id}/cancel",
    summary="Cancel a run: keep its checkpoints (interrupt) or drop them (rollback)",
    **docs(
        answers=Nothing,
        means="With `wait`: the run has stopped.",
        or_nothing=202,
        headers=("location",),
        refuses=(404, 501),
    ),
)
async def cancel(
    thread_id: str, run_id: str, with_: With, who: MayCancel, wait: Wait = "0", action: Action = "interrupt"
) -> Response:
    run = _run(thread_id, run_id)
    await following.cancel(with_, who, run, cancel_action(action))
    if wait.lower() in TRUE:
        return following.stopped(with_, who, run)
    return Response(status_code=202)


def cancel_action(asked: str) -> CancelAction:
    """What `action` means: anything but `rollback` is `interrupt`, as on the official server."""
    return "rollback" if asked == "rollback" else "interrupt"


def cancel_wanted(who: Caller, asked: str) -> bool:
    """Whether the run is to be cancelled when its follower goes away.

    Raises:
        Forbidden: they may follow it, and not cancel it.
    """
    if asked.lower() not in TRUE:
        return False
    demand(who, (Scope.RUN,))
    return True


def last_event_id(request: Request) -> int | None:
    """Where a reconnecting client left off.

    Raises:
        Invalid: not an id that we gave out.
    """
    try:
        return sse.parse_last_event_id(request.headers.get("last-event-id"))
    except ValueError as error:
        raise Invalid(str(error)) from None


def _run(thread_id: str, run_id: str) -> Started:
    return Started(run_id=uuid_of(run_id, "run"), thread_id=uuid_of(thread_id, "thread"))


async def _existing(with_: Services, who: Caller, thread_id: str, run_id: str) -> Started:
    run = _run(thread_id, run_id)
    await with_.runs.get(who, run.thread_id, run.run_id)
    return run
