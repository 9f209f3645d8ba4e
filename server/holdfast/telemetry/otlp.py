"""OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT says so: requests, executions, nodes, model and tool calls as spans.

The variables are OpenTelemetry's own. Spans show names, numbers and ids, by its conventions for generative AI, and
nothing of what was said: that is Langfuse's to show. The provider is ours alone (`spans.py`), whereas the span of an
execution is the current one of its context: what a project traces itself, with a provider of its own, stands below it.
"""

from __future__ import annotations

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
    from opentelemetry.trace import Tracer

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
    """Traces executions and requests. `is_current`: whether an execution's span becomes the context's."""

    def __init__(self, tracer: Tracer, *, is_current: bool) -> None:
        self._tracer = tracer
        self._is_current = is_current

    @contextmanager
    def executing(self, run: TracedRun) -> Iterator[Traced]:
        """A span for the execution, and below it those of its graph."""
        from opentelemetry.context import Context
        from opentelemetry.trace import Status, StatusCode, use_span

        from holdfast.telemetry.otlpcallbacks import Callbacks

        span = self._tracer.start_span(
            f"invoke_agent {run.graph_id}",
            context=Context(),
            attributes={
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.id": run.assistant_id,
                "gen_ai.agent.name": run.graph_id,
                "gen_ai.conversation.id": run.thread_id,
                "user.id": run.owner,
                "holdfast.run.id": run.run_id,
                "holdfast.run.attempt": run.attempt,
            },
        )

        def ended(status: str) -> None:
            span.set_attribute("holdfast.run.status", status)
            if status in FAILED:
                span.set_status(Status(StatusCode.ERROR, status))

        callbacks = Callbacks(self._tracer, span)
        current = use_span(span, record_exception=False, set_status_on_exception=False)
        try:
            with current if self._is_current else nullcontext():
                yield Traced([callbacks] if span.is_recording() else [], ended)
        finally:
            callbacks.close()
            span.end()

    def answered(self, request: AnsweredRequest) -> None:
        """A span for a request, in the trace of the run that it is about, if there is one."""
        from opentelemetry.context import Context
        from opentelemetry.trace import Link, SpanKind, Status, StatusCode, get_current_span
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        from holdfast.telemetry.spans import in_trace

        context = TraceContextTextMapPropagator().extract({TRACEPARENT: request.traceparent}, Context())
        theirs = get_current_span(context).get_span_context()
        trace_id = get_contextvars().get("trace_id")
        is_elsewhere = trace_id is not None and theirs.trace_id != int(trace_id, 16)
        with in_trace(trace_id) if trace_id is not None and is_elsewhere else nullcontext():
            span = self._tracer.start_span(
                f"{request.method} {request.route}",
                context=Context() if is_elsewhere else context,
                kind=SpanKind.SERVER,
                links=[Link(theirs)] if is_elsewhere and theirs.is_valid else None,
                attributes={
                    "http.request.method": request.method,
                    "http.route": request.route,
                    "http.response.status_code": request.status,
                    "holdfast.request.id": request.request_id,
                    "holdfast.request.ended": request.ended,
                },
                start_time=request.began_ns,
            )
        if request.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()


@contextmanager
def otlp(
    environment: Mapping[str, str], secrets: Sequence[str], lost: Callable[[int], object], *, is_current: bool
) -> Iterator[OtlpTracer]:
    """A tracer to the endpoint, until the block ends.

    Raises:
        SettingsError: a setting is malformed.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from holdfast.telemetry.spans import Outlet, Provider, Waiting, within_deadline

    waiting = Waiting(PLACE, lost)
    named = {} if environment.get("OTEL_SERVICE_NAME") else {"service.name": "holdfast"}
    provider = Provider({**named, "service.version": __version__}, _rate(environment), waiting)
    try:
        exporter = OTLPSpanExporter()
    except ValueError as error:
        raise SettingsError(f"the variables OTEL_EXPORTER_OTLP_...: {error}") from error
    ids = frozenset({"user.id", "gen_ai.conversation.id", "gen_ai.agent.id", "holdfast.run.id"})
    provider.add_span_processor(BatchSpanProcessor(Outlet(exporter, waiting, secrets, ids)))
    try:
        yield OtlpTracer(provider.get_tracer("holdfast", __version__), is_current=is_current)
    finally:
        within_deadline(provider.shutdown)


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
