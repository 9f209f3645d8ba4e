"""What MCP and A2A have in common: JSON-RPC by an official SDK, over HTTP, in the house's own manners.

The SDKs parse and answer requests; ours are the limits on what comes in, who may do what, and the keep-alive of an
answer that takes a while. One URL has many operations here, so the caller is known before the body is read, and
permission is asked for the operation itself.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Awaitable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from holdfast.api.asking import IDS, Asking
from holdfast.api.auth import Action, Resource, demand
from holdfast.api.deps import Services, With, admitted
from holdfast.api.responses import KEEP_ALIVE_SECONDS, Json, slow_json
from holdfast.rules.caller import Caller
from holdfast.rules.scope import Scope, needed
from holdfast.wire import codec

logger = logging.getLogger(__name__)

ABOUT_BODIES = frozenset({b"accept", b"content-length", b"content-type"})


async def known(request: Request, with_: With) -> Caller:
    """The caller of a route that asks for permission later, with `permitted`."""
    return await admitted(request, with_)


async def permitted(
    with_: Services,
    caller: Caller,
    resource: Resource,
    action: Action,
    value: dict[str, Any] | None = None,
    *,
    scopes: tuple[Scope, ...] = (),
) -> Caller:
    """The caller with what they may see of a resource; `value` is what is asked, and may be changed.

    `scopes`, any of which will do, take the place of those that the action needs.

    Raises:
        Forbidden: they may not.
    """
    demand(caller, scopes or needed(resource, action))
    if not with_.gate.asks:
        return caller
    asked = {} if value is None else value
    told = {name: asked[name] for name in IDS & asked.keys() if (action, name) != ("create_run", "assistant_id")}
    body = {name: item for name, item in asked.items() if name not in told}
    allowed, left = await Asking(with_.gate, caller, resource, action, with_.catalog.ids()).rows(body, told)
    asked |= left
    return allowed


async def loaded(module: str) -> Any:
    """A module that is imported when it is first needed.

    The SDKs cost about a second of CPU each, which the server's start does not pay for. The import runs in a thread, so
    that it does not stop the event loop; concurrent first requests wait there for the one import: Python sees to that.
    """
    return await asyncio.to_thread(importlib.import_module, module)


async def described(with_: Services, graph_id: str) -> Mapping[str, Any]:
    """A graph's schemas; none where it cannot be described."""
    try:
        return await with_.catalog.schemas(graph_id)
    except Exception:  # a factory is the user's code, and a failure of its cannot take the other graphs with it
        logger.warning("graph %s cannot be described", graph_id, exc_info=True)
        return {}


def refusal(code: int, message: str, request_id: Any = None, *, status: int = 200) -> Response:
    """A JSON-RPC error; what cannot be a request's id is not repeated."""
    known_id = request_id if type(request_id) in (int, str) else None
    error = {"code": code, "message": message}
    return Json({"jsonrpc": "2.0", "id": known_id, "error": error}, status_code=status)


def handed_on(request: Request, body: Any) -> Request:
    """The request for an SDK, with a body that was read and checked already.

    Clients may name any content type, as everywhere else.
    """
    kept = [header for header in request.scope["headers"] if header[0] not in ABOUT_BODIES]
    headers = [*kept, (b"accept", b"application/json, text/event-stream"), (b"content-type", b"application/json")]
    messages: list[Message] = [{"type": "http.request", "body": codec.dumps_exact(body), "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await request.receive()

    return Request({**request.scope, "headers": headers}, receive)


async def in_time(with_: Services, answer: Awaitable[Response]) -> Response:
    """The answer; one that takes longer than a moment is announced, and kept alive until it is there."""
    coming = asyncio.ensure_future(answer)
    try:
        await asyncio.wait([coming], timeout=KEEP_ALIVE_SECONDS)
    except asyncio.CancelledError:
        coming.cancel()
        raise
    if coming.done():
        return coming.result()
    return slow_json(_body(coming), headers={}, closing=with_.closing)


async def _body(coming: Awaitable[Response]) -> bytes:
    return bytes((await coming).body)
