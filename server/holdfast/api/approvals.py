"""Approvals: the questions that graphs asked, and what became of them. These operations are Holdfast's own.

They show what happened on threads, so whoever may search, or read, threads may search, or read, these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import uuid_utils.compat as uuids
from fastapi import APIRouter, Query, Request, Response

from holdfast.api.assistants import resolve
from holdfast.api.deps import Services, With, may, read, uuid_of
from holdfast.api.documents import PAGED, docs
from holdfast.api.responses import Json
from holdfast.api.starting import Origin, start
from holdfast.db.approvals import ApprovalFilter
from holdfast.rules.caller import Caller, User
from holdfast.rules.scope import Scope
from holdfast.wire import codec
from holdfast.wire.approvals import MOST_OFFSET, Approval, ApprovalSearch, approval_view
from holdfast.wire.merging import settings_of
from holdfast.wire.pages import page_headers
from holdfast.wire.runs import CommandBody, ConfigBody, RunCreate

router = APIRouter(tags=["Approvals"])

_SEEING = (Scope.READ, Scope.APPROVE)
MaySearch = Annotated[Caller, may("threads", "search", scopes=_SEEING)]
MayRead = Annotated[Caller, may("threads", "read", scopes=_SEEING)]


@router.post(
    "/approvals/search",
    summary="Search the questions that graphs asked, newest first",
    **docs(takes=ApprovalSearch, answers=list[Approval], headers=PAGED),
)
async def search(request: Request, with_: With, who: MaySearch) -> Response:
    body = await read(request, ApprovalSearch)
    terms = ApprovalFilter(
        states=body.state,
        thread_id=body.thread_id,
        graph_id=body.graph_id,
        assistant_id=resolve(with_, body.assistant_id) if body.assistant_id is not None else None,
        asked_after=body.asked_after,
        asked_before=body.asked_before,
        due_before=body.due_before,
    )
    return await _page(with_, who, terms, limit=body.limit, offset=body.offset)


@router.get(
    "/threads/{thread_id}/approvals",
    summary="The questions that were asked on a thread, newest first",
    **docs(answers=list[Approval], headers=PAGED, refuses=(404,)),
)
async def of_thread(
    thread_id: str,
    with_: With,
    who: MayRead,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
    offset: Annotated[int, Query(ge=0, le=MOST_OFFSET)] = 0,
) -> Response:
    wanted = uuid_of(thread_id, "thread")
    if not await with_.approvals.search(who, ApprovalFilter(thread_id=wanted), limit=1):
        # Approvals outlive their thread; without any, it has to be there.
        await with_.threads.standing(who, wanted)
    return await _page(with_, who, ApprovalFilter(thread_id=wanted), limit=limit, offset=offset)


async def expire(with_: Services, due: Mapping[str, Any]) -> None:
    """Answer a question that nobody answered in time, in its owner's name and with the settings of the run that asked.

    Raises:
        Conflict: somebody answered, or another process did this.
        Refusal: the run cannot be started.
    """
    asked = codec.loads(due["kwargs"]) if due["kwargs"] is not None else {}
    user = asked.get("user")
    who = Caller(due["owner"], user=None if user is None else User(user))
    config = asked.get("config") or {}
    body = RunCreate(
        assistant_id=str(due["assistant_id"]),
        command=CommandBody(resume={due["interrupt_id"]: codec.loads(due["due_answer"])}),
        config=ConfigBody(configurable=settings_of(config), recursion_limit=config.get("recursion_limit")),
        metadata={"approval_id": str(due["approval_id"])},
    )
    origin = Origin(str(uuids.uuid7()), expiring=due["approval_id"])
    await start(with_, who, body, thread_id=due["thread_id"], followed=True, origin=origin)


async def _page(with_: Services, who: Caller, terms: ApprovalFilter, *, limit: int, offset: int) -> Response:
    rows: list[Any] = await with_.approvals.search(who, terms, limit=limit + 1, offset=offset)
    shown = [approval_view(row) for row in rows[:limit]]
    return Json(shown, headers=page_headers(offset, len(shown), more=len(rows) > limit))
