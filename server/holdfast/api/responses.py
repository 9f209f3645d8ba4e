"""Answers: JSON by our codec, a stream of events, and JSON that takes a while.

Starlette's `StreamingResponse` is all that the streams need; what is added is the official server's keep-alive (every
5 s of wall clock, whatever the traffic) and attention to a client that goes away. All that is ready is one write.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from holdfast.wire import codec, sse

KEEP_ALIVE_SECONDS = 5.0

CALLER = "holdfast.caller"
"""Where the ASGI scope holds the caller of a request that was authenticated."""

CUT = "holdfast.cut"
"""In the ASGI scope of an answer that broke off, for whoever would end it properly on its way to the client."""


class Json(Response):
    """A value by our codec; bytes are JSON already."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else codec.dumps(content)


class Closing(asyncio.Event):
    """Set when answers are to break off. `all_ended`: none is under way that will end by itself."""

    def __init__(self) -> None:
        super().__init__()
        self._ending = 0
        self._followed: Counter[str] = Counter()
        self.all_ended = asyncio.Event()
        self.all_ended.set()

    def followed(self, owner: str) -> int:
        """How many answers are under way to this owner."""
        return self._followed[owner]

    @contextmanager
    def answering(self, owner: str, *, is_endless: bool) -> Iterator[None]:
        self._followed[owner] += 1
        self._ending += not is_endless
        if self._ending:
            self.all_ended.clear()
        try:
            yield
        finally:
            self._followed[owner] -= 1
            if not self._followed[owner]:
                del self._followed[owner]
            self._ending -= not is_endless
            if not self._ending:
                self.all_ended.set()


class LongAnswer(StreamingResponse):
    """A streamed answer that notices when its client leaves, or when the server closes.

    When the server closes first, the connection breaks off in the middle: a body that ended cleanly would tell the
    client that its run was over, and the JavaScript SDK would not reconnect.
    """

    def __init__(
        self,
        batches: AsyncIterator[list[bytes]],
        *,
        sign: bytes,
        headers: Mapping[str, str],
        media_type: str,
        closing: Closing,
        on_disconnect: Callable[[], Awaitable[None]] | None = None,
        is_endless: bool = False,
    ) -> None:
        """`sign` says between two batches that the connection is alive."""
        super().__init__(_joined(batches), headers=dict(headers), media_type=media_type)
        self._sign = sign
        self._closing = closing
        self._on_disconnect = on_disconnect
        self._is_endless = is_endless

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = scope.get(CALLER)
        with self._closing.answering(caller.owner if caller else "", is_endless=self._is_endless):
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = asyncio.ensure_future(self.stream_response(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait([answer, gone, closing], return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                scope[CUT] = True
                answer.cancel()
                if gone.done() and self._on_disconnect is not None:
                    await self._on_disconnect()
                return
            with suppress(OSError):
                answer.result()
        finally:
            for task in (answer, gone, closing):
                task.cancel()
            await asyncio.wait([answer, gone, closing])

    async def stream_response(self, send: Send) -> None:
        signs = _Signs(send, self._sign)
        try:
            await super().stream_response(signs.telling)
        finally:
            await signs.end()


class _Signs:
    """Sends a sign of life every `KEEP_ALIVE_SECONDS` from the beginning of an answer to its end."""

    def __init__(self, send: Send, sign: bytes) -> None:
        self._send = send
        self._message: Message = {"type": "http.response.body", "body": sign, "more_body": True}
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.Future[None] | None = None

    async def telling(self, message: Message) -> None:
        await self._send(message)
        if self._timer is None:
            self._at(asyncio.get_running_loop().time() + KEEP_ALIVE_SECONDS)

    async def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])

    def _at(self, due: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(due, self._give, due)

    def _give(self, due: float) -> None:
        if self._sending is None or self._sending.done():
            self._sending = asyncio.ensure_future(self._send(self._message))
        self._at(due + KEEP_ALIVE_SECONDS)


def event_stream(
    frames: AsyncIterator[list[bytes]],
    *,
    headers: Mapping[str, str],
    closing: Closing,
    on_disconnect: Callable[[], Awaitable[None]] | None = None,
    is_endless: bool = False,
) -> LongAnswer:
    """Server-sent events from batches of ready frames; those of an endless one only stop when somebody leaves."""
    return LongAnswer(
        frames,
        sign=sse.HEARTBEAT,
        headers={"cache-control": "no-store", "x-accel-buffering": "no", **headers},
        media_type="text/event-stream",
        closing=closing,
        on_disconnect=on_disconnect,
        is_endless=is_endless,
    )


def slow_json(
    value: Awaitable[bytes],
    *,
    headers: Mapping[str, str],
    closing: Closing,
    on_disconnect: Callable[[], Awaitable[None]] | None = None,
) -> LongAnswer:
    """JSON that is not known yet; line breaks before it keep the connection alive."""
    return LongAnswer(
        _once(value),
        sign=b"\n",
        headers=headers,
        media_type="application/json",
        closing=closing,
        on_disconnect=on_disconnect,
    )


async def _joined(batches: AsyncIterator[list[bytes]]) -> AsyncIterator[bytes]:
    async for batch in batches:
        yield b"".join(batch)


async def _once(value: Awaitable[bytes]) -> AsyncIterator[list[bytes]]:
    yield [await value]


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
