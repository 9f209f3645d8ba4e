"""Crons: runs that are started by the clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import uuid_utils.compat as uuids
from fastapi import APIRouter, Request, Response

from holdfast.api.assistants import resolve
from holdfast.api.deps import Services, With, may, read, uuid_of
from holdfast.api.documents import PAGED, docs
from holdfast.api.responses import Json
from holdfast.api.starting import Origin, check, start
from holdfast.db.crons import CronFilter, DueCron, Firing, NewCron
from holdfast.errors import BadRequest
from holdfast.rules.caller import Caller
from holdfast.rules.schedule import Schedule
from holdfast.wire import codec
from holdfast.wire.crons import (
    OF_THE_CRON,
    Cron,
    CronCreate,
    CronPatch,
    CronSearch,
    CronTerms,
    cron_view,
    marked,
    payload_of,
    run_body,
)
from holdfast.wire.pages import page_headers
from holdfast.wire.threads import searchable

router = APIRouter(tags=["Crons"])

MayCreate = Annotated[Caller, may("crons", "create")]
MayRead = Annotated[Caller, may("crons", "read")]
MayUpdate = Annotated[Caller, may("crons", "update")]
MayDelete = Annotated[Caller, may("crons", "delete")]
MaySearch = Annotated[Caller, may("crons", "search")]

CREATES = docs(takes=CronCreate, answers=Cron, refuses=(400, 404))


@router.post("/runs/crons", summary="Start a stateless run whenever a schedule says so", **CREATES)
async def create(request: Request, with_: With, who: MayCreate) -> Response:
    return await _created(with_, who, await read(request, CronCreate), None)


@router.post(
    "/threads/{thread_id}/runs/crons", summary="Start a run on a thread whenever a schedule says so", **CREATES
)
async def create_for_thread(thread_id: str, request: Request, with_: With, who: MayCreate) -> Response:
    return await _created(with_, who, await read(request, CronCreate), uuid_of(thread_id, "thread"))


@router.post(
    "/runs/crons/search",
    summary="Search crons",
    **docs(takes=CronSearch, answers=list[Cron], headers=PAGED, partly=True),
)
async def search(request: Request, with_: With, who: MaySearch) -> Response:
    body = await read(request, CronSearch)
    rows = await with_.crons.search(
        who,
        _filter(with_, body),
        limit=body.limit + 1,
        offset=body.offset,
        sort_by=body.sort_by,
        descending=body.sort_order == "desc",
    )
    shown = [cron_view(row, body.select) for row in rows[: body.limit]]
    return Json(shown, headers=page_headers(body.offset, len(shown), more=len(rows) > body.limit))


@router.post("/runs/crons/count", summary="Count crons", **docs(takes=CronTerms, answers=int))
async def count(request: Request, with_: With, who: MaySearch) -> Response:
    return Json(await with_.crons.count(who, _filter(with_, await read(request, CronTerms))))


@router.get("/runs/crons/{cron_id}", summary="Get a cron", **docs(answers=Cron, refuses=(404,)))
async def get(cron_id: str, with_: With, who: MayRead) -> Response:
    return Json(cron_view(await with_.crons.get(who, uuid_of(cron_id, "cron"))))


@router.patch(
    "/runs/crons/{cron_id}",
    summary="Change a cron",
    **docs(takes=CronPatch, answers=Cron, refuses=(400, 404)),
)
async def patch(cron_id: str, request: Request, with_: With, who: MayUpdate) -> Response:
    body = await read(request, CronPatch)
    wanted = uuid_of(cron_id, "cron")
    if not body.model_fields_set:
        raise BadRequest("Request body cannot be empty")
    searchable(body.metadata, "metadata")
    row = await with_.crons.get(who, wanted)
    payload = {**codec.loads(row["payload"]), **body.changes()}
    await check(with_, who, run_body(payload, row["assistant_id"], row["on_run_completed"]))
    await with_.crons.update(who, wanted, lambda row: _changed(row, body))
    return Json(cron_view(await with_.crons.get(who, wanted)))


@router.delete(
    "/runs/crons/{cron_id}",
    status_code=204,
    summary="Delete a cron; runs that it started go on",
    **docs(status=204, refuses=(404,)),
)
async def delete(cron_id: str, with_: With, who: MayDelete) -> Response:
    await with_.crons.delete(who, uuid_of(cron_id, "cron"))
    return Response(status_code=204)


async def fire(with_: Services, cron: DueCron, schedule: Schedule) -> None:
    """Start the run that a cron is due for, and move the cron on, in one transaction.

    Raises:
        Conflict: somebody else did, or the thread is busy (`reject`).
        Refusal: the run cannot be started.
    """
    body = run_body(codec.loads(cron.payload), cron.assistant_id, cron.on_run_completed)
    firing = Firing(cron.cron_id, cron.due, schedule.next_after(cron.now))
    origin = Origin(str(uuids.uuid7()), firing=firing)
    await start(with_, cron.caller, body, thread_id=cron.thread_id, followed=True, origin=origin)


async def _created(with_: Services, who: Caller, body: CronCreate, thread_id: UUID | None) -> Response:
    searchable(body.metadata, "metadata")
    if body.resumes:
        raise BadRequest("A cron cannot resume: it is not known yet what will be asked.")
    schedule = Schedule(body.schedule, body.timezone, body.end_time)
    assistant_id = await check(with_, who, body)
    cron_id = uuids.uuid7()
    new = NewCron(
        cron_id=cron_id,
        assistant_id=assistant_id,
        thread_id=thread_id,
        schedule=body.schedule,
        timezone=body.timezone,
        end_time=body.end_time,
        enabled=body.enabled,
        on_run_completed=None if thread_id else body.on_run_completed or "delete",
        metadata=body.metadata,
        payload=codec.dumps_exact(payload_of(body, cron_id)),
        due=schedule.next_after(await with_.crons.now()) if body.enabled else None,
    )
    await with_.crons.create(who, new)
    return Json(cron_view(await with_.crons.get(who, cron_id)))


def _changed(row: Mapping[str, Any], body: CronPatch) -> dict[str, Any]:
    """The columns of a cron after a patch. When it is due next is asked anew only if the patch is about that."""
    asked = body.changes()
    when = {key: getattr(body, key) for key in OF_THE_CRON & asked.keys()}
    if row["thread_id"] is not None:
        when.pop("on_run_completed", None)
    metadata = {**row["metadata"], **asked.get("metadata", {})}
    payload = marked({**codec.loads(row["payload"]), **asked, "metadata": metadata}, row["cron_id"])
    after = {**row, **when}
    schedule = Schedule(after["schedule"], after["timezone"], after["end_time"])
    if when.keys() - {"on_run_completed"}:
        when["next_run_date"] = schedule.next_after(row["now"]) if after["enabled"] else None
    return {**when, "metadata": metadata, "payload": codec.dumps_exact(payload)}


def _filter(with_: Services, terms: CronTerms) -> CronFilter:
    searchable(terms.metadata, "metadata")
    return CronFilter(
        assistant_id=resolve(with_, terms.assistant_id) if terms.assistant_id is not None else None,
        thread_id=terms.thread_id,
        enabled=terms.enabled,
        metadata=terms.metadata,
    )
