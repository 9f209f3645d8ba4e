"""Runs without a thread of the caller's: each gets one of its own, which goes when the run is over (unless kept)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from holdfast.api import following
from holdfast.api.deps import Services, With, body_docs, read, uuid_of
from holdfast.api.runs import TRUE, MayRead, MayRun, last_event_id
from holdfast.api.starting import Started, origin, start
from holdfast.db import runs
from holdfast.rules.caller import Caller
from holdfast.wire.runs import RunCreate

router = APIRouter(prefix="/runs", tags=["Stateless Runs"])


@router.post("/stream", openapi_extra=body_docs(RunCreate), summary="Start a stateless run and follow its events")
async def stream(request: Request, with_: With, who: MayRun) -> Response:
    body = await read(request, RunCreate)
    run = await start(with_, who, body, thread_id=None, followed=True, origin=origin(request))
    return following.stream(with_, who, run, cancel_on_disconnect=body.on_disconnect == "cancel", stateless=True)


@router.post("/wait", openapi_extra=body_docs(RunCreate), summary="Start a stateless run and wait for its result")
async def wait(request: Request, with_: With, who: MayRun) -> Response:
    body = await read(request, RunCreate)
    run = await start(with_, who, body, thread_id=None, followed=False, origin=origin(request))
    return following.wait(with_, who, run, cancel_on_disconnect=body.on_disconnect == "cancel")


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
    wanted = uuid_of(run_id, "run")
    row = await with_.runs.find(who, wanted)
    if row is None:
        raise runs.missing(wanted)
    return Started(run_id=wanted, thread_id=row["thread_id"])
