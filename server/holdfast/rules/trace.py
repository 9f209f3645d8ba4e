"""Which trace a run is part of.

A conversation may need several runs for one input: it stops at questions, and each answer is a run. They are one trace,
and so are all attempts of a run, whichever process makes them. Its id is the first run's own, unless the request that
brought the input is part of a trace already (W3C Trace Context). A run that answers, or that only goes on, belongs to
the trace of the run before it, whatever its request says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from uuid import UUID

TRACEPARENT = "traceparent"
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-[!-~]{1,200})?")


def trace_of(run_id: UUID, trace_id: UUID | None) -> str:
    """The id of a run's trace as OpenTelemetry has it: 32 hexadecimal digits. `trace_id` is what its row says."""
    return (trace_id or run_id).hex


def named_trace(headers: Sequence[str]) -> UUID | None:
    """The trace that a request's `traceparent` headers name; None where there is none, or it is malformed.

    Source: https://www.w3.org/TR/trace-context/#traceparent-header
    """
    if len(headers) != 1 or not (match := _FORM.fullmatch(headers[0].strip())):
        return None
    version, trace, parent, more = match.groups()
    if version == "ff" or (version == "00" and more) or not int(trace, 16) or not int(parent, 16):
        return None
    return UUID(trace)
