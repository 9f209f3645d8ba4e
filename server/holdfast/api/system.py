"""Health and identity; never authenticated."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Response

from holdfast import __version__
from holdfast.api.deps import With
from holdfast.api.responses import Json
from holdfast.errors import DatabaseError

router = APIRouter(tags=["System"])

COMPATIBLE_VERSION = "0.16.7"
"""The langgraph-api version whose wire we speak. Studio switches features on by this number."""


@router.get("/ok", summary="The process is alive")
@router.get("/health", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def ok() -> Response:
    return Json({"ok": True, "services": {}})


@router.get("/ready", summary="The process can do its work: the database answers")
async def ready(with_: With) -> Response:
    try:
        async with with_.database.connection("api") as conn:
            await conn.execute("SELECT 1")
    except DatabaseError:
        return Json({"ok": False, "services": {"database": "unhealthy"}}, status_code=503)
    return Json({"ok": True, "services": {"database": "healthy"}})


@router.get("/info", summary="What serves here")
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
