"""Following an event stream in the background of a test, and a wire that breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
from anyio.from_thread import start_blocking_portal

from tests.support.talk import Event, parse, until


class Follower:
    """A client that reads one stream; half a frame at the end of a broken connection is no event."""

    def __init__(self) -> None:
        self.response: httpx.Response | None = None
        self.ended = False
        """The body came to a proper end."""
        self.broken = False
        """The connection broke."""
        self.received = b""

    @property
    def whole(self) -> bytes:
        """What was received, up to the last whole frame."""
        head, end, _ = self.received.rpartition(b"\r\n\r\n")
        return head + end

    @property
    def events(self) -> list[Event]:
        return parse(self.whole)

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]

    def until(self, holds: Callable[[Follower], Any], what: str) -> None:
        """Wait until something is true of what was received."""
        until(lambda: holds(self), what)

    async def read(self, url: str, path: str, headers: dict[str, str], params: dict[str, Any]) -> None:
        """Read until the stream ends or breaks."""
        try:
            async with (
                httpx.AsyncClient(base_url=url, timeout=30) as client,
                client.stream("GET", path, headers=headers, params=params) as self.response,
            ):
                async for chunk in self.response.aiter_raw():
                    self.received += chunk
            self.ended = True
        except httpx.TransportError:
            self.broken = True


@contextmanager
def following(url: str, path: str, last: str | None = None, **params: Any) -> Iterator[Follower]:
    """Follow a stream; inside the block its headers have come."""
    follower = Follower()
    headers = {} if last is None else {"Last-Event-ID": last}
    with start_blocking_portal() as portal:
        reading = portal.start_task_soon(follower.read, url, path, headers, params)
        try:
            follower.until(lambda one: one.response is not None or reading.done(), "the headers")
            yield follower
        finally:
            reading.cancel()


class Wire:
    """A TCP proxy whose connections can be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""
        self.connections = 0

    def cut(self) -> None:
        """Reset every connection, in the middle of whatever it carries."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        self.connections += 1
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        ends = {writer, back}
        self._writers |= ends
        try:
            await asyncio.gather(_carry(reader, back), _carry(there, writer))
        finally:
            self._writers -= ends
            for end in ends:
                end.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        return
    finally:
        writer.close()


@asynccontextmanager
async def wire_to(port: int) -> AsyncIterator[Wire]:
    """A wire to a local port."""
    wire = Wire(port)
    listener = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    wire.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        yield wire
        wire.cut()
