"""Where traces arrive: the spans in what an OpenTelemetry exporter sends, as it sends it."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.support.receiver import Call, Receiver
from tests.support.talk import until


@dataclass(frozen=True, slots=True)
class SentSpan:
    """One span that arrived; ids are hexadecimal digits, `parent` is empty for a root."""

    name: str
    trace: str
    id: str
    parent: str
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    failed: bool
    said: str
    """Of the failure."""
    links: list[str]
    """The traces that it names."""


class Collector(Receiver):
    """Takes traces at any path; with `status` it may refuse them, and while its `gate` is shut it does not answer."""

    @property
    def spans(self) -> list[SentSpan]:
        """All that arrived so far, in the order in which they ended."""
        return [span for call in list(self.calls) for span in spans_in(call)]

    def trace(self, trace: str) -> list[SentSpan]:
        return [span for span in self.spans if span.trace == trace]

    def until_there(self, trace: str, *names: str) -> list[SentSpan]:
        """The trace, once spans of these names are in it."""
        return until(
            lambda: set(names) <= {span.name for span in self.trace(trace)} and self.trace(trace),
            f"{names} arrive in {trace}: {[(span.name, span.trace) for span in self.spans]}",
        )


def spans_in(call: Call) -> list[SentSpan]:
    """The spans of one request."""
    body = gzip.decompress(call.body) if call.headers.get("content-encoding") == "gzip" else call.body
    sent = ExportTraceServiceRequest.FromString(body)
    return [
        SentSpan(
            span.name,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            _attributes(span.attributes),
            _attributes(resource.resource.attributes),
            span.status.code == Status.STATUS_CODE_ERROR,
            span.status.message,
            [link.trace_id.hex() for link in span.links],
        )
        for resource in sent.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None
