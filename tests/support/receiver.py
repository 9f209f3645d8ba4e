"""Whoever is called by a webhook: a small HTTP server of our own, real sockets and all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.support.talk import PATIENCE, until


@dataclass(frozen=True, slots=True)
class Call:
    """One request that came in."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.body)
        return told


@dataclass
class Receiver:
    """As a context manager it listens on loopback; `calls` is what came in so far.

    `status` and `answer` say what a call is answered with; no call is answered before `gate` is open.
    """

    status: Callable[[Call], int] = lambda _: 200
    answer: Callable[[Call], bytes] = lambda _: b""
    headers: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    calls: list[Call] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._answer(self)

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="receiver")
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self, count: int = 1) -> list[Call]:
        """The calls, once there are at least `count`."""
        return until(lambda: len(self.calls) >= count and list(self.calls), f"{count} calls at the receiver")

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["content-length"]))
        call = Call(handler.path, {name.lower(): value for name, value in handler.headers.items()}, body)
        self.calls.append(call)
        self.gate.wait(PATIENCE)
        try:
            handler.send_response(self.status(call))
            answer = self.answer(call)
            for name, value in {"content-length": str(len(answer)), **self.headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(answer)
        except ConnectionError:
            return
