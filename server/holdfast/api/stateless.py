"""Runs without a thread of the caller's: each gets one of its own, which goes when the run is over (unless kept)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from holdfast.api import following
from holdfast.api.cancelling import tell
from holdfast.api.deps import Services, With, body_docs, read, uuid_of
from holdfast.api.idempotency import once_docs, replayed
from holdfast.api.responses import Json
from holdfast.api.runs import TRUE, MayRead, MayRun, MayUpdate, cancel_action, last_event_id
from holdfast.api.starting import Started, origin, start, start_all
from holdfast.rules.caller import Caller
from holdfast.wire.runs import CancelMany, RunBatch, RunCreate, run_view

router = APIRouter(prefix="/runs", tags=["Stateless Runs"])


@router.post("", openapi_extra=once_docs(RunCreate), summary="Start a stateless run in the background")
async def create(request: Request, with_: With, who: MayRun) -> Response:
    body = await read(request, RunCreate)
    run = await start(with_, who, body, thread_id=None, followed=True, origin=origin(request))
    row = await with_.runs.get(who, run.thread_id, run.run_id)
    where = following.content_location(run, stateless=True)
    return Json(run_view(row), headers={**where, **replayed(run.repeated)})


@router.post("/batch", openapi_extra=once_docs(RunBatch), summary="Start stateless runs in the background, all or none")
async def create_batch(request: Request, with_: With, who: MayRun) -> Response:
    bodies = await read(request, RunBatch)
    runs = await start_all(with_, who, bodies.root, origin=origin(request))
    rows = await with_.runs.get_all(who, [run.run_id for run in runs])
    return Json([run_view(row) for row in rows], headers=replayed(runs[0].repeated))


@router.post(
    "/cancel", status_code=204, openapi_extra=body_docs(CancelMany), summary="Cancel all runs in a status, or some runs"
)
async def cancel_many(request: Request, with_: With, who: MayUpdate, action: str = "interrupt") -> Response:
    body = await read(request, CancelMany)
    if body.thread_id is not None:
        cancelled = await with_.runs.cancel_these(who, body.thread_id, body.run_ids or [], cancel_action(action))
    else:
        cancelled = await with_.runs.cancel_everywhere(who, body.statuses, cancel_action(action))
    tell(with_, cancelled)
    return Response(status_code=204)


@router.post("/stream", openapi_extra=once_docs(RunCreate), summary="Start a stateless run and follow its events")
async def stream(request: Request, with_: With, who: MayRun) -> Response:
    body = await read(request, RunCreate)
    run = await start(with_, who, body, thread_id=None, followed=True, origin=origin(request))
    return following.stream(with_, who, run, cancel_on_disconnect=body.on_disconnect == "cancel", stateless=True)


@router.post("/wait", openapi_extra=once_docs(RunCreate), summary="Start a stateless run and wait for its result")
async def wait(request: Request, with_: With, who: MayRun) -> Response:
    body = await read(request, RunCreate)
    run = await start(with_, who, body, thread_id=None, followed=False, origin=origin(request))
    return following.wait(with_, who, run, cancel_on_disconnect=body.on_disconnect == "cancel")


@router.get("/{run_id}", summary="Get a run by its id alone")
async def get(run_id: str, with_: With, who: MayRead) -> Response:
    [row] = await with_.runs.get_all(who, [uuid_of(run_id, "run")])
    return Json(run_view(row))


@router.get("/{run_id}/join", summary="Wait for a stateless run's result")
async def join(run_id: str, with_: With, who: MayRead, cancel_on_disconnect: str = "false") -> Response:
    run = await _existing(with_, who, run_id)
    return following.wait(with_, who, run, cancel_on_disconnect=cancel_on_disconnect.lower() in TRUE)


@router.get("/{run_id}/stream", summary="Follow a stateless run's events, from Last-Event-ID on or live")
async def join_stream(
    run_id: str,
    request: Request,
    with_: With,
    who: MayRead,
    stream_mode: Annotated[list[str] | None, Query()] = None,
    cancel_on_disconnect: str = "false",
) -> Response:
    run = await _existing(with_, who, run_id)
    return following.stream(
        with_,
        who,
        run,
        after=last_event_id(request),
        modes=following.join_modes(stream_mode or []),
        cancel_on_disconnect=cancel_on_disconnect.lower() in TRUE,
        stateless=True,
    )


async def _existing(with_: Services, who: Caller, run_id: str) -> Started:
    [row] = await with_.runs.get_all(who, [uuid_of(run_id, "run")])
    return Started(row["run_id"], row["thread_id"])
