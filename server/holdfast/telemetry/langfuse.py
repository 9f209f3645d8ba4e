"""Langfuse, where LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY say so: what graphs do, by Langfuse's SDK.

One client per process, with a queue and a thread of its own, made before the project's code is loaded: a graph that
asks the SDK for its client (prompts, scores, `@observe`) gets this one. The SDK's callback handler is made for each
execution (`langfusecallbacks.py`): what a cancelled run leaves in it would stay in one that lives as long as the
process.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from holdfast import __version__
from holdfast.errors import SettingsError
from holdfast.telemetry.traces import Traced, TracedRun

PLACE = "Langfuse"
CLOUD = "https://cloud.langfuse.com"
SECONDS = 5.0
"""What a batch gets to be taken."""

MOST_OF_AN_ID = 200
"""Characters that Langfuse takes of a user's or session's name."""


def is_configured(environment: Mapping[str, str]) -> bool:
    """Whether there are keys.

    Raises:
        SettingsError: there is one of the two.
    """
    keys = [bool(environment.get(f"LANGFUSE_{name}_KEY")) for name in ("PUBLIC", "SECRET")]
    if any(keys) and not all(keys):
        raise SettingsError("LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY: one is set without the other")
    return all(keys) and environment.get("LANGFUSE_TRACING_ENABLED", "true").lower() != "false"


class LangfuseTracer:
    """Traces graphs into Langfuse. `rate`: the share of traces that are kept."""

    def __init__(self, public_key: str, rate: float) -> None:
        self._public_key = public_key
        self._rate = rate

    @contextmanager
    def executing(self, run: TracedRun) -> Iterator[Traced]:
        """Trace an execution, with its thread as the session and its owner as the user."""
        from langfuse import propagate_attributes

        from holdfast.telemetry.langfusecallbacks import Callbacks
        from holdfast.telemetry.spans import is_kept

        if not is_kept(int(run.trace_id, 16), self._rate):
            yield Traced()
            return
        with propagate_attributes(
            trace_name=run.graph_id,
            session_id=run.thread_id,
            user_id=run.owner[:MOST_OF_AN_ID],
            tags=[run.graph_id, run.assistant_id],
        ):
            yield Traced([Callbacks(public_key=self._public_key)])


@contextmanager
def langfuse(
    environment: Mapping[str, str], secrets: Sequence[str], lost: Callable[[int], object]
) -> Iterator[LangfuseTracer]:
    """A tracer into Langfuse, until the block ends.

    Raises:
        SettingsError: a setting is malformed.
    """
    # Images would wait beside the queue, unmasked and however many there are.
    os.environ.setdefault("LANGFUSE_MEDIA_UPLOAD_ENABLED", "false")
    from langfuse import Langfuse, LangfuseOtelSpanAttributes
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    from holdfast.telemetry.spans import Outlet, Provider, Waiting, masked_spans, rate_in, within_deadline

    public_key, secret_key = environment["LANGFUSE_PUBLIC_KEY"], environment["LANGFUSE_SECRET_KEY"]
    base_url = (environment.get("LANGFUSE_BASE_URL") or environment.get("LANGFUSE_HOST") or CLOUD).rstrip("/")
    release = environment.get("LANGFUSE_RELEASE") or environment.get("HOLDFAST_RELEASE") or f"holdfast-{__version__}"
    stage = environment.get("LANGFUSE_TRACING_ENVIRONMENT") or "default"
    rate = rate_in(environment, "LANGFUSE_SAMPLE_RATE")
    waiting = Waiting(PLACE, lost)
    attributes = LangfuseOtelSpanAttributes
    exporter = OTLPSpanExporter(
        endpoint=f"{base_url}/api/public/otel/v1/traces",
        headers={
            "Authorization": f"Basic {b64encode(f'{public_key}:{secret_key}'.encode()).decode()}",
            "x-langfuse-public-key": public_key,
            "x-langfuse-ingestion-version": "4",
        },
        timeout=SECONDS,
        compression=Compression.Gzip,
    )
    ids = frozenset({attributes.TRACE_USER_ID, attributes.TRACE_SESSION_ID, attributes.RELEASE})
    outlet = Outlet(exporter, waiting, partial(masked_spans, secrets=secrets, ids=ids))
    client = Langfuse(
        public_key=public_key,
        secret_key=secret_key,
        base_url=base_url,
        release=release,
        environment=stage,
        tracer_provider=Provider({attributes.ENVIRONMENT: stage, attributes.RELEASE: release}, rate, waiting),
        span_exporter=outlet,
    )
    try:
        yield LangfuseTracer(public_key, rate)
    finally:
        within_deadline(client.shutdown)
