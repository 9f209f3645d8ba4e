"""OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT says so: requests, executions, nodes, model and tool calls as spans.

The variables are OpenTelemetry's own. Spans show names, numbers and ids, by its conventions for generative AI, and
nothing of what was said: that is Langfuse's to show. OpenTelemetry's global provider is left to the project: what it
traces itself stands below the span of its execution, which is the current one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from structlog.contextvars import get_contextvars

from holdfast import __version__
from holdfast.errors import SettingsError
from holdfast.rules.run import FAILED
from holdfast.rules.trace import TRACEPARENT
from holdfast.telemetry.traces import AnsweredRequest, Traced, TracedRun

if TYPE_CHECKING:
    from holdfast.telemetry.otlpspans import About, SpanBook

PLACE = "OTLP"
PROTOCOL = "http/protobuf"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def is_configured(environment: Mapping[str, str]) -> bool:
    """Whether there is an endpoint, and traces are not switched off.

    Raises:
        SettingsError: they are wanted in a protocol that is not spoken here.
    """
    is_off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or _exporter(environment) == "none"
    if is_off or not any(environment.get(name) for name in _ENDPOINTS):
        return False
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), PROTOCOL)
    if protocol != PROTOCOL:
        raise SettingsError(
            f"{_PROTOCOLS[1]} is {protocol!r}: traces are sent by {PROTOCOL} (port 4318 of a collector)"
        )
    if _exporter(environment) != "otlp":
        raise SettingsError("OTEL_TRACES_EXPORTER has to be 'otlp' or 'none'")
    return True


class OtlpTracer:
    """Traces executions and requests.

    Args:
        rate: the share of traces that are kept.
        is_current: whether an execution's span becomes the context's.
    """

    def __init__(self, book: SpanBook, rate: float, *, is_current: bool) -> None:
        self._book = book
        self._rate = rate
        self._is_current = is_current

    @contextmanager
    def executing(self, run: TracedRun) -> Iterator[Traced]:
        """A span for the execution, and below it those of its graph."""
        from opentelemetry.trace import NonRecordingSpan, use_span

        from holdfast.telemetry.otlpcallbacks import Callbacks
        from holdfast.telemetry.spans import is_kept

        trace_id = int(run.trace_id, 16)
        if not is_kept(trace_id, self._rate):
            yield Traced()
            return
        about: About = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.id": run.assistant_id,
            "gen_ai.agent.name": run.graph_id,
            "gen_ai.conversation.id": run.thread_id,
            "user.id": run.owner,
            "holdfast.run.id": run.run_id,
            "holdfast.run.attempt": run.attempt,
        }
        span = self._book.begin(f"invoke_agent {run.graph_id}", trace_id, None, about)

        def ended(status: str) -> None:
            span.attributes["holdfast.run.status"] = status
            if status in FAILED:
                self._book.fail(span, status)

        callbacks = Callbacks(self._book, span.context)
        try:
            with use_span(NonRecordingSpan(span.context)) if self._is_current else nullcontext():
                yield Traced([callbacks], ended)
        finally:
            callbacks.close()
            self._book.end(span)

    def answered(self, request: AnsweredRequest) -> None:
        """A span for a request, in the trace of the run that it is about, if there is one."""
        from opentelemetry.context import Context
        from opentelemetry.trace import Link, SpanKind, get_current_span
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        from holdfast.telemetry.spans import is_kept

        propagated = TraceContextTextMapPropagator().extract({TRACEPARENT: request.traceparent}, Context())
        theirs = get_current_span(propagated).get_span_context()
        of_run = get_contextvars().get("trace_id")
        trace_id = int(of_run, 16) if of_run is not None else theirs.trace_id or random.getrandbits(128)
        if not is_kept(trace_id, self._rate):
            return
        about: About = {
            "http.request.method": request.method,
            "http.route": request.route,
            "http.response.status_code": request.status,
            "holdfast.request.id": request.request_id,
            "holdfast.request.ended": request.ended,
        }
        is_below = theirs.is_valid and theirs.trace_id == trace_id
        span = self._book.begin(
            f"{request.method} {request.route}",
            trace_id,
            theirs if is_below else None,
            about,
            SpanKind.SERVER,
            request.began_ns,
        )
        if request.status >= 500:
            self._book.fail(span, str(request.status))
        self._book.end(span, [Link(theirs)] if theirs.is_valid and not is_below else [])


@contextmanager
def otlp(
    environment: Mapping[str, str], secrets: Sequence[str], lost: Callable[[int], object], *, is_current: bool
) -> Iterator[OtlpTracer]:
    """A tracer to the endpoint, until the block ends.

    Raises:
        SettingsError: a setting is malformed.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from holdfast.telemetry.otlpspans import SpanBook
    from holdfast.telemetry.spans import Bounded, Outlet, Waiting, within_deadline

    waiting, rate = Waiting(PLACE, lost), _rate(environment)
    named = {} if environment.get("OTEL_SERVICE_NAME") else {"service.name": "holdfast"}
    resource = Resource.create({**named, "service.version": __version__})
    try:
        exporter = OTLPSpanExporter()
    except ValueError as error:
        raise SettingsError(f"the variables OTEL_EXPORTER_OTLP_...: {error}") from error
    queue = Bounded(BatchSpanProcessor(Outlet(exporter, waiting)), waiting)
    try:
        yield OtlpTracer(SpanBook(resource, secrets, queue.on_end), rate, is_current=is_current)
    finally:
        within_deadline(queue.shutdown)


def _exporter(environment: Mapping[str, str]) -> str:
    return environment.get("OTEL_TRACES_EXPORTER") or "otlp"


def _rate(environment: Mapping[str, str]) -> float:
    from holdfast.telemetry.spans import rate_in

    match (environment.get("OTEL_TRACES_SAMPLER") or "always_on").removeprefix("parentbased_"):
        case "always_on":
            return 1.0
        case "always_off":
            return 0.0
        case "traceidratio":
            return rate_in(environment, "OTEL_TRACES_SAMPLER_ARG")
        case other:
            raise SettingsError(f"OTEL_TRACES_SAMPLER is {other!r}: always_on, always_off and traceidratio are known")
