"""Runs without a thread of the caller's: each gets one of its own, which goes when the run is over (unless kept)."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from holdfast.api import following
from holdfast.api.cancelling import tell
from holdfast.api.deps import Services, With, read, uuid_of
from holdfast.api.documents import docs
from holdfast.api.idempotency import replayed
from holdfast.api.responses import Json
from holdfast.api.runs import (
    FOLLOWS,
    JOINS,
    STARTS,
    STREAMS,
    WAITS,
    Action,
    CancelOnDisconnect,
    MayCancel,
    MayRead,
    MayRun,
    StreamMode,
    cancel_action,
    cancel_wanted,
    last_event_id,
)
from holdfast.api.starting import Started, origin, start, start_all
from holdfast.rules.caller import Caller
from holdfast.wire.runs import CancelMany, Run, RunBatch, RunCreate, run_view

router = APIRouter(prefix="/runs", tags=["Stateless Runs"])


@router.post("", summary="Start a stateless run in the background", **STARTS)
async def create(request: Request, with_: With, who: MayRun) -> Response:
    body = await read(request, RunCreate)
    run = await start(with_, who, body, thread_id=None, followed=True, origin=origin(request))
    row = await with_.runs.get(who, run.thread_id, run.run_id)
    where = following.content_location(run, stateless=True)
    return Json(run_view(row), headers={**where, **replayed(run.repeated)})


@router.post(
    "/batch",
    summary="Start stateless runs in the background, all or none",
    **docs(takes=RunBatch, answers=list[Run], refuses=(400, 404, 409, 501), once=True),
)
async def create_batch(request: Request, with_: With, who: MayRun) -> Response:
    bodies = await read(request, RunBatch)
    runs = await start_all(with_, who, bodies.root, origin=origin(request))
    rows = await with_.runs.get_all(who, [run.run_id for run in runs])
    return Json([run_view(row) for row in rows], headers=replayed(runs[0].repeated))


@router.post(
    "/cancel",
    status_code=204,
    summary="Cancel all runs in a status, or some runs",
    **docs(takes=CancelMany, status=204, refuses=(404, 501)),
)
async def cancel_many(request: Request, with_: With, who: MayCancel, action: Action = "interrupt") -> Response:
    body = await read(request, CancelMany)
    if body.thread_id is not None:
        cancelled = await with_.runs.cancel_these(who, body.thread_id, body.run_ids or [], cancel_action(action))
    else:
        cancelled = await with_.runs.cancel_everywhere(who, body.statuses, cancel_action(action))
    tell(with_, cancelled)
    return Response(status_code=204)


@router.post("/stream", summary="Start a stateless run and follow its events", **STREAMS)
async def stream(request: Request, with_: With, who: MayRun) -> Response:
    body = await read(request, RunCreate)
    run = await start(with_, who, body, thread_id=None, followed=True, origin=origin(request))
    return following.stream(with_, who, run, cancel_on_disconnect=body.on_disconnect == "cancel", stateless=True)


@router.post("/wait", summary="Start a stateless run and wait for its result", **WAITS)
async def wait(request: Request, with_: With, who: MayRun) -> Response:
    body = await read(request, RunCreate)
    run = await start(with_, who, body, thread_id=None, followed=False, origin=origin(request))
    return following.wait(with_, who, run, cancel_on_disconnect=body.on_disconnect == "cancel")


@router.get("/{run_id}", summary="Get a run by its id alone", **docs(answers=Run, refuses=(404,)))
async def get(run_id: str, with_: With, who: MayRead) -> Response:
    [row] = await with_.runs.get_all(who, [uuid_of(run_id, "run")])
    return Json(run_view(row))


@router.get("/{run_id}/join", summary="Wait for a stateless run's result", **JOINS)
async def join(run_id: str, with_: With, who: MayRead, cancel_on_disconnect: CancelOnDisconnect = "false") -> Response:
    cancels = cancel_wanted(who, cancel_on_disconnect)
    run = await _existing(with_, who, run_id)
    return following.wait(with_, who, run, cancel_on_disconnect=cancels)


@router.get("/{run_id}/stream", summary="Follow a stateless run's events, from Last-Event-ID on or live", **FOLLOWS)
async def join_stream(
    run_id: str,
    request: Request,
    with_: With,
    who: MayRead,
    stream_mode: StreamMode = None,
    cancel_on_disconnect: CancelOnDisconnect = "false",
) -> Response:
    cancels = cancel_wanted(who, cancel_on_disconnect)
    run = await _existing(with_, who, run_id)
    return following.stream(
        with_,
        who,
        run,
        after=last_event_id(request),
        modes=following.join_modes(stream_mode or []),
        cancel_on_disconnect=cancels,
        stateless=True,
    )


async def _existing(with_: Services, who: Caller, run_id: str) -> Started:
    [row] = await with_.runs.get_all(who, [uuid_of(run_id, "run")])
    return Started(row["run_id"], row["thread_id"])
