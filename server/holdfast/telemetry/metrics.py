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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import product

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from holdfast import __version__

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

_ANSWERS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_RUNS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_LAGS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_WAITS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0)
_COMMITS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_MEMBERS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The figures of this process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._count_requests(registry)
        self._count_runs(registry)
        self._count_what_is_saved(registry)
        self._count_webhooks(registry)
        self._look_at_itself(registry)

    def _count_requests(self, registry: CollectorRegistry) -> None:
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
        self.stream_seconds = Histogram(
            "holdfast_stream_seconds",
            "From a request to the end of its stream",
            route,
            buckets=_RUNS,
            registry=registry,
        )
        self.limited = Counter("holdfast_limited", "Requests that a limit refused", ["limit"], registry=registry)
        self.streams_open = Gauge(
            "holdfast_streams_open", "Streams under way", registry=registry, multiprocess_mode="livesum"
        )

    def _count_runs(self, registry: CollectorRegistry) -> None:
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

    def _count_what_is_saved(self, registry: CollectorRegistry) -> None:
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
        self.reads = Counter(
            "holdfast_reads",
            "Searches, lists and histories that a replica could answer, by who was to: replica or primary",
            ["server"],
            registry=registry,
        )
        self.commit_members = Histogram(
            "holdfast_group_commit_members",
            "What was committed together: saves of runs, admissions, ends, look-ups",
            ["group"],
            buckets=_MEMBERS,
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "holdfast_group_commit_seconds",
            "How long a group's commit took; who comes during one waits for two",
            ["group"],
            buckets=_COMMITS,
            registry=registry,
        )
        self.went_alone = Counter(
            "holdfast_group_members_refused",
            "What its group did not commit, and went alone",
            ["group"],
            registry=registry,
        )
        self.events = Counter("holdfast_events", "Events of runs for the log", registry=registry)
        self.event_blocks = Counter("holdfast_event_blocks", "Rows of the log that hold them", registry=registry)
        self.event_bytes = Counter("holdfast_event_bytes", "Bytes of the log", registry=registry)

    def _count_webhooks(self, registry: CollectorRegistry) -> None:
        self.webhook_tries = Counter(
            "holdfast_webhook_tries",
            "Tries to deliver: delivered, postponed (it is tried again) or given_up; alerts apart from other webhooks",
            ["kind", "outcome"],
            registry=registry,
        )
        for kind, outcome in product(("webhook", "alert"), ("delivered", "postponed", "given_up")):
            # From 0 on: of a series that begins with 1 Prometheus sees no increase.
            self.webhook_tries.labels(kind, outcome)

    def _look_at_itself(self, registry: CollectorRegistry) -> None:
        self.lag_seconds = Histogram(
            "holdfast_loop_lag_seconds", "How late the event loop was", buckets=_LAGS, registry=registry
        )
        self.spans_lost = Counter(
            "holdfast_trace_spans_lost", "Spans of traces that did not arrive", ["place"], registry=registry
        )
        self._process = _ProcessFigures(registry)
        built = Gauge(
            "holdfast_build_info",
            "1; the labels say what serves here",
            ["version", "langgraph"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        built.labels(__version__, version("langgraph")).set(1)

    def text(self) -> bytes:
        """All of it in Prometheus' text format, with the project's own. It takes some 20 ms: not for the event loop."""
        return b"".join(map(generate_latest, self._registries()))

    def families(self) -> Iterable[Metric]:
        """The same to be looked through."""
        for registry in self._registries():
            yield from registry.collect()

    def _registries(self) -> list[CollectorRegistry]:
        """Of all processes where there are several."""
        if DIRECTORY in os.environ:
            everybody = CollectorRegistry()
            MultiProcessCollector(everybody)  # type: ignore[no-untyped-call]
            return [everybody]
        return [self._registry, REGISTRY]

    def look_at_process(self) -> None:
        """Bring the figures of the process itself up to date."""
        self._process.look()

    def commits(self, group: str) -> Commits:
        """Where the commits of one kind of group are counted."""
        return Commits(self, group)

    def written(self, events: int, size: int) -> None:
        """A block of the event log, `size` bytes of it."""
        self.events.inc(events)
        self.event_blocks.inc()
        self.event_bytes.inc(size)

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


class Commits:
    """Commits of one kind of group."""

    def __init__(self, metrics: Metrics, group: str) -> None:
        self._members = metrics.commit_members.labels(group)
        self._seconds = metrics.commit_seconds.labels(group)
        self._went_alone = metrics.went_alone.labels(group)

    def ended(self, members: int, *, committed: int, seconds: float) -> None:
        self._members.observe(members)
        self._seconds.observe(seconds)
        if committed < members:
            self._went_alone.inc(members - committed)


class _ProcessFigures:
    """What the operating system says of this process: prometheus_client's own figures have no sum over processes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._source = ProcessCollector(registry=CollectorRegistry())
        self._cpu = Counter("holdfast_process_cpu_seconds", "CPU time of the processes", registry=registry)
        self._memory = Gauge(
            "holdfast_process_memory_bytes", "Resident memory", registry=registry, multiprocess_mode="livesum"
        )
        self._files = Gauge(
            "holdfast_process_open_files", "Open file descriptors", registry=registry, multiprocess_mode="livesum"
        )
        self._cpu_seen = 0.0

    def look(self) -> None:
        """Nothing where there is no /proc."""
        now = {family.name: family.samples[0].value for family in self._source.collect()}
        self._memory.set(now.get("process_resident_memory_bytes", 0))
        self._files.set(now.get("process_open_fds", 0))
        cpu = now.get("process_cpu_seconds", 0.0)
        self._cpu.inc(max(0.0, cpu - self._cpu_seen))
        self._cpu_seen = cpu


def forget(pid: int, directory: str) -> None:
    """One of several processes has died: its gauges are no longer part of the sums."""
    mark_process_dead(pid, directory)  # type: ignore[no-untyped-call]
