"""The body of a request, read once, whoever asks for it first: authentication, authorization or the route.

What was read is kept in the ASGI scope, which all parts of one request share.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from weakref import WeakValueDictionary

from starlette.requests import HTTPConnection, Request
from starlette.types import Message, Receive, Scope

from holdfast.api.responses import CALLER
from holdfast.errors import Invalid, TooLarge
from holdfast.wire import codec

RAW = "holdfast.body"
ASKED = "holdfast.asked"
LARGE = "holdfast.large_bodies"
"""Where the ASGI scope holds whose turn it is to send a large body."""

LARGE_BYTES = 1024 * 1024
LARGE_AT_ONCE = 2
LARGE_BYTES_PER_SECOND = 16 * 1024 * 1024

_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})


async def body_of(request: HTTPConnection, limit: int) -> bytes:
    """The body as it came; empty for a WebSocket.

    Raises:
        TooLarge: over `limit` bytes.
    """
    if (read := request.scope.get(RAW)) is not None:
        return bytes(read)
    body = b""
    if isinstance(request, Request) and request.method in _WITH_BODY:
        body = await _read(request, limit)
    request.scope[RAW] = body
    return body


class LargeBodies:
    """Lets the large bodies of one owner in by twos; slowly, so that reading them is not all that this process does."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def turn(self, scope: Scope) -> asyncio.Semaphore:
        """To be held while the rest of a body is read."""
        caller = scope.get(CALLER)
        owner = caller.owner if caller else ""
        turn = self._turns.get(owner)
        if turn is None:
            turn = self._turns[owner] = asyncio.Semaphore(LARGE_AT_ONCE)
        return turn


async def _read(request: Request, limit: int) -> bytes:
    if int(request.headers.get("content-length", 0)) > limit:
        raise _too_large(limit)
    received = bytearray()
    async with AsyncExitStack() as stack:
        async for chunk in request.stream():
            if len(received) < LARGE_BYTES <= len(received) + len(chunk) and LARGE in request.scope:
                await stack.enter_async_context(request.scope[LARGE].turn(request.scope))
            received += chunk
            if len(received) >= LARGE_BYTES:
                await asyncio.sleep(len(chunk) / LARGE_BYTES_PER_SECOND)
            if len(received) > limit:
                raise _too_large(limit)
    return bytes(received)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The request body is larger than {limit} bytes")


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
