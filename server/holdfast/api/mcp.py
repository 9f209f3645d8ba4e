"""The Model Context Protocol: every assistant is a tool (streamable HTTP, stateless, plain JSON answers)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from holdfast.api.deps import With, read_json
from holdfast.api.jsonrpc import MESSAGE_DOCS, in_time, known, loaded, refusal
from holdfast.api.problems import detail
from holdfast.errors import Invalid
from holdfast.rules.caller import Caller

router = APIRouter(tags=["MCP"])

Who = Annotated[Caller, Depends(known)]


@router.post("/mcp", include_in_schema=False)
@router.post("/mcp/", openapi_extra=MESSAGE_DOCS, summary="A message of an MCP client")
async def post(request: Request, with_: With, who: Who) -> Response:
    try:
        message = await read_json(request)
    except Invalid as error:
        return refusal(-32700, str(error), status=400)
    tools = await loaded("holdfast.api.mcp_tools")
    return await in_time(with_, tools.answer(with_, who, request, message))


@router.get("/mcp", include_in_schema=False)
@router.get("/mcp/", summary="There is no stream outside of requests", status_code=405)
async def get(who: Who) -> Response:
    del who
    return detail(405, "Method Not Allowed", {"allow": "POST"})


@router.delete("/mcp", include_in_schema=False)
@router.delete("/mcp/", summary="There are no sessions to end", status_code=404)
async def delete(who: Who) -> Response:
    del who
    return detail(404, "There are no sessions here: every request stands alone.")
