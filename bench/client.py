"""An HTTP/1.1 client on raw asyncio streams, as small as measuring allows: a general one would be the bottleneck.

One connection serves one client: keep-alive, bodies of known length or in chunks. Events are counted as they come and
never parsed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

BLOCK_BYTES = 256 * 1024


class Refused(Exception):
    """The server answered with an error, or with less than was asked for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Events:
    """What came of a stream, and when; times are seconds since the request was sent.

    `size` is in bytes, without the transfer's coding; `first_message` is the first event of the model's; `gaps` are the
    pauses before each later one.
    """

    keep_ids: bool = False
    count: int = 0
    messages: int = 0
    size: int = 0
    heartbeats: int = 0
    first: float | None = None
    first_message: float | None = None
    ids: list[str] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    _rest: bytes = b""
    _last: float = 0.0

    def feed(self, piece: bytes) -> None:
        self.size += len(piece)
        data = self._rest + piece
        cut = max(data.rfind(b"\n\n") + 2, data.rfind(b"\n\r\n") + 3)
        if cut < 3:
            self._rest = data
            return
        self._rest = data[cut:]
        self._take(b"\n" + data[:cut], time.perf_counter() - self.began)

    def _take(self, frames: bytes, now: float) -> None:
        """Count whole frames that came at once."""
        if b"\nevent: error" in frames:
            raise Refused(frames.decode(errors="replace")[:500])
        self.heartbeats += frames.count(b"\n:")
        came = frames.count(b"\nevent:")
        if came and self.first is None:
            self.first = now
        self.count += came
        if self.keep_ids:
            self.ids += [line[3:].strip().decode() for line in frames.split(b"\n") if line.startswith(b"id:")]
        if messages := frames.count(b"\nevent: messages"):
            self._note_messages(messages, now)

    def _note_messages(self, came: int, now: float) -> None:
        self.messages += came
        if self.first_message is None:
            self.first_message = now
        else:
            self.gaps.append(now - self._last)
        # What came in the same read had no pause before it.
        self.gaps += [0.0] * (came - 1)
        self._last = now


class Chunks:
    """Takes the chunked coding off; `feed` returns what it uncovered, `done` says whether the body is complete."""

    def __init__(self) -> None:
        self.done = False
        self.rest = b""
        self._left = 0

    def feed(self, data: bytes) -> bytes:
        data = self.rest + data if self.rest else data
        pieces, at = [], 0
        while not self.done:
            if self._left:
                piece = data[at : at + self._left]
                if not piece:
                    break
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                continue
            # What ends the chunk before stands before the next size.
            start = at + 2 if data.startswith(b"\r\n", at) else at
            end = data.find(b"\r\n", start)
            if end < 0:
                break
            size = int(data[start:end].split(b";")[0], 16)
            if size:
                at, self._left = end + 2, size
            elif len(data) < end + 4:
                break
            else:
                at, self.done = end + 4, True
        self.rest = data[at:]
        return b"".join(pieces)


class Connection:
    """One connection to a server, opened again where the server has closed it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def close(self) -> None:
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.close()

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request and read the whole answer; `headers` with underscores for dashes.

        Raises:
            Refused: the status is not 2xx, or the answer tells of a failed run.
        """
        pieces: list[bytes] = []
        status, answered = await self._exchange(method, path, body, headers, pieces.append)
        answer = Answer(status, answered, b"".join(pieces))
        if not 200 <= status < 300 or b'"__error__"' in answer.body:
            raise Refused(f"{method} {path}: {status} {answer.body[:500].decode(errors='replace')}")
        return answer

    async def follow(
        self, method: str, path: str, body: Any = None, *, events: Events | None = None, **headers: str
    ) -> tuple[Events, dict[str, str]]:
        """Send a request and read its stream of events to the end; `headers` with underscores for dashes."""
        events = events or Events()
        events.began = time.perf_counter()
        status, answered = await self._exchange(method, path, body, headers, events.feed)
        if not 200 <= status < 300:
            raise Refused(f"{method} {path}: {status}")
        return events, answered

    async def _exchange(
        self, method: str, path: str, body: Any, headers: dict[str, str], take: Callable[[bytes], Any]
    ) -> tuple[int, dict[str, str]]:
        reader = await self._sent(self._request(method, path, body, headers))
        try:
            status, answered = _head(await reader.readuntil(b"\r\n\r\n"))
            await _body(reader, status, answered, take)
        except BaseException:
            await self.close()
            raise
        if answered.get("connection", "").lower() == "close":
            await self.close()
        return status, answered

    def _request(self, method: str, path: str, body: Any, headers: dict[str, str]) -> bytes:
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._host}:{self._port}", "content-type: application/json"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        lines += [f"content-length: {len(content)}", "", ""]
        return "\r\n".join(lines).encode() + content

    async def _sent(self, request: bytes) -> asyncio.StreamReader:
        if self._writer is None or self._reader is None or self._reader.at_eof() or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=BLOCK_BYTES)
        self._writer.write(request)
        return self._reader


def _head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    named = (line.partition(":") for line in lines if line)
    return int(first.split(" ", 2)[1]), {name.lower(): value.strip() for name, _, value in named}


async def _body(
    reader: asyncio.StreamReader, status: int, headers: dict[str, str], take: Callable[[bytes], Any]
) -> None:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        chunks = Chunks()
        while not chunks.done:
            if piece := chunks.feed(await _some(reader)):
                take(piece)
    elif "content-length" in headers:
        left = int(headers["content-length"])
        while left:
            piece = await _some(reader, left)
            left -= len(piece)
            take(piece)
    elif status != 204:
        while piece := await reader.read(BLOCK_BYTES):
            take(piece)


async def _some(reader: asyncio.StreamReader, most: int = BLOCK_BYTES) -> bytes:
    data = await reader.read(min(most, BLOCK_BYTES))
    if not data:
        raise Refused("the server closed the connection in the middle of an answer")
    return data
