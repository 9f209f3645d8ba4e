"""A TCP proxy in front of a Postgres, which stalls, delays, cuts and refuses as it is told.

Theory of operation. An event loop in a thread of its own copies bytes, one task per connection and direction. A fault
is a value that every copy looks at before it hands a piece on, so it can be set from any thread and acts at once on
connections that are open already. `watch` sees every piece that the target answers with and may have the connection
cut instead of the piece handed on: how an answer gets lost although the work was done.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

from psycopg.conninfo import conninfo_to_dict

Direction = Literal["there", "back"]
"""From the client to the target, and from the target to the client."""
BOTH: tuple[Direction, Direction] = ("there", "back")

PIECE = 65_536


class Proxy:
    """Listens on 127.0.0.1 and passes everything on to the Postgres at `url`. A context manager."""

    def __init__(self, url: str, watch: Callable[[bytes], bool] | None = None) -> None:
        self._target = conninfo_to_dict(url)
        self._port = 0
        self._watch = watch
        self._flowing = {direction: asyncio.Event() for direction in BOTH}
        self._delay = 0.0
        self._refusing = False
        self._links: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._flow()

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._on_loop(asyncio.start_server(self._answer, "127.0.0.1", 0))
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._on_loop(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """The same database, through the proxy."""
        user, database = self._target.get("user", ""), self._target["dbname"]
        password = f":{self._target['password']}" if "password" in self._target else ""
        return f"postgresql://{user}{password}@127.0.0.1:{self._port}/{database}"

    def stall(self, *directions: Direction) -> None:
        """Hand nothing on in these directions (both without a name); what arrives is kept until `heal`."""
        for direction in directions or BOTH:
            self._loop.call_soon_threadsafe(self._flowing[direction].clear)

    def delay(self, seconds: float) -> None:
        """Hold every piece for so long."""
        self._delay = seconds

    def cut(self, *, refuse: bool = False) -> int:
        """Reset all connections, and with `refuse` every new one until `heal`; how many there were."""
        self._refusing = refuse
        return self._on_loop(self._cut_all())

    def heal(self) -> None:
        """No stall, no delay, no refusal from now on."""
        self._delay, self._refusing = 0.0, False
        self._loop.call_soon_threadsafe(self._flow)

    def _flow(self) -> None:
        for flowing in self._flowing.values():
            flowing.set()

    def _on_loop(self, work: object) -> object:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)  # type: ignore[arg-type]

    async def _cut_all(self) -> int:
        cut = len(self._links) // 2
        for link in list(self._links):
            link.transport.abort()
        return cut

    async def _close(self) -> None:
        self._server.close()
        await self._cut_all()
        copies = asyncio.all_tasks() - {asyncio.current_task()}
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio asks a connection's task for its exception; one that was cancelled has none.
        with suppress(asyncio.CancelledError):
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            target_reader, target_writer = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, target_writer}
        self._links |= ends
        try:
            async with asyncio.TaskGroup() as copies:
                copies.create_task(self._copy("there", reader, target_writer))
                copies.create_task(self._copy("back", target_reader, writer))
        except* (ConnectionError, OSError):
            pass
        finally:
            self._links -= ends
            for end in ends:
                end.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = str(self._target.get("host", "127.0.0.1")), self._target.get("port", 5432)
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, int(port or 0))

    async def _copy(self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(PIECE):
            if self._delay:
                await asyncio.sleep(self._delay)
            await self._flowing[direction].wait()
            if direction == "back" and self._watch is not None and self._watch(piece):
                raise ConnectionResetError
            writer.write(piece)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()
