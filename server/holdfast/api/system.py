"""Health, identity and figures; never authenticated."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeHistogramMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from holdfast import __version__
from holdfast.api.deps import Services, With
from holdfast.api.documents import docs, json_of, schema_of
from holdfast.api.health import database_answers, readiness
from holdfast.api.responses import Json
from holdfast.db import metrics as figures
from holdfast.db.alerts import firing
from holdfast.errors import BadRequest
from holdfast.wire.system import Figures, Health, Info, storage_view

router = APIRouter(tags=["System"])
"""What load balancers ask; always there."""

meta = APIRouter(tags=["System"])
"""What people and their tools ask."""

COMPATIBLE_VERSION = "0.16.7"
"""The langgraph-api version whose wire we speak. Studio switches features on by this number."""


@router.get(
    "/ok",
    summary="The process is alive; with check_db=1, so is its database",
    **docs(answers=Health, refuses=(400,), fails={503: Health}, asks=False),
)
@router.get("/health", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def ok(
    request: Request,
    with_: With,
    check_db: Annotated[str, Query(description="0 or 1", json_schema_extra={"enum": ["0", "1"]})] = "0",
) -> Response:
    if check_db not in ("0", "1"):
        raise BadRequest("check_db must be 0 or 1")
    if check_db == "1":
        answers = await database_answers(with_)
        return _health({"database": "healthy" if answers else "unhealthy"})
    return Json({"ok": True} if request.app.state.http.disable_meta else {"ok": True, "services": {}})


@router.get(
    "/ready",
    summary="The process can do its work, and nobody asked it to stop",
    **docs(
        answers=Health,
        means="The database answers and has all tables of this version, a request would get a connection to it, and "
        "the worker of this process, if it has one, is alive.",
        fails={503: Health},
        asks=False,
    ),
)
async def ready(with_: With) -> Response:
    return _health(await readiness(with_))


@meta.get("/info", summary="What serves here", **docs(answers=Info, asks=False))
async def info() -> Response:
    return Json(
        {
            "version": COMPATIBLE_VERSION,
            "langgraph_py_version": version("langgraph"),
            "holdfast_version": __version__,
            "flags": {
                "assistants": True,
                "crons": True,
                "langsmith": False,
                "langsmith_tracing_replicas": False,
                "langsmith_tracing_session_on_runs": False,
            },
            "host": {
                "kind": "self-hosted",
                "project_id": None,
                "host_revision_id": None,
                "revision_id": None,
                "tenant_id": None,
            },
        }
    )


@meta.get(
    "/metrics",
    summary="The queue, what threads take up, and what this process answered",
    **docs(
        answers={**json_of(schema_of(Figures)), "text/plain": {"schema": {"type": "string"}}},
        means="In the text format of Prometheus, with what the project's code counts beside it, or as JSON.",
        refuses=(422, 503),
        asks=False,
    ),
)
async def metrics(
    with_: With, shape: Annotated[Literal["prometheus", "json"], Query(alias="format")] = "prometheus"
) -> Response:
    if shape == "json":
        queue, measured = await figures.queue(with_.database), await figures.storage(with_.database)
        storage = storage_view(*measured) if measured else None
        alerts, traffic = await firing(with_.database), await asyncio.to_thread(with_.traffic.totals)
        return Json({"queue": queue, "storage": storage, "alerts": alerts, "api": {"http_requests_total": traffic}})
    text = await _database_figures(with_) + await asyncio.to_thread(with_.traffic.metrics.text)
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})


async def _database_figures(with_: Services) -> bytes:
    """What is the same at every replica; only that the database is away while it is."""
    known = await with_.figures.read()
    up = GaugeMetricFamily(
        "holdfast_database_up", "Whether the database answers this process", float(known is not None)
    )
    families: list[Metric] = [up]
    if known is not None:
        about = "The database's, the same at every replica"
        families += [GaugeMetricFamily(f"holdfast_{name}", about, value) for name, value in known.numbers.items()]
        firing = GaugeMetricFamily("holdfast_alerts_firing", "Alerts that go on (docs/alerts.md)", labels=["kind"])
        for kind, count in known.alerts.items():
            firing.add_metric([kind], count)
        families.append(firing)
        families += _storage_families(storage_view(*known.storage)) if known.storage else []
    registry = CollectorRegistry()
    registry.register(_Measured(families))
    return generate_latest(registry)


def _storage_families(storage: dict[str, Any]) -> list[Metric]:
    sizes = GaugeHistogramMetricFamily("holdfast_thread_bytes", "What threads take up in the database")
    bounds = [*storage["threads_up_to_bytes"].items(), ("+Inf", storage["threads"])]
    sizes.add_metric([], bounds, storage["bytes"])
    largest = GaugeMetricFamily("holdfast_largest_thread_bytes", "What the largest threads take up", labels=["place"])
    for place, size in enumerate(storage["largest_bytes"], 1):
        largest.add_metric([str(place)], size)
    return [sizes, largest]


class _Measured(Collector):
    """Figures that somebody else counted."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families


def _health(services: Mapping[str, str]) -> Response:
    ok = set(services.values()) == {"healthy"}
    return Json({"ok": ok, "services": services}, status_code=200 if ok else 503)
