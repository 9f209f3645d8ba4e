"""Threads; their states are in `api/states.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from uuid import UUID

import uuid_utils.compat as uuids
from fastapi import APIRouter, Query, Request, Response

from holdfast.api.deps import With, may, read, uuid_of
from holdfast.api.documents import PAGED, docs
from holdfast.api.idempotency import replayed, request_key
from holdfast.api.responses import Json
from holdfast.api.starting import check_state_writer
from holdfast.db.threadsearch import Page, ThreadFilter
from holdfast.rules.caller import Caller
from holdfast.wire.healing import ThreadRepair, ThreadRepaired
from holdfast.wire.pages import page_headers
from holdfast.wire.threads import (
    Pruned,
    Thread,
    ThreadCreate,
    ThreadPatch,
    ThreadPrune,
    ThreadSearch,
    ThreadStorage,
    ThreadTerms,
    paths,
    searchable,
    storage_view,
    thread_view,
)

router = APIRouter(prefix="/threads", tags=["Threads"])

MayCreate = Annotated[Caller, may("threads", "create")]
MayRead = Annotated[Caller, may("threads", "read")]
MayUpdate = Annotated[Caller, may("threads", "update")]
MayDelete = Annotated[Caller, may("threads", "delete")]
MaySearch = Annotated[Caller, may("threads", "search")]


@router.post(
    "", summary="Create a thread", **docs(takes=ThreadCreate, answers=Thread, refuses=(400, 404, 409, 501), once=True)
)
async def create(request: Request, with_: With, who: MayCreate) -> Response:
    body = await read(request, ThreadCreate)
    searchable(body.metadata, "metadata")
    thread_id = body.thread_id or uuids.uuid7()
    key, or_keep = request_key(request, body), body.if_exists == "do_nothing"
    ttl = body.ttl.value if body.ttl else None
    if body.supersteps:
        check_state_writer(with_, who, body.metadata.get("graph_id"))
        before = await with_.keys.find(who, key) if key else None
        before = before or await with_.states.create(
            who, thread_id, body.metadata, body.updates, or_keep=or_keep, ttl=ttl, key=key
        )
    else:
        before = await with_.threads.create(who, thread_id, body.metadata, or_keep=or_keep, ttl=ttl, key=key)
    if before is not None:
        [thread_id] = before.thread_ids
    return await _shown(with_, who, thread_id, headers=replayed(before is not None))


@router.post(
    "/search",
    summary="Search threads",
    **docs(takes=ThreadSearch, answers=list[Thread], headers=PAGED, partly=True),
)
async def search(request: Request, with_: With, who: MaySearch) -> Response:
    body = await read(request, ThreadSearch)
    extract = body.extract or {}
    searchable(extract, "extract")
    page = Page(
        limit=body.limit + 1,
        offset=body.offset,
        sort_by=body.sort_by,
        descending=body.sort_order == "desc",
        with_values=not body.select or "values" in body.select,
        extract=paths(extract),
    )
    rows = await with_.threads.search(who, _filter(body), page)
    shown = [thread_view(row, select=body.select) for row in rows[: body.limit]]
    headers = page_headers(body.offset, len(shown), more=len(rows) > body.limit)
    return Json(b"[" + b",".join(shown) + b"]", headers=headers)


@router.post("/count", summary="Count threads", **docs(takes=ThreadTerms, answers=int))
async def count(request: Request, with_: With, who: MaySearch) -> Response:
    return Json(await with_.threads.count(who, _filter(await read(request, ThreadTerms))))


@router.post(
    "/prune",
    summary="Delete threads, or all but their latest state",
    **docs(takes=ThreadPrune, answers=Pruned, refuses=(409, 501)),
)
async def prune(request: Request, with_: With, who: MayDelete) -> Response:
    body = await read(request, ThreadPrune)
    interrupted = body.include_interrupted
    if body.dry_run:
        count, freed = await with_.pruner.estimate(who, body.thread_ids, body.strategy, interrupted=interrupted)
        return Json({"pruned_count": count, "bytes": freed})
    pruned = await with_.pruner.prune(who, body.thread_ids, body.strategy, interrupted=interrupted)
    return Json({"pruned_count": len(pruned)})


@router.get("/{thread_id}", summary="Get a thread", **docs(answers=Thread, refuses=(404,)))
async def get(
    thread_id: str,
    with_: With,
    who: MayRead,
    include: Annotated[list[str] | None, Query(description="`ttl`: show the time to live")] = None,
) -> Response:
    asked = {name for entry in include or () for name in entry.split(",")}
    row = await with_.threads.get(who, uuid_of(thread_id, "thread"))
    return Json(thread_view(row, with_ttl="ttl" in asked))


@router.patch(
    "/{thread_id}",
    summary="Merge metadata, set a time to live",
    **docs(takes=ThreadPatch, answers=Thread, or_nothing=204, refuses=(404, 501), sends=("Prefer",)),
)
async def patch(thread_id: str, request: Request, with_: With, who: MayUpdate) -> Response:
    body = await read(request, ThreadPatch)
    searchable(body.metadata, "metadata")
    wanted = uuid_of(thread_id, "thread")
    await with_.threads.patch(who, wanted, body.metadata, ttl=body.ttl.value if body.ttl else None)
    if request.headers.get("prefer") == "return=minimal":
        return Response(status_code=204)
    return await _shown(with_, who, wanted)


@router.delete(
    "/{thread_id}",
    status_code=204,
    summary="Delete a thread, its runs and its checkpoints",
    **docs(status=204, refuses=(404,)),
)
async def delete(thread_id: str, with_: With, who: MayDelete) -> Response:
    wanted = uuid_of(thread_id, "thread")
    for run in await with_.runs.delete_thread(who, wanted):
        with_.bell.ring("cancel", run)
    with_.dispatcher.look_for_cancels()
    with_.events.grown(wanted)
    return Response(status_code=204)


@router.post(
    "/{thread_id}/copy", summary="Copy a thread with its states", **docs(answers=Thread, refuses=(400, 404, 409))
)
async def copy(thread_id: str, with_: With, maker: MayCreate, who: MayRead) -> Response:
    copy_id = await with_.states.copy(who, uuid_of(thread_id, "thread"))
    return await _shown(with_, maker, copy_id)


@router.post(
    "/{thread_id}/repair",
    summary="Find and mend what is wrong with a thread",
    **docs(takes=ThreadRepair, answers=ThreadRepaired, refuses=(404, 409)),
)
async def repair(thread_id: str, request: Request, with_: With, who: MayUpdate) -> Response:
    body = await read(request, ThreadRepair)
    wanted = uuid_of(thread_id, "thread")
    outcome = await with_.checkup.repair(who, wanted, dry_run=body.dry_run)
    if outcome["repaired"]:
        with_.events.grown(wanted)
        with_.dispatcher.wake()
    return Json(outcome)


@router.get("/{thread_id}/storage", summary="What a thread takes up", **docs(answers=ThreadStorage, refuses=(404, 501)))
async def storage(thread_id: str, with_: With, who: MayRead) -> Response:
    wanted = uuid_of(thread_id, "thread")
    await with_.threads.standing(who, wanted)
    return Json(storage_view(wanted, await with_.copies.storage(wanted)))


async def _shown(with_: With, who: Caller, thread_id: UUID, *, headers: Mapping[str, str] | None = None) -> Response:
    row = await with_.threads.get(who, thread_id)
    return Json(thread_view(row, with_ttl=row["ttl_strategy"] is not None), headers=headers)


def _filter(terms: ThreadTerms) -> ThreadFilter:
    searchable(terms.metadata, "metadata")
    searchable(terms.values, "values")
    return ThreadFilter(ids=terms.ids, status=terms.status, metadata=terms.metadata, values=terms.values)
