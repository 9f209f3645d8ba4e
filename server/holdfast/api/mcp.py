"""The Model Context Protocol: every assistant is a tool (streamable HTTP, stateless, plain JSON answers)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from holdfast.api.deps import With, read_json
from holdfast.api.documents import docs, refused
from holdfast.api.jsonrpc import in_time, known, loaded, refusal
from holdfast.api.problems import detail
from holdfast.errors import Invalid
from holdfast.rules.caller import Caller
from holdfast.wire.jsonrpc import Message, MessageResult

router = APIRouter(tags=["MCP"])

Who = Annotated[Caller, Depends(known)]


@router.post("/mcp", include_in_schema=False)
@router.post(
    "/mcp/",
    summary="A message of an MCP client",
    **docs(
        takes=Message,
        example={"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
        answers=MessageResult,
        means="The answer, which may be an error.",
        or_nothing=202,
        fails={400: MessageResult},
        refuses=(401, 403, 413, 429, 503),
        asks=False,
    ),
)
async def post(request: Request, with_: With, who: Who) -> Response:
    try:
        message = await read_json(request)
    except Invalid as error:
        return refusal(-32700, str(error), status=400)
    tools = await loaded("holdfast.api.mcp_tools")
    return await in_time(with_, tools.answer(with_, who, request, message))


@router.get("/mcp", include_in_schema=False)
@router.get("/mcp/", summary="There is no stream outside of requests", status_code=405, **refused(401, 405))
async def get(who: Who) -> Response:
    del who
    return detail(405, "Method Not Allowed", {"allow": "POST"})


@router.delete("/mcp", include_in_schema=False)
@router.delete("/mcp/", summary="There are no sessions to end", status_code=404, **refused(401, 404))
async def delete(who: Who) -> Response:
    del who
    return detail(404, "There are no sessions here: every request stands alone.")
