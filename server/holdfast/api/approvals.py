"""Approvals: the questions that graphs asked, and what became of them. These operations are Holdfast's own.

They show what happened on threads, so whoever may search, or read, threads may search, or read, these. The scope
`approve:all` shows everybody's approvals, and lets them be answered, without showing anything else of their threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

import uuid_utils.compat as uuids
from fastapi import APIRouter, Depends, Query, Request, Response

from holdfast.api.assistants import resolve
from holdfast.api.auth import demand
from holdfast.api.deps import Services, With, may, read, uuid_of
from holdfast.api.documents import PAGED, docs
from holdfast.api.jsonrpc import known, permitted
from holdfast.api.responses import Json
from holdfast.api.starting import Origin, start
from holdfast.db.approvals import ApprovalFilter
from holdfast.errors import Conflict, Missing
from holdfast.rules.approval import ApprovalState
from holdfast.rules.caller import SERVER, Caller, Sight, User
from holdfast.rules.scope import Scope
from holdfast.wire import codec
from holdfast.wire.approvals import MOST_OFFSET, Approval, ApprovalAnswer, ApprovalSearch, approval_view
from holdfast.wire.merging import settings_of
from holdfast.wire.pages import page_headers
from holdfast.wire.runs import CommandBody, ConfigBody, RunCreate

router = APIRouter(tags=["Approvals"])

_SEEING = (Scope.READ, Scope.APPROVE)
MaySearch = Annotated[Caller, may("threads", "search", scopes=_SEEING)]
MayRead = Annotated[Caller, may("threads", "read", scopes=_SEEING)]
Who = Annotated[Caller, Depends(known)]


@router.post(
    "/approvals/search",
    summary="Search the questions that graphs asked, newest first",
    **docs(takes=ApprovalSearch, answers=list[Approval], headers=PAGED),
)
async def search(request: Request, with_: With, who: MaySearch) -> Response:
    body = await read(request, ApprovalSearch)
    who = _seer(who)
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
    if not await with_.approvals.search(_seer(who), ApprovalFilter(thread_id=wanted), limit=1):
        # Approvals outlive their thread; without any, it has to be there.
        await with_.threads.standing(who, wanted)
    return await _page(with_, _seer(who), ApprovalFilter(thread_id=wanted), limit=limit, offset=offset)


@router.post(
    "/approvals/{approval_id}/answer",
    summary="Answer a question, in the place of whoever owns its thread",
    **docs(
        takes=ApprovalAnswer,
        answers=Approval,
        means="The answer is on its way: a run of the thread's owner carries it.",
        refuses=(403, 404, 409),
    ),
)
async def answer(approval_id: str, request: Request, with_: With, who: Who) -> Response:
    demand(who, (Scope.APPROVE,))
    body = await read(request, ApprovalAnswer)
    wanted = uuid_of(approval_id, "approval")
    # Handlers are told of the run that it comes to, so that has to be known before it is known whether they see it.
    asked = await _asked(with_, SERVER, wanted)
    run: dict[str, Any] = {
        "thread_id": str(asked["thread_id"]),
        "assistant_id": str(asked["assistant_id"]),
        "command": {"resume": body.answer},
    }
    who = await permitted(with_, who, "threads", "create_run", run)
    asked = await _asked(with_, _seer(who), wanted)
    if asked["state"] != ApprovalState.PENDING:
        raise Conflict(f"This question is {asked['state']}.")
    await _continue(with_, asked, run["command"]["resume"], Origin(str(uuids.uuid7()), answered_by=who))
    [row] = await with_.approvals.search(_seer(who), ApprovalFilter(approval_id=wanted), limit=1)
    return Json(approval_view(row))


async def _asked(with_: Services, who: Caller, approval_id: UUID) -> Mapping[str, Any]:
    asked = await with_.approvals.to_answer(who, approval_id)
    if asked is None:
        raise Missing(f"Approval {approval_id} not found")
    return asked


async def expire(with_: Services, due: Mapping[str, Any]) -> None:
    """Answer a question that nobody answered in time.

    Raises:
        Conflict: somebody answered, or another process did this.
        Refusal: the run cannot be started.
    """
    origin = Origin(str(uuids.uuid7()), expiring=due["approval_id"])
    await _continue(with_, due, codec.loads(due["due_answer"]), origin)


async def _continue(with_: Services, asked: Mapping[str, Any], answer: Any, origin: Origin) -> None:
    """Start the run that answers, in the name of the thread's owner and with the settings of the run that asked."""
    before = codec.loads(asked["kwargs"]) if asked["kwargs"] is not None else {}
    user = before.get("user")
    who = Caller(asked["owner"], user=None if user is None else User(user))
    config = before.get("config") or {}
    body = RunCreate(
        assistant_id=str(asked["assistant_id"]),
        command=CommandBody(resume={asked["interrupt_id"]: answer}),
        config=ConfigBody(configurable=settings_of(config), recursion_limit=config.get("recursion_limit")),
        metadata={"approval_id": str(asked["approval_id"])},
    )
    await start(with_, who, body, thread_id=asked["thread_id"], followed=True, origin=origin)


def _seer(who: Caller) -> Caller:
    """The caller with the approvals that they see; of nothing else do they see more than is theirs."""
    return replace(who, sight=Sight.ALL) if Scope.APPROVE_ALL in who.scopes else who


async def _page(with_: Services, who: Caller, terms: ApprovalFilter, *, limit: int, offset: int) -> Response:
    rows: list[Any] = await with_.approvals.search(who, terms, limit=limit + 1, offset=offset)
    shown = [approval_view(row) for row in rows[:limit]]
    return Json(shown, headers=page_headers(offset, len(shown), more=len(rows) > limit))
