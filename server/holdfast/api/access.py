"""Which request a line belongs to, and one line for every answer: the access log."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import uuid_utils.compat as uuids
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from holdfast.api.responses import CALLER, CUT
from holdfast.api.traffic import UNMATCHED
from holdfast.rules.caller import Caller
from holdfast.rules.headers import logged
from holdfast.rules.trace import TRACEPARENT
from holdfast.sections import HeaderPatterns
from holdfast.telemetry.logs import ACCESS
from holdfast.telemetry.traces import AnsweredRequest

logger = logging.getLogger(ACCESS)

REQUEST_ID = "holdfast.request_id"
"""Where the ASGI scope holds the request's id."""

HEADER = "x-request-id"
ASKED_OFTEN = frozenset({"/", "/ok", "/health", "/ready", "/metrics"})
"""Routes that are asked by machines, every few seconds; their lines are of level debug."""

_FIT_ID = re.compile(r"[ -~]{1,128}")
_UUID = re.compile(r"[0-9a-fA-F-]{32,36}")
_NAMED_IN_PATHS = ("thread_id", "run_id", "assistant_id")


def observed(
    app: ASGIApp,
    *,
    says: bool,
    patterns: HeaderPatterns | None,
    traced: Callable[[AnsweredRequest], object] | None,
) -> ASGIApp:
    """`app`, whose requests have ids: on every line that is logged meanwhile, and in the answer's `x-request-id`.

    Args:
        says: whether every answer is logged.
        patterns: which of the request's headers are logged with it.
        traced: who wants to know of every answer.
    """

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        request_id = scope[REQUEST_ID] = _request_id(Headers(scope=scope).getlist(HEADER))
        # A pipelined request begins in the context of the one before it.
        clear_contextvars()
        bind_contextvars(request_id=request_id)
        answer = _Answer(send, request_id.encode("ascii"))
        began, began_ns = time.perf_counter(), time.time_ns()
        ended = "failed"
        try:
            await app(scope, receive, answer.send)
            ended = "cut" if CUT in scope else "complete"
        except asyncio.CancelledError:
            ended = "cut"
            raise
        finally:
            if says:
                duration = time.perf_counter() - began
                _say(scope, answer, patterns, ended=ended, duration_ms=round(duration * 1000, 2))
            if traced is not None:
                _trace(traced, scope, answer, ended=ended, began_ns=began_ns)

    return answered


def recognised(scope: Scope, caller: Caller) -> Caller:
    """The caller, who is on the request's lines from now on, and so is what its path names."""
    scope[CALLER] = caller
    bind_contextvars(user=caller.owner, **_named_ids(scope))
    return caller


class _Answer:
    """What is sent, labelled with the request's id and measured."""

    def __init__(self, send: Send, request_id: bytes) -> None:
        self._send = send
        self._label = (HEADER.encode("ascii"), request_id)
        self.status = 500
        self.bytes = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), self._label]
        elif message["type"] == "http.response.body":
            self.bytes += len(message.get("body", b""))
        await self._send(message)


def _say(scope: Scope, answer: _Answer, patterns: HeaderPatterns | None, *, ended: str, duration_ms: float) -> None:
    route = _route(scope)
    level = logging.DEBUG if route in ASKED_OFTEN else logging.INFO
    if not logger.isEnabledFor(level):
        return
    fields: dict[str, Any] = {
        "method": scope["method"],
        "route": route,
        "status": answer.status,
        "duration_ms": duration_ms,
        "bytes": answer.bytes,
        "ended": ended,
        "client": (scope.get("client") or ("",))[0],
        **_named_ids(scope),
    }
    if caller := scope.get(CALLER):
        fields["user"] = caller.owner
    if patterns is not None:
        headers = Headers(scope=scope).items()
        fields["headers"] = logged(headers, includes=patterns.includes, excludes=patterns.excludes)
    logger.log(level, "%s %s %d", scope["method"], route, answer.status, extra=fields)


def _trace(
    traced: Callable[[AnsweredRequest], object], scope: Scope, answer: _Answer, *, ended: str, began_ns: int
) -> None:
    if (route := _route(scope)) in ASKED_OFTEN:
        return
    request = AnsweredRequest(
        method=scope["method"],
        route=route,
        status=answer.status,
        ended=ended,
        began_ns=began_ns,
        request_id=scope[REQUEST_ID],
        traceparent=Headers(scope=scope).get(TRACEPARENT, ""),
    )
    traced(request)


def _route(scope: Scope) -> str:
    # The template and not the path: what callers write into paths is theirs.
    return getattr(scope.get("route"), "path", None) or UNMATCHED


def _request_id(given: list[str]) -> str:
    """The caller's own, if it can be repeated as it is."""
    fits = len(given) == 1 and _FIT_ID.fullmatch(given[0])
    return given[0] if fits else str(uuids.uuid7())


def _named_ids(scope: Scope) -> Mapping[str, str]:
    path = scope.get("path_params") or {}
    named = {name: str(path[name]) for name in _NAMED_IN_PATHS if name in path}
    # Anything else is text of the caller's, as the path itself is.
    return {name: value for name, value in named.items() if _UUID.fullmatch(value)}
