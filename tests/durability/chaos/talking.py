"""How the clients of an episode talk HTTP: every request, answer and frame goes into the observation log."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

import httpx

from tests.durability.chaos.observations import Log

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
AGAIN_SECONDS = 0.25
GONE: Mapping[str, Any] = {}

End = Literal["clean", "broken", "vanished", "refused", "hung"]
Reader = Callable[[str, str | None, httpx.Response], Awaitable[End]]


class Talk:
    """Requests to the doors of an episode. A context manager."""

    def __init__(self, doors: list[str], log: Log) -> None:
        self._doors = doors
        self._log = log
        self._numbers = itertools.count()
        self._http = httpx.AsyncClient(timeout=TIMEOUT, limits=httpx.Limits(max_connections=None))
        self.seen: dict[str, str] = {}
        """The last event id that was seen of each run."""

    async def __aenter__(self) -> Talk:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    def ask(self, mark: str, kind: str, thread: str, **asked: Any) -> str:
        """Log that something will be asked for; the name of the request."""
        op = f"{mark}#{next(self._numbers)}"
        self._log.write("asked", op=op, mark=mark, kind=kind, thread=thread, **asked)
        return op

    async def send(self, op: str, door: int, method: str, path: str, **more: Any) -> httpx.Response | None:
        """One request with a short answer; None if the connection broke."""
        try:
            answer = await self._http.request(method, self._url(door, path), **more)
        except httpx.TransportError as error:
            self._log.write("answered", op=op, status=None, error=repr(error))
            return None
        self._answered(op, answer)
        return answer

    async def look(self, door: int, path: str) -> Any:
        """Something that is only looked at: GONE if it does not exist, None if it could not be had.

        Of the answers only bad ones are logged.
        """
        try:
            answer = await self._http.get(self._url(door, path))
        except httpx.TransportError:
            return None
        if answer.status_code >= 500:
            self._log.write("answered", op=f"look#{next(self._numbers)}", status=answer.status_code, error=answer.text)
        if answer.status_code == 404:
            return GONE
        return answer.json() if answer.status_code == 200 else None

    async def follow(
        self, op: str, door: int, method: str, path: str, *, vanishes: float = 0.0, **more: Any
    ) -> tuple[str | None, End]:
        """A stream, read to its end or until the client goes away; its run, and how it ended."""
        return await self._exchange(op, door, method, path, self._frames, vanishes, more)

    async def result(
        self, op: str, door: int, method: str, path: str, *, vanishes: float = 0.0, **more: Any
    ) -> tuple[str | None, End]:
        """What `wait` comes to; the run's id is known long before."""
        return await self._exchange(op, door, method, path, self._body, vanishes, more)

    async def _exchange(
        self, op: str, door: int, method: str, path: str, read: Reader, vanishes: float, more: Mapping[str, Any]
    ) -> tuple[str | None, End]:
        run: str | None = None
        end: End = "hung"
        try:
            async with asyncio.timeout(vanishes or None), self._stream(op, door, method, path, more) as answer:
                run = _run_of(answer)
                end = await read(op, run, answer) if answer.status_code == 200 else _refused(answer)
        except TimeoutError:
            end = "vanished"
        except httpx.TransportError as error:
            end = "broken"
            if run is None:
                self._log.write("answered", op=op, status=None, error=repr(error))
        finally:
            # A client that still reads when everything is over is cancelled: its stream hung.
            status = await self._status(door, path, run) if end == "clean" else None
            self._log.write("closed", op=op, run=run, how=end, status=status)
        return run, end

    @asynccontextmanager
    async def _stream(
        self, op: str, door: int, method: str, path: str, more: Mapping[str, Any]
    ) -> AsyncIterator[httpx.Response]:
        async with self._http.stream(method, self._url(door, path), **more) as answer:
            if answer.status_code != 200:
                await answer.aread()
            self._answered(op, answer)
            yield answer

    async def _frames(self, op: str, run: str | None, answer: httpx.Response) -> End:
        rest = b""
        async for chunk in answer.aiter_raw():
            *frames, rest = (rest + chunk).split(b"\r\n\r\n")
            for frame in frames:
                self._frame(op, run, frame)
        return "clean" if not rest else "broken"

    async def _body(self, op: str, run: str | None, answer: httpx.Response) -> End:
        body = _json(await answer.aread())
        self._log.write("result", op=op, run=run, body=body)
        return "broken" if body is None else "clean"

    def _frame(self, op: str, run: str | None, frame: bytes) -> None:
        if frame.startswith(b":"):
            return
        _, _, event_id = frame.rpartition(b"\r\nid: ") if b"\r\nid: " in frame else (b"", b"", b"")
        if run is not None and event_id:
            self.seen[run] = event_id.decode()
        self._log.write("frame", op=op, run=run, id=event_id.decode() or None, raw=frame.decode())

    async def _status(self, door: int, path: str, run: str | None) -> str | None:
        """The run's status right after its stream: `gone` if there is none; None if nobody can say."""
        if run is None:
            return None
        thread = path.split("/")[2]
        try:
            answer = await self._http.get(self._url(door, f"/threads/{thread}/runs/{run}"))
        except httpx.TransportError:
            return None
        return {200: lambda: str(answer.json()["status"]), 404: lambda: "gone"}.get(answer.status_code, lambda: None)()

    def _answered(self, op: str, answer: httpx.Response) -> None:
        more = {} if answer.status_code == 200 else {"error": answer.text if answer.is_closed else ""}
        self._log.write("answered", op=op, status=answer.status_code, run=_run_of(answer), **more)

    def _url(self, door: int, path: str) -> str:
        return self._doors[door % len(self._doors)] + path


async def drip(url: str, path: str, seconds: float) -> int:
    """Follow a stream a byte a second, over a connection that takes in as little as it can; how many bytes came."""
    taken = 0
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(seconds):
            parts = httpx.URL(url)
            reader, writer = await asyncio.open_connection(parts.host, parts.port, limit=64)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nhost: {parts.host}\r\nlast-event-id: -1\r\n\r\n".encode())
                await writer.drain()
                while await reader.read(1):
                    taken += 1
                    await asyncio.sleep(1)
            finally:
                writer.transport.abort()
    return taken


def _run_of(answer: httpx.Response) -> str | None:
    _, _, run = str(answer.headers.get("content-location", "")).partition("/runs/")
    return run or None


def _refused(answer: httpx.Response) -> End:
    """Who is told to come back later goes on as if the connection had broken."""
    return "broken" if answer.status_code == 503 else "refused"


def _json(body: bytes) -> Any:
    """The body, or None where it was cut short."""
    try:
        return json.loads(body)
    except ValueError:
        return None
