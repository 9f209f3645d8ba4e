"""The body of a request, read once, whoever asks for it first: authentication, authorization or the route.

What was read is kept in the ASGI scope, which all parts of one request share.
"""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakValueDictionary

from starlette.requests import HTTPConnection, Request
from starlette.types import Message, Receive, Scope

from holdfast.api.responses import CALLER
from holdfast.errors import Invalid, TooLarge
from holdfast.rules.caller import Caller
from holdfast.wire import codec

RAW = "holdfast.body"
ASKED = "holdfast.asked"
PACES = "holdfast.paces"
"""Where the ASGI scope holds the `Paces` of this process."""

LARGE_BYTES = 1024 * 1024
"""So much of a body is read as fast as it comes."""
LARGE_BYTES_PER_SECOND = 32 * 1024 * 1024

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


class Pace:
    """How fast the large bodies of one owner come in, all of them together."""

    def __init__(self) -> None:
        self._free = 0.0

    async def take(self, size: int) -> None:
        """Wait until there is room for so many bytes."""
        now = asyncio.get_running_loop().time()
        self._free = max(now, self._free) + size / LARGE_BYTES_PER_SECOND
        await asyncio.sleep(self._free - now)


class Paces:
    """Of those whose bodies are being read. Reading large bodies is not to be all that this process does."""

    def __init__(self) -> None:
        self._by_owner: WeakValueDictionary[str, Pace] = WeakValueDictionary()

    def of(self, caller: Caller | None) -> Pace:
        """Who is not known yet is held up by nobody else."""
        if caller is None:
            return Pace()
        pace = self._by_owner.get(caller.owner)
        if pace is None:
            pace = self._by_owner[caller.owner] = Pace()
        return pace


async def _read(request: Request, limit: int) -> bytes:
    if int(request.headers.get("content-length", 0)) > limit:
        raise _too_large(limit)
    received = bytearray()
    pace: Pace | None = None
    async for chunk in request.stream():
        received += chunk
        if len(received) > limit:
            raise _too_large(limit)
        if len(received) > LARGE_BYTES and PACES in request.scope:
            pace = pace or request.scope[PACES].of(request.scope.get(CALLER))
            await pace.take(len(chunk))
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
