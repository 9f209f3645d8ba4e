"""How long a connection may take to say what it wants.

uvicorn waits for ever: for the first byte of a connection, for the end of a request's head, for the rest of a body. A
client that sends a byte from time to time, or none, holds a socket and what it has sent so far. Here

    a new connection    has a few seconds for its first request's head, and every later head as long (408)
    a head              has a size (431)
    a body              may take as long as it likes, but not pause
    after an answer     a body that nobody reads any more comes to an end soon, or the connection does
    an answer           has to be read: while a client takes nothing of it, what it shall have waits in memory

Between requests uvicorn's own keep-alive holds. A request that comes in one piece, as nearly all do, costs no timer.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds for a request's head, that a body may pause, that an answer may stay unread; bytes of a head."""

    head_seconds: float = 10.0
    body_seconds: float = 30.0
    unread_seconds: float = 60.0
    head_bytes: int = 64 * 1024


UNREAD_BYTES = 1024 * 1024
"""Of a body that was answered before it had come: so much more is thrown away, so that the connection can be kept."""
LINGER_SECONDS = 1.0
"""For a client to read the answer, which sends more than that."""


class _Phase(Enum):
    IDLE = auto()
    HEAD = auto()
    BODY = auto()


class PatientProtocol(HttpToolsProtocol):
    """A connection of uvicorn's, with an end to waiting."""

    def __init__(self, *args: Any, patience: Patience, **others: Any) -> None:
        super().__init__(*args, **others)
        self._patience = patience
        self._phase = _Phase.IDLE
        self._head_ends = 0.0
        self._head_bytes = 0
        self._unread_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(self._patience.head_seconds, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._is_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        # Not `close`, which would wait for the client to take what there is.
        self._unread = self.loop.call_later(self._patience.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._is_read()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._disarm()
        if self.transport.is_closing():
            return
        if self._phase is _Phase.HEAD:
            self._head_bytes += len(data)
            if self._head_bytes > self._patience.head_bytes:
                self._refuse(b"431 Request Header Fields Too Large", "The request's headers are too long")
            else:
                self._timer = self.loop.call_at(self._head_ends, self._head_is_late)
        elif self._phase is _Phase.BODY and self.cycle.response_complete:
            self._throw_away(len(data))
        elif self._phase is _Phase.BODY:
            self._wait_for_body()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase = _Phase.HEAD
        self._head_ends = self.loop.time() + self._patience.head_seconds
        self._head_bytes = self._unread_bytes = 0

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._phase = _Phase.BODY

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._phase = _Phase.IDLE

    def _throw_away(self, size: int) -> None:
        self._unread_bytes += size
        if self._unread_bytes <= UNREAD_BYTES:
            self._wait_for_body()
        else:
            self.transport.pause_reading()
            self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _wait_for_body(self) -> None:
        self._timer = self.loop.call_later(self._patience.body_seconds, self._body_is_late)

    def _body_is_late(self) -> None:
        if self.flow.read_paused:
            # We ourselves do not read: the application has not taken what came.
            self._wait_for_body()
        else:
            self.transport.close()

    def _head_is_late(self) -> None:
        self._refuse(b"408 Request Timeout", "The request did not come")

    def _refuse(self, status: bytes, detail: str) -> None:
        if self.cycle is None or self.cycle.response_complete:
            body = json.dumps({"detail": detail}).encode()
            head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(head % (status, len(body)) + body)
        # Otherwise the answer to the request before it is under way, and nothing belongs into it.
        self.transport.close()

    def _is_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
