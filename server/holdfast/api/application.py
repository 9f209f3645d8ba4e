"""The HTTP application: our API, and around it the project's own (`http.app`), CORS and the mount prefix."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast import __version__
from holdfast.api import (
    a2a,
    approvals,
    assistants,
    crons,
    mcp,
    problems,
    runs,
    stateless,
    states,
    store,
    system,
    threads,
    threadstream,
)
from holdfast.api.access import observed
from holdfast.api.browsers import confined, guarded
from holdfast.api.customapp import CustomApp
from holdfast.api.deps import Services
from holdfast.api.openapi import apart, document, operation_id
from holdfast.api.reading import PACES, Paces
from holdfast.api.responses import Json
from holdfast.rules.site import Sites
from holdfast.sections import AuthSection, Cors, HttpSection
from holdfast.settings import LOOPBACK

EXPOSED_HEADERS = [
    "content-location",
    "idempotent-replayed",
    "location",
    "x-pagination-next",
    "x-pagination-total",
    "x-request-id",
]
"""What browsers may read. With `location` a browser's SDK reconnects to a cut stream; without it, it cannot."""

DOCS_ASSETS = "/docs/assets"
"""The documentation page loads its scripts from here and not from elsewhere: nothing leaves the machine."""


def create_app(services: Services, http: HttpSection | None = None) -> FastAPI:
    """Our API over these services, without what `http` disables."""
    http = http or HttpSection()
    options: dict[str, Any] = {
        "title": "Holdfast",
        "version": __version__,
        "description": "An open agent server for LangGraph.",
        "generate_unique_id_function": operation_id,
        # Routes say themselves what they answer; the framework would say "JSON" for all.
        "default_response_class": Response,
    }
    if http.disable_meta:
        app = FastAPI(openapi_url=None, **options)
    else:
        app = FastAPIOffline(redoc_url=None, static_url=DOCS_ASSETS, **options)
    app.state.services = services
    app.state.http = http
    for is_there, router in routers(http):
        if is_there:
            app.include_router(router)
    problems.install(app)
    app.openapi = partial(document, app)  # type: ignore[method-assign]  # FastAPI's own way to change the document
    return app


def routers(http: HttpSection) -> Iterator[tuple[bool, APIRouter]]:
    """All our routers, and whether `http` leaves each of them there."""
    # The first that takes a path has it, and runs come most often. Crons come before: `crons` there is no run's id.
    yield not http.disable_runs, crons.router
    yield not http.disable_runs, runs.router
    yield not http.disable_runs, stateless.router
    yield True, system.router
    yield not http.disable_meta, system.meta
    yield not http.disable_assistants, assistants.router
    yield not http.disable_threads, threads.router
    yield not http.disable_threads, states.router
    yield not http.disable_threads, threadstream.router
    yield not http.disable_threads, approvals.router
    yield not http.disable_store, store.router
    yield not http.disable_mcp, mcp.router
    yield not http.disable_a2a, a2a.router


def serving(
    app: FastAPI, services: Services, *, http: HttpSection, auth: AuthSection, custom: CustomApp | None, prefix: str
) -> ASGIApp:
    """All that answers requests, from the outside in: prefix, access log, metrics, who may ask, CORS, the project's
    app, our API."""
    document_with(app, custom, auth)
    inner = confined(app)
    if custom is not None:
        inner = custom.around(app, services.gate, http)
    if http.cors is not None or custom is None or not custom.has_cors:
        inner = with_cors(inner, http.cors or Cors(expose_headers=EXPOSED_HEADERS))
    inner = guarded(_paced(inner), _sites(services, http, auth, custom))
    inner = services.traffic.counting(parting(inner, services.leaving))
    says, patterns = services.settings.log_access, http.logging_headers
    inner = observed(inner, says=says, patterns=patterns, traced=services.traces.answered)
    return below(prefix, inner) if prefix else inner


