"""Many clients of one server that only listen, in a process of their own: `python -m tests.durability.crowd`.

They are raw sockets, so that a small machine can hold ten thousand of them beside the server that is measured. One JSON
object a line comes in (`Order`), one a line goes out; `Crowd` is the other end of it.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

AT_ONCE = 100
"""How many connections are being opened at the same time."""
SECONDS = 120.0
RESET = struct.pack("ii", 1, 0)


class Listener(asyncio.Protocol):
    """One client: it asks once and then counts what it hears."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.transport: asyncio.Transport | None = None
        self.answered = asyncio.Event()
        self.ok = False
        self.received = 0
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.answered.is_set():
            self.ok = data.startswith(b"HTTP/1.1 200")
            self.answered.set()
        self.received += len(data)

    def connection_lost(self, _: Exception | None) -> None:
        self.closed = True
        self.answered.set()

    def vanish(self) -> None:
        """Leave with a reset, as a machine that was switched off and on does."""
        assert self.transport is not None
        if self.closed:
            return
        sock: socket.socket = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()


class _Process:
    """The crowd itself."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._all: list[Listener] = []
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        if paths := order.get("open"):
            opened = await asyncio.gather(*(self._open(path, order["headers"]) for path in paths))
            return {"open": sum(opened)}
        if order.get("leave") == "reset":
            for each in self._all:
                each.vanish()
        elif order.get("leave"):
            for each in self._all:
                assert each.transport is not None
                each.transport.close()
        standing = {"open": sum(not each.closed for each in self._all), "least": 0, "bytes": 0}
        if self._all:
            standing["least"] = min(each.received for each in self._all)
            standing["bytes"] = sum(each.received for each in self._all)
        if order.get("leave"):
            self._all = []
        return standing

    async def _open(self, path: str, headers: dict[str, str]) -> bool:
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {self._host}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        request = ("\r\n".join(lines) + "\r\n\r\n").encode()
        async with self._gate:
            loop = asyncio.get_running_loop()
            _, listener = await loop.create_connection(lambda: Listener(request), self._host, self._port)
            self._all.append(listener)
            async with asyncio.timeout(SECONDS):
                await listener.answered.wait()
        return listener.ok


class Crowd:
    """Starts such a process, and gives it orders."""

    def __init__(self, host: str, port: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.durability.crowd", host, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def open(self, paths: Sequence[str], **headers: str) -> int:
        """Open one stream for each path; how many were answered with 200."""
        return int(self._ask({"open": paths, "headers": headers})["open"])

    def standing(self) -> dict[str, int]:
        """How many are open, how many bytes they heard, and how many the one did who heard the least."""
        return self._ask({})

    def leave(self, how: str = "close") -> dict[str, int]:
        """All go: with a proper `close`, or a `reset`."""
        return self._ask({"leave": how})

    def _ask(self, order: dict[str, Any]) -> dict[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, int] = json.loads(self._process.stdout.readline())
        return answer


async def _main(host: str, port: int) -> None:
    crowd = _Process(host, port)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        sys.stdout.write(json.dumps(await crowd.obey(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))
