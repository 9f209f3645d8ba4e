"""The body of a request, read once, whoever asks for it first: authentication, authorization or the route.

What was read is kept in the ASGI scope, which all parts of one request share.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.types import Message, Receive, Scope

from holdfast.errors import Invalid, TooLarge
from holdfast.wire import codec

RAW = "holdfast.body"
ASKED = "holdfast.asked"

_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})


async def body_of(request: HTTPConnection, limit: int) -> bytes:
    """The body as it came; empty for a WebSocket.

    Raises:
        TooLarge: over `limit` bytes.
    """
    if (read := request.scope.get(RAW)) is not None:
        return bytes(read)
    received = bytearray()
    if isinstance(request, Request) and request.method in _WITH_BODY:
        async for chunk in request.stream():
            received += chunk
            if len(received) > limit:
                raise TooLarge(f"The request body is larger than {limit} bytes")
    request.scope[RAW] = bytes(received)
    return bytes(received)


async def json_of(request: HTTPConnection, limit: int) -> Any:
    """The body as JSON; once the gate has seen it, as the gate left it.

    Raises:
        TooLarge: over `limit` bytes.
        Invalid: no JSON.
    """
    if ASKED in request.scope:
        return request.scope[ASKED]
    try:
        return codec.loads_request(await body_of(request, limit))
    except ValueError as error:
        raise Invalid(str(error)) from None


def again(scope: Scope, receive: Receive) -> Receive:
    """`receive` for somebody who wants to read a body that was read already."""
    if RAW not in scope:
        return receive
    unread: list[Message] = [{"type": "http.request", "body": scope[RAW], "more_body": False}]

    async def from_the_start() -> Message:
        return unread.pop() if unread else await receive()

    return from_the_start
