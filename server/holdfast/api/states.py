"""The states of threads: the latest, past ones, and updates."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from holdfast.api.auth import demand
from holdfast.api.deps import With, may, read, uuid_of
from holdfast.api.documents import docs
from holdfast.api.responses import Json
from holdfast.api.starting import check_state_writer
from holdfast.rules.caller import Caller
from holdfast.rules.scope import Scope
from holdfast.wire.state import ThreadState
from holdfast.wire.states import (
    HistorySearch,
    StateAt,
    StateUpdate,
    StateUpdated,
    before_checkpoint,
    selected,
    selection,
)

router = APIRouter(prefix="/threads", tags=["Threads"])

MayRead = Annotated[Caller, may("threads", "read")]
MayUpdate = Annotated[Caller, may("threads", "update")]
Select = Annotated[
    list[str] | None, Query(description="Fields to show, comma lists too; `values.<key>` is one key of the values")
]
Subgraphs = Annotated[bool, Query(description="Show the states of subgraphs with their tasks")]

STATE = docs(answers=ThreadState, refuses=(400, 404, 409), partly=True)


@router.get("/{thread_id}/state", summary="The latest state", **STATE)
async def state(
    thread_id: str, with_: With, who: MayRead, subgraphs: Subgraphs = False, select: Select = None
) -> Response:
    names = selection(select)
    return Json(selected(await with_.states.get(who, uuid_of(thread_id, "thread"), subgraphs=subgraphs), names))


@router.post(
    "/{thread_id}/state",
    summary="Update the state",
    **docs(takes=StateUpdate, answers=StateUpdated, refuses=(400, 404, 409)),
)
async def update_state(thread_id: str, request: Request, with_: With, who: MayUpdate) -> Response:
    body = await read(request, StateUpdate)
    wanted = uuid_of(thread_id, "thread")
    if with_.policies.choosy or Scope.APPROVE not in who.scopes:
        standing = await with_.threads.standing(who, wanted)
        check_state_writer(with_, who, standing["metadata"].get("graph_id"))
        if standing["interrupts"]:
            # A state can say that a question was answered.
            demand(who, (Scope.APPROVE,))
    checkpoint = await with_.states.update(who, wanted, body.values, as_node=body.as_node, checkpoint=body.start)
    with_.events.grown(wanted)
    # Input that waited for an answer may go on.
    with_.dispatcher.wake()
    with_.bell.ring("run")
    return Json(
        {"checkpoint": checkpoint, "configurable": checkpoint, "checkpoint_id": checkpoint.get("checkpoint_id")}
    )


@router.post(
    "/{thread_id}/state/checkpoint",
    summary="The state at a checkpoint",
    **docs(takes=StateAt, answers=ThreadState, refuses=(400, 404, 409), partly=True),
)
async def state_at(thread_id: str, request: Request, with_: With, who: MayRead) -> Response:
    body = await read(request, StateAt)
    names = selection(body.select)
    checkpoint = body.checkpoint.model_dump(exclude_none=True)
    state = await with_.states.get(who, uuid_of(thread_id, "thread"), checkpoint, subgraphs=body.subgraphs)
    return Json(selected(state, names))


@router.get("/{thread_id}/state/{checkpoint_id}", summary="The state at a checkpoint id", **STATE)
async def state_of(
    thread_id: str, checkpoint_id: str, with_: With, who: MayRead, subgraphs: Subgraphs = False, select: Select = None
) -> Response:
    names = selection(select)
    checkpoint = {"checkpoint_id": checkpoint_id}
    state = await with_.states.get(who, uuid_of(thread_id, "thread"), checkpoint, subgraphs=subgraphs)
    return Json(selected(state, names))


@router.get(
    "/{thread_id}/history",
    summary="Past states, newest first",
    **docs(answers=list[ThreadState], refuses=(400, 404, 409), partly=True),
)
async def history(
    thread_id: str,
    with_: With,
    who: MayRead,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1,
    before: Annotated[str | None, Query(description="A checkpoint's id: only states before it")] = None,
    select: Select = None,
) -> Response:
    names = selection(select)
    states = await with_.states.history(who, uuid_of(thread_id, "thread"), limit=limit, before=before)
    return Json([selected(state, names) for state in states])


@router.post(
    "/{thread_id}/history",
    summary="Search past states",
    **docs(takes=HistorySearch, answers=list[ThreadState], refuses=(400, 404, 409), partly=True),
)
async def search_history(thread_id: str, request: Request, with_: With, who: MayRead) -> Response:
    body = await read(request, HistorySearch)
    names = selection(body.select)
    checkpoint = body.checkpoint.model_dump(exclude_none=True) if body.checkpoint else None
    states = await with_.states.history(
        who,
        uuid_of(thread_id, "thread"),
        limit=body.limit,
        before=before_checkpoint(body.before),
        metadata=body.metadata,
        checkpoint=checkpoint,
    )
    return Json([selected(state, names) for state in states])
