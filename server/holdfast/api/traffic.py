"""What this process answered, counted for `GET /metrics`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNMATCHED = "(no route)"


class Traffic:
    """Counts answers by method, route and status; one per process."""

    def __init__(self, process: int | None = None) -> None:
        """`process`: which of several at one address this is, so that nobody takes their counts for one."""
        self.registry = CollectorRegistry()
        self._process = {} if process is None else {"process": str(process)}
        labels = ["method", "path", "status", *self._process]
        self._counter = Counter("holdfast_http_requests", "Answered requests", labels, registry=self.registry)

    def counting(self, app: ASGIApp) -> ASGIApp:
        """`app`, with its answers counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            status = 500

            async def noting(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app(scope, receive, noting)
            finally:
                # The template and not the path: every id would be a time series of its own.
                path = getattr(scope.get("route"), "path", None) or UNMATCHED
                self._counter.labels(method=scope["method"], path=path, status=status, **self._process).inc()

        return counted

    def totals(self) -> list[dict[str, str | int]]:
        """`[{method, path, status, count}]`."""
        return [
            {
                "method": sample.labels["method"],
                "path": sample.labels["path"],
                "status": int(sample.labels["status"]),
                "count": int(sample.value),
            }
            for metric in self._counter.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        ]
