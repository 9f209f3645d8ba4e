"""Agent2Agent: every assistant is an agent, in both generations of the protocol (v0.3 and v1.0, by JSON-RPC)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from holdfast.api.assistants import resolve
from holdfast.api.auth import demand
from holdfast.api.deps import Services, With, may, read_json
from holdfast.api.documents import EVENTS, docs, json_of, schema_of
from holdfast.api.jsonrpc import known, loaded, permitted, refusal
from holdfast.errors import Invalid
from holdfast.rules.caller import Caller
from holdfast.rules.scope import needed
from holdfast.wire.jsonrpc import AgentCard, Message, MessageResult

router = APIRouter(tags=["A2A"])

MayRead = Annotated[Caller, may("assistants", "read")]
Who = Annotated[Caller, Depends(known)]

CARD = docs(answers=AgentCard, refuses=(404,))
GREETING = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "SendMessage",
    "params": {"message": {"messageId": "m1", "role": "ROLE_USER", "parts": [{"text": "What is 6 times 7?"}]}},
}


@router.post(
    "/a2a/{assistant_id}",
    summary="A message of an A2A client",
    **docs(
        takes=Message,
        example=GREETING,
        answers={**json_of(schema_of(MessageResult)), **EVENTS},
        means="The answer, which may be an error; or a stream of answers, if the method asks for one.",
        refuses=(401, 403, 413, 429, 503),
        asks=False,
    ),
)
async def post(assistant_id: str, request: Request, with_: With, who: Who) -> Response:
    try:
        message = await read_json(request)
    except Invalid as error:
        return refusal(-32700, str(error))
    tasks = await loaded("holdfast.api.a2a_tasks")
    answer: Response = await tasks.answer(with_, who, assistant_id, request, message)
    return answer


@router.get("/a2a/{assistant_id}", summary="An assistant's agent card", **CARD)
@router.get("/a2a/{assistant_id}/.well-known/agent-card.json", include_in_schema=False)
@router.get("/a2a/{assistant_id}/.well-known/agent.json", include_in_schema=False)
async def card(assistant_id: str, request: Request, with_: With, who: MayRead) -> Response:
    return await _card(with_, who, assistant_id, request)


@router.get(
    "/.well-known/agent-card.json",
    summary="An assistant's agent card; without an id that of the only graph",
    **CARD,
)
@router.get("/.well-known/agent.json", include_in_schema=False)
async def well_known_card(
    request: Request,
    with_: With,
    who: Who,
    assistant_id: Annotated[str | None, Query(description="The assistant's id, or the name of a graph")] = None,
) -> Response:
    demand(who, needed("assistants", "read"))
    if assistant_id is None:
        graphs = with_.catalog.ids()
        if len(graphs) != 1:
            raise Invalid("assistant_id is missing: there are several agents here")
        assistant_id = graphs[0]
    who = await permitted(with_, who, "assistants", "read", {"assistant_id": assistant_id})
    return await _card(with_, who, assistant_id, request)


async def _card(with_: Services, who: Caller, assistant_id: str, request: Request) -> Response:
    assistant = await with_.assistants.get(who, resolve(with_, assistant_id))
    tasks = await loaded("holdfast.api.a2a_tasks")
    answer: Response = tasks.card(with_, assistant, request)
    return answer
