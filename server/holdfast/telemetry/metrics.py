"""What this process counts and times, for Prometheus.

One `Metrics` per process, made where things are wired and handed to whoever counts. Labels are bounded: routes by their
templates, graphs by langgraph.json, statuses by the tables of `rules/`; never a user, a thread or a run.

With `serve --processes N` a scrape meets any one of the processes, so all of them write their figures into files of one
directory (prometheus_client's multiprocess mode, which the environment switches on before anything is imported) and
each shows the sum of all: counters of processes that died stay in it, gauges are those of the living. What the
project's own code counts in the default registry is part of it either way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from holdfast import __version__

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

_ANSWERS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_RUNS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_LAGS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_WAITS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0)


class Metrics:
    """The figures of this process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        route = ["method", "path"]
        self.requests = Counter("holdfast_http_requests", "Answered requests", [*route, "status"], registry=registry)
        self.request_seconds = Histogram(
            "holdfast_http_request_seconds",
            "From a request to the end of its answer; streams are not in it",
            route,
            buckets=_ANSWERS,
            registry=registry,
        )
        self.first_event_seconds = Histogram(
            "holdfast_stream_first_event_seconds",
            "From a request to the first bytes of its stream",
            route,
            buckets=_ANSWERS,
            registry=registry,
        )
        self.streams_open = Gauge(
            "holdfast_streams_open", "Streams under way", registry=registry, multiprocess_mode="livesum"
        )
        self.runs_ended = Counter(
            "holdfast_runs_ended", "Runs that this process brought to an end", ["graph", "status"], registry=registry
        )
        self.run_seconds = Histogram(
            "holdfast_run_seconds",
            "From the claim of a run to its end, in the attempt that ended it",
            ["graph"],
            buckets=_RUNS,
            registry=registry,
        )
        self.run_wait_seconds = Histogram(
            "holdfast_run_wait_seconds",
            "From when a run was due to its first claim",
            ["graph"],
            buckets=_WAITS,
            registry=registry,
        )
        self.runs_executing = Gauge(
            "holdfast_runs_executing", "Runs in execution", registry=registry, multiprocess_mode="livesum"
        )
        self.attempts = Counter(
            "holdfast_run_further_attempts", "Claims of runs that had begun before", ["graph"], registry=registry
        )
        self.handed_back = Counter(
            "holdfast_runs_handed_back", "Runs that went back to the queue to go on elsewhere", registry=registry
        )
        self.taken_over = Counter(
            "holdfast_runs_taken_over", "Runs of dead workers that this one returned to the queue", registry=registry
        )
        self.pool = Gauge(
            "holdfast_pool_connections",
            "Connections to Postgres: open, idle, and calls that wait for one",
            ["state"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.pool_wait_seconds = Counter(
            "holdfast_pool_wait_seconds", "What calls have waited for connections", registry=registry
        )
        self.lag_seconds = Histogram(
            "holdfast_loop_lag_seconds", "How late the event loop was", buckets=_LAGS, registry=registry
        )
        self.spans_lost = Counter(
            "holdfast_trace_spans_lost", "Spans of traces that did not arrive", ["place"], registry=registry
        )
        built = Gauge(
            "holdfast_build_info",
            "1; the labels say what serves here",
            ["version", "langgraph"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        built.labels(__version__, version("langgraph")).set(1)

    def text(self) -> bytes:
        """All of it in Prometheus' text format, of all processes where there are several, with the project's own."""
        if DIRECTORY in os.environ:
            everybody = CollectorRegistry()
            MultiProcessCollector(everybody)  # type: ignore[no-untyped-call]
            return generate_latest(everybody)
        return generate_latest(self._registry) + generate_latest(REGISTRY)

    @contextmanager
    def executing(self, graph_id: str, *, attempt: int, waited: float) -> Iterator[None]:
        """While a run is in execution here; `waited`: since it was due, in seconds."""
        if attempt > 1:
            self.attempts.labels(graph_id).inc()
        else:
            self.run_wait_seconds.labels(graph_id).observe(max(0.0, waited))
        self.runs_executing.inc()
        try:
            yield
        finally:
            self.runs_executing.dec()

    def ended(self, graph_id: str, status: str, claimed_at: float) -> None:
        """A run is over. `claimed_at`: seconds since 1970."""
        self.runs_ended.labels(graph_id, status).inc()
        self.run_seconds.labels(graph_id).observe(max(0.0, time.time() - claimed_at))


def forget(pid: int, directory: str) -> None:
    """One of several processes has died: its gauges are no longer part of the sums."""
    mark_process_dead(pid, directory)  # type: ignore[no-untyped-call]
