"""Spans as OTLP has them, made without a tracer of OpenTelemetry's SDK. Import it only where OTLP is configured.

A tracer makes a span that anybody may change at any time, under a lock, with limits to look up: ten times what it costs
to write down what is known when a step ends. Whoever samples has done so before a span begins.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from holdfast import __version__
from holdfast.telemetry.masking import mask

MOST_CHARACTERS = 1_000
"""Of what is said of a failure."""

About = Mapping[str, str | int | None]
"""What a span is about; None is not known."""

_FINE = Status()
_KEPT = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("holdfast", __version__)


@dataclass(slots=True)
class OpenSpan:
    """A span that has begun. `began_ns`: since the epoch."""

    name: str
    context: SpanContext
    parent: SpanContext | None
    kind: SpanKind
    attributes: dict[str, str | int | Sequence[str]]
    began_ns: int
    status: Status = _FINE


class SpanBook:
    """Begins and ends spans; `ended` takes those that are over.

    Args:
        secrets: what no failure may say.
    """

    def __init__(self, resource: Resource, secrets: Sequence[str], ended: Callable[[ReadableSpan], object]) -> None:
        self._resource = resource
        self._secrets = secrets
        self._ended = ended

    def begin(
        self,
        name: str,
        trace_id: int,
        parent: SpanContext | None,
        about: About,
        kind: SpanKind = SpanKind.INTERNAL,
        began_ns: int | None = None,
    ) -> OpenSpan:
        """A span that begins now, or has begun."""
        context = SpanContext(trace_id, random.getrandbits(64) or 1, is_remote=False, trace_flags=_KEPT)
        span = OpenSpan(name, context, parent, kind, {}, began_ns or time.time_ns())
        span.attributes |= {key: value for key, value in about.items() if value is not None}
        return span

    def fail(self, span: OpenSpan, why: str) -> None:
        """This span is one of a failure."""
        span.status = Status(StatusCode.ERROR, mask(why[:MOST_CHARACTERS], self._secrets))

    def end(self, span: OpenSpan, links: Sequence[Link] = ()) -> None:
        """It is over now."""
        self._ended(
            ReadableSpan(
                name=span.name,
                context=span.context,
                parent=span.parent,
                resource=self._resource,
                attributes=span.attributes,
                links=links,
                kind=span.kind,
                instrumentation_scope=_SCOPE,
                status=span.status,
                start_time=span.began_ns,
                end_time=time.time_ns(),
            )
        )
