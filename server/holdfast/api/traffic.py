"""What this process answered, counted and timed for `GET /metrics`."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.telemetry.metrics import Metrics

UNMATCHED = "(no route)"


class Traffic:
    """Counts answers by method, route and status; one per process."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def counting(self, app: ASGIApp) -> ASGIApp:
        """`app`, with its answers counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            answer = _Answer(self.metrics, send)
            try:
                await app(scope, receive, answer.send)
            finally:
                answer.ended(scope)

        return counted

    def totals(self) -> list[dict[str, str | int]]:
        """`[{method, path, status, count}]`, of all processes of a `serve`. As slow as `Metrics.text`."""
        return [
            {
                "method": sample.labels["method"],
                "path": sample.labels["path"],
                "status": int(sample.labels["status"]),
                "count": int(sample.value),
            }
            for metric in self.metrics.families()
            if metric.name == "holdfast_http_requests"
            for sample in metric.samples
            if sample.name.endswith("_total")
        ]


class _Answer:
    """One answer on its way out."""

    def __init__(self, metrics: Metrics, send: Send) -> None:
        self._metrics = metrics
        self._send = send
        self._began = time.perf_counter()
        self._status = 500
        self._is_stream = False
        self._first_event: float | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._is_stream = any(
                name == b"content-type" and value.startswith(b"text/event-stream") for name, value in message["headers"]
            )
            if self._is_stream:
                self._metrics.streams_open.inc()
        elif self._is_stream and self._first_event is None and message.get("body"):
            self._first_event = time.perf_counter() - self._began
        await self._send(message)

    def ended(self, scope: Scope) -> None:
        # The template and not the path: every id would be a time series of its own.
        path = getattr(scope.get("route"), "path", None) or UNMATCHED
        method = scope["method"]
        self._metrics.requests.labels(method, path, self._status).inc()
        seconds = time.perf_counter() - self._began
        if not self._is_stream:
            self._metrics.request_seconds.labels(method, path).observe(seconds)
            return
        self._metrics.streams_open.dec()
        self._metrics.stream_seconds.labels(method, path).observe(seconds)
        if self._first_event is not None:
            self._metrics.first_event_seconds.labels(method, path).observe(self._first_event)