def _paced(app: ASGIApp) -> ASGIApp:
    """`app`, to which large bodies do not come faster than others can bear."""
    paces = Paces()

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        scope[PACES] = paces
        await app(scope, receive, send)

    return answered


def _sites(services: Services, http: HttpSection, auth: AuthSection, custom: CustomApp | None) -> Sites:
    settings = services.settings
    cors = http.cors
    return Sites(
        hosts=settings.allowed_hosts,
        origins=[*settings.allowed_origins, *(cors.allow_origins if cors else ())],
        origin_regex=cors.allow_origin_regex if cors else None,
        is_open=not (settings.authenticates or auth.path),
        is_loopback=settings.host in LOOPBACK,
        cors_decides=cors is not None or (custom is not None and custom.has_cors),
    )


async def not_ready(scope: Scope, receive: Receive, send: Send) -> None:
    """What is answered while the database is not there: alive, and nothing else."""
    alive = scope["path"].endswith(("/ok", "/health")) and b"check_db=1" not in scope["query_string"]
    answer = Json({"ok": True}) if alive else problems.database_away()
    await answer(scope, receive, send)


def health_of(services: Services) -> ASGIApp:
    """What a process without the API answers: whether it is well, and its figures."""
    app = FastAPI(openapi_url=None, default_response_class=Response)
    app.state.services = services
    app.state.http = HttpSection()
    app.include_router(system.router)
    app.include_router(system.meta)
    problems.install(app)
    return services.traffic.counting(parting(app, services.leaving))


def with_cors(app: ASGIApp, cors: Cors) -> ASGIApp:
    """`app`, which browsers may call from elsewhere; also where their network asks first, as Studio's does."""
    return CORSMiddleware(
        app,
        allow_origins=cors.allow_origins,
        allow_origin_regex=cors.allow_origin_regex,
        allow_methods=cors.allow_methods,
        allow_headers=cors.allow_headers,
        allow_credentials=cors.allow_credentials,
        expose_headers=cors.expose_headers or EXPOSED_HEADERS,
        max_age=cors.max_age,
        allow_private_network=True,
    )


def parting(app: ASGIApp, leaving: asyncio.Event) -> ASGIApp:
    """`app`, whose answers close their connections once the process was asked to stop: the next goes elsewhere."""

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        async def last(message: Message) -> None:
            if leaving.is_set() and message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await app(scope, receive, last)

    return answered


def below(prefix: str, app: ASGIApp) -> ASGIApp:
    """`app` with all its paths under `prefix` ("/api"), and nothing beside it."""

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path != prefix and not path.startswith(prefix + "/"):
            await problems.detail(404, "Not Found")(scope, receive, send)
            return
        if path == prefix:
            scope = {**scope, "path": prefix + "/"}
        await app({**scope, "root_path": scope.get("root_path", "") + prefix}, receive, send)

    return mounted


def document_with(app: FastAPI, custom: CustomApp | None, auth: AuthSection) -> None:
    """Let the OpenAPI document show the project's routes and its way to authenticate, too."""
    ours: Callable[[], dict[str, Any]] = app.openapi

    def merged() -> dict[str, Any]:
        document = {**ours()}
        for part in (apart(custom.openapi(), document) if custom else {}, auth.openapi or {}):
            for key in ("paths", "components"):
                document[key] = _merged(document.get(key, {}), part.get(key, {}))
            if schemes := part.get("securitySchemes"):
                document["components"] = _merged(document["components"], {"securitySchemes": schemes})
            if "security" in part:
                document["security"] = part["security"]
        return document

    app.openapi = merged  # type: ignore[method-assign]  # FastAPI's own way to change the document


def _merged(document: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """Both, and objects that both have are merged too; what is added wins."""
    both = {
        key: _merged(document[key], value) if isinstance(value, dict) and isinstance(document.get(key), dict) else value
        for key, value in added.items()
    }
    return {**document, **both}
