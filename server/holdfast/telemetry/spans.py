"""What all tracers share: whose trace a span is part of, which traces are kept, and the way out of the process.

The way out is OpenTelemetry's: a queue, and a thread that sends batches of it. Around it stands what an outage must not
cost. The queue is bounded by count and by bytes; what does not fit is dropped, counted, and said once until spans
arrive again. At the end of the process it gets `LAST_SECONDS`. Masking takes place in that thread, not on the event
loop.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from holdfast.errors import SettingsError
from holdfast.telemetry.masking import mask

logger = logging.getLogger(__name__)

MOST_SPANS = 2048
MOST_BYTES = 32 * 2**20
"""What may wait to be sent, as far as attributes count: less than an exporter sends at once (64 MiB)."""

MOST_CHARACTERS = 100_000
"""Of one attribute. Longer ones are cut: a state of megabytes, with every step, is nothing to look at."""

LONGEST_SECRET = 1024

LAST_SECONDS = 2.0
"""What spans under way get when the process ends."""

EXPORTER_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk.trace.export",
    "opentelemetry.sdk._shared_internal",
)

_trace_id: ContextVar[str | None] = ContextVar("holdfast_trace_id", default=None)


@contextlib.contextmanager
def in_trace(trace_id: str) -> Iterator[None]:
    """Spans without a parent that begin meanwhile are part of this trace (32 hexadecimal digits)."""
    token = _trace_id.set(trace_id)
    try:
        yield
    finally:
        _trace_id.reset(token)


class _Ids(RandomIdGenerator):
    """Where a trace is given, a span that begins without a parent is part of that."""

    def generate_trace_id(self) -> int:
        given = _trace_id.get()
        return super().generate_trace_id() if given is None else int(given, 16)

    def is_trace_id_random(self) -> bool:
        return False


RANDOM = 1 << 56


def is_kept(trace_id: int, rate: float) -> bool:
    """Whether a trace is among the share that is kept, as a whole and on every replica.

    A run's id is a UUIDv7. OpenTelemetry's own sampler looks at the last 64 bits, where its variant stands: of such ids
    it keeps none at rates up to a half, and all from three quarters on. The last 56 bits are random.
    """
    return trace_id % RANDOM < rate * RANDOM


class _Sampler(TraceIdRatioBased):
    """Keeps the traces that `is_kept` keeps."""

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        return super().should_sample(parent_context, trace_id << 8, name, kind, attributes, links, trace_state)


def rate_in(environment: Mapping[str, str], name: str) -> float:
    """The share of traces to keep that a variable gives; 1 where it is not set.

    Raises:
        SettingsError: it is no number from 0 to 1.
    """
    try:
        rate = float(environment.get(name) or 1.0)
    except ValueError:
        rate = -1.0
    if not 0.0 <= rate <= 1.0:
        raise SettingsError(f"{name} must be a number from 0 to 1")
    return rate


class Provider(TracerProvider):
    """Makes spans, and is nobody else's: not OpenTelemetry's global one, which is the project's."""

    def __init__(self, resource: Mapping[str, str], rate: float, waiting: Waiting) -> None:
        super().__init__(
            resource=Resource.create(dict(resource)),
            sampler=_Sampler(rate),
            id_generator=_Ids(),
            shutdown_on_exit=False,
        )
        self._waiting = waiting

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        super().add_span_processor(Bounded(span_processor, self._waiting))


class Waiting:
    """The spans that wait to be sent to one place.

    Args:
        place: what it is called in lines.
        lost: told of every lot of spans that did not arrive.
    """

    def __init__(self, place: str, lost: Callable[[int], object]) -> None:
        self._place = place
        self._lost = lost
        self._lock = threading.Lock()
        self._sizes: dict[tuple[int, int], int] = {}
        self._bytes = 0
        self._said = False

    def has_room_for(self, span: ReadableSpan) -> bool:
        """Take a span in; False: there is no room, and it is lost."""
        size = _size(span)
        with self._lock:
            if fits := len(self._sizes) < MOST_SPANS and self._bytes + size <= MOST_BYTES:
                self._sizes[_key(span)] = size
                self._bytes += size
        if not fits:
            self._lose(1, "more are made than can be sent")
        return fits

    def left(self, spans: Sequence[ReadableSpan]) -> None:
        """These spans wait no more."""
        with self._lock:
            self._bytes -= sum(self._sizes.pop(_key(span), 0) for span in spans)

    def arrived(self) -> None:
        """Spans were taken."""
        if self._said:
            self._said = False
            logger.info("%s takes traces again", self._place)

    def refused(self, spans: Sequence[ReadableSpan], why: str) -> None:
        """These spans were not taken."""
        self._lose(len(spans), why)

    def _lose(self, count: int, why: str) -> None:
        self._lost(count)
        if not self._said:
            self._said = True
            logger.warning("traces for %s are lost: %s (said once, until some arrive)", self._place, why)


