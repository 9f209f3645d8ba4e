"""The instruments of a process: what counts, what traces, and who is told of errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from holdfast.settings import Settings
from holdfast.telemetry.langfuse import is_configured as has_langfuse
from holdfast.telemetry.langfuse import langfuse
from holdfast.telemetry.masking import known_secrets
from holdfast.telemetry.metrics import Metrics
from holdfast.telemetry.otlp import is_configured as has_otlp
from holdfast.telemetry.otlp import otlp
from holdfast.telemetry.sentry import reporting
from holdfast.telemetry.traces import Tracer, Traces


@dataclass(frozen=True, slots=True)
class Instruments:
    """What the parts of a process are observed with."""

    metrics: Metrics
    traces: Traces


@contextmanager
def instrumented(settings: Settings, environment: Mapping[str, str]) -> Iterator[Instruments]:
    """The instruments that the environment asks for, until the block ends. To be had before the project's code loads.

    Raises:
        SettingsError: one is asked for in a way that cannot be.
    """
    metrics = Metrics()
    secrets = known_secrets(settings, environment)
    tracers: list[Tracer] = []
    with ExitStack() as stack:
        stack.enter_context(reporting(settings, environment))
        if has_langfuse(environment):
            lost = partial(_count, metrics, "langfuse")
            tracers.append(stack.enter_context(langfuse(environment, secrets, lost)))
        answered = None
        if has_otlp(environment):
            lost = partial(_count, metrics, "otlp")
            # Langfuse's own spans are the current ones where it traces.
            spans = stack.enter_context(otlp(environment, secrets, lost, is_current=not tracers))
            tracers.append(spans)
            answered = spans.answered
        yield Instruments(metrics, Traces(tracers, answered))


def _count(metrics: Metrics, place: str, spans: int) -> None:
    metrics.spans_lost.labels(place).inc(spans)
