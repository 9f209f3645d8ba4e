"""The FastAPI application: routes, errors, CORS."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from holdfast import __version__
from holdfast.api import (
    a2a,
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
from holdfast.api.deps import Services

EXPOSED_HEADERS = ["content-location", "location", "x-pagination-next", "x-pagination-total"]
"""What browsers may read. With `location` a browser's SDK reconnects to a cut stream; without it, it cannot."""


def create_app(services: Services) -> FastAPI:
    """The application over these services."""
    app = FastAPI(title="Holdfast", version=__version__, description="An open agent server for LangGraph.")
    app.state.services = services
    # Crons before runs: `crons` in their paths is no run's id.
    for router in (
        system.router,
        assistants.router,
        threads.router,
        threadstream.router,
        states.router,
        crons.router,
        runs.router,
        stateless.router,
        store.router,
        mcp.router,
        a2a.router,
    ):
        app.include_router(router)
    problems.install(app)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=EXPOSED_HEADERS,
        allow_private_network=True,
    )
    return app