class Bounded(SpanProcessor):
    """Puts spans into a queue while there is room."""

    def __init__(self, queue: SpanProcessor, waiting: Waiting) -> None:
        self._queue = queue
        self._waiting = waiting

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._queue.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        if self._waiting.has_room_for(span):
            self._queue.on_end(span)

    def shutdown(self) -> None:
        self._queue.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._queue.force_flush(timeout_millis)


def _as_they_are(spans: Sequence[ReadableSpan]) -> Sequence[ReadableSpan]:
    return spans


class Outlet(SpanExporter):
    """Sends spans by `exporter`, as `shown` makes them."""

    def __init__(
        self,
        exporter: SpanExporter,
        waiting: Waiting,
        shown: Callable[[Sequence[ReadableSpan]], Sequence[ReadableSpan]] = _as_they_are,
    ) -> None:
        self._exporter = exporter
        self._waiting = waiting
        self._shown = shown

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            with _overheard() as reasons:
                result = self._exporter.export(self._shown(spans))
        finally:
            self._waiting.left(spans)
        if result is SpanExportResult.SUCCESS:
            self._waiting.arrived()
        else:
            self._waiting.refused(spans, reasons[-1] if reasons else "they were not taken")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def masked_spans(
    spans: Sequence[ReadableSpan], *, secrets: Sequence[str], ids: frozenset[str]
) -> Sequence[ReadableSpan]:
    """Spans without `secrets` and what looks like one; `ids` are attributes that stay as they are."""
    return _Masking(secrets, ids).of(spans)


class _Masking:
    """Masks the spans of a batch, each text once: what one step puts out the next one takes in."""

    def __init__(self, secrets: Sequence[str], ids: frozenset[str]) -> None:
        self._secrets = secrets
        self._ids = ids
        self._known: dict[str, str] = {}

    def of(self, spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
        return [self._masked(span) for span in spans]

    def _masked(self, span: ReadableSpan) -> ReadableSpan:
        return ReadableSpan(
            name=self._text(span.name),
            context=span.context,
            parent=span.parent,
            resource=span.resource,
            attributes=self._attributes(span.attributes),
            events=[Event(event.name, self._attributes(event.attributes), event.timestamp) for event in span.events],
            links=span.links,
            kind=span.kind,
            instrumentation_scope=span.instrumentation_scope,
            status=type(span.status)(span.status.status_code, self._text(span.status.description or "") or None),
            start_time=span.start_time,
            end_time=span.end_time,
        )

    def _attributes(self, attributes: Mapping[str, Any] | None) -> dict[str, Any]:
        return {name: value if name in self._ids else self._value(value) for name, value in (attributes or {}).items()}

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, tuple):
            return tuple(self._value(item) for item in value)
        return value

    def _text(self, text: str) -> str:
        if (masked := self._known.get(text)) is None:
            masked = self._known[text] = self._looked_through(text)
        return masked

    def _looked_through(self, text: str) -> str:
        if len(text) <= MOST_CHARACTERS:
            return mask(text, self._secrets)
        # A secret that the cut would go through is seen as a whole, or is behind the end.
        return mask(text[: MOST_CHARACTERS + LONGEST_SECRET], self._secrets)[:MOST_CHARACTERS] + " [cut]"


class _Overhearing(logging.Filter):
    """Keeps what this thread's exporter says, which `Waiting` says once, to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self._thread:
            return True
        self.said.append(record.getMessage())
        return False


@contextlib.contextmanager
def _overheard() -> Iterator[list[str]]:
    ears, loggers = _Overhearing(), [logging.getLogger(name) for name in EXPORTER_LOGGERS]
    for one in loggers:
        one.addFilter(ears)
    try:
        yield ears.said
    finally:
        for one in loggers:
            one.removeFilter(ears)


def within_deadline(close: Callable[[], object]) -> None:
    """Send what waits, for `LAST_SECONDS` at most; whatever does not answer is left to its daemon threads."""
    thread = threading.Thread(target=close, name="holdfast-last-spans", daemon=True)
    thread.start()
    thread.join(LAST_SECONDS)
    if thread.is_alive():
        logger.warning("the last traces are lost: they were not taken within %g s", LAST_SECONDS)


def _key(span: ReadableSpan) -> tuple[int, int]:
    context = span.context
    return (context.trace_id, context.span_id) if context is not None else (0, 0)


def _size(span: ReadableSpan) -> int:
    return sum(map(_length, (span.attributes or {}).values()))


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    return sum(map(_length, value)) if isinstance(value, Iterable) else 8
