"""Threads and their states."""

from __future__ import annotations

from typing import Annotated

import uuid_utils.compat as uuids
from fastapi import APIRouter, Query, Request, Response

from holdfast.api.deps import With, body_docs, may, read, uuid_of
from holdfast.api.idempotency import once_docs, replayed, request_key
from holdfast.api.responses import Json
from holdfast.db.threads import ThreadFilter
from holdfast.rules.caller import Caller
from holdfast.wire.pages import page_headers
from holdfast.wire.threads import (
    HistorySearch,
    StateAt,
    StateUpdate,
    ThreadCreate,
    ThreadPatch,
    ThreadSearch,
    ThreadTerms,
    before_checkpoint,
    searchable,
    thread_view,
)

router = APIRouter(prefix="/threads", tags=["Threads"])

MayCreate = Annotated[Caller, may("threads", "create")]
MayRead = Annotated[Caller, may("threads", "read")]
MayUpdate = Annotated[Caller, may("threads", "update")]
MayDelete = Annotated[Caller, may("threads", "delete")]
MaySearch = Annotated[Caller, may("threads", "search")]


@router.post("", openapi_extra=once_docs(ThreadCreate), summary="Create a thread")
async def create(request: Request, with_: With, who: MayCreate) -> Response:
    body = await read(request, ThreadCreate)
    searchable(body.metadata, "metadata")
    thread_id = body.thread_id or uuids.uuid7()
    key, or_keep = request_key(request, body), body.if_exists == "do_nothing"
    if before := await with_.threads.create(who, thread_id, body.metadata, or_keep=or_keep, key=key):
        [thread_id] = before.thread_ids
    return Json(thread_view(await with_.threads.get(who, thread_id)), headers=replayed(before is not None))


@router.post("/search", openapi_extra=body_docs(ThreadSearch), summary="Search threads")
async def search(request: Request, with_: With, who: MaySearch) -> Response:
    body = await read(request, ThreadSearch)
    rows = await with_.threads.search(
        who,
        _filter(body),
        limit=body.limit + 1,
        offset=body.offset,
        sort_by=body.sort_by,
        descending=body.sort_order == "desc",
    )
    shown = [thread_view(row) for row in rows[: body.limit]]
    headers = page_headers(body.offset, len(shown), more=len(rows) > body.limit)
    return Json(b"[" + b",".join(shown) + b"]", headers=headers)


@router.post("/count", openapi_extra=body_docs(ThreadTerms), summary="Count threads")
async def count(request: Request, with_: With, who: MaySearch) -> Response:
    return Json(await with_.threads.count(who, _filter(await read(request, ThreadTerms))))


@router.get("/{thread_id}", summary="Get a thread")
async def get(thread_id: str, with_: With, who: MayRead) -> Response:
    return Json(thread_view(await with_.threads.get(who, uuid_of(thread_id, "thread"))))


@router.patch("/{thread_id}", openapi_extra=body_docs(ThreadPatch), summary="Merge metadata into a thread's")
async def patch(thread_id: str, request: Request, with_: With, who: MayUpdate) -> Response:
    body = await read(request, ThreadPatch)
    searchable(body.metadata, "metadata")
    wanted = uuid_of(thread_id, "thread")
    await with_.threads.patch(who, wanted, body.metadata)
    if request.headers.get("prefer") == "return=minimal":
        return Response(status_code=204)
    return Json(thread_view(await with_.threads.get(who, wanted)))


@router.delete("/{thread_id}", status_code=204, summary="Delete a thread, its runs and its checkpoints")
async def delete(thread_id: str, with_: With, who: MayDelete) -> Response:
    wanted = uuid_of(thread_id, "thread")
    for run in await with_.runs.delete_thread(who, wanted):
        with_.bell.ring("cancel", run)
    with_.dispatcher.look_for_cancels()
    return Response(status_code=204)


@router.get("/{thread_id}/state", summary="The latest state")
async def state(thread_id: str, with_: With, who: MayRead, subgraphs: bool = False) -> Response:
    return Json(await with_.states.get(who, uuid_of(thread_id, "thread"), subgraphs=subgraphs))


@router.post("/{thread_id}/state", openapi_extra=body_docs(StateUpdate), summary="Update the state")
async def update_state(thread_id: str, request: Request, with_: With, who: MayUpdate) -> Response:
    body = await read(request, StateUpdate)
    checkpoint = await with_.states.update(
        who, uuid_of(thread_id, "thread"), body.values, as_node=body.as_node, checkpoint=body.start
    )
    return Json(
        {"checkpoint": checkpoint, "configurable": checkpoint, "checkpoint_id": checkpoint.get("checkpoint_id")}
    )


@router.post("/{thread_id}/state/checkpoint", openapi_extra=body_docs(StateAt), summary="The state at a checkpoint")
async def state_at(thread_id: str, request: Request, with_: With, who: MayRead) -> Response:
    body = await read(request, StateAt)
    checkpoint = body.checkpoint.model_dump(exclude_none=True)
    return Json(await with_.states.get(who, uuid_of(thread_id, "thread"), checkpoint, subgraphs=body.subgraphs))


@router.get("/{thread_id}/state/{checkpoint_id}", summary="The state at a checkpoint id")
async def state_of(thread_id: str, checkpoint_id: str, with_: With, who: MayRead, subgraphs: bool = False) -> Response:
    checkpoint = {"checkpoint_id": checkpoint_id}
    return Json(await with_.states.get(who, uuid_of(thread_id, "thread"), checkpoint, subgraphs=subgraphs))


@router.get("/{thread_id}/history", summary="Past states, newest first")
async def history(
    thread_id: str,
    with_: With,
    who: MayRead,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1,
    before: str | None = None,
) -> Response:
    return Json(await with_.states.history(who, uuid_of(thread_id, "thread"), limit=limit, before=before))


@router.post("/{thread_id}/history", openapi_extra=body_docs(HistorySearch), summary="Search past states")
async def search_history(thread_id: str, request: Request, with_: With, who: MayRead) -> Response:
    body = await read(request, HistorySearch)
    checkpoint = body.checkpoint.model_dump(exclude_none=True) if body.checkpoint else None
    states = await with_.states.history(
        who,
        uuid_of(thread_id, "thread"),
        limit=body.limit,
        before=before_checkpoint(body.before),
        metadata=body.metadata,
        checkpoint=checkpoint,
    )
    return Json(states)


def _filter(terms: ThreadTerms) -> ThreadFilter:
    searchable(terms.metadata, "metadata")
    searchable(terms.values, "values")
    return ThreadFilter(ids=terms.ids, status=terms.status, metadata=terms.metadata, values=terms.values)
