"""The project's own application (`http.app`): its routes before ours, its middleware and lifespan around all.

Our API becomes the last route of the project's application. So a request goes through the project's middleware, then to
the project's routes, and what those do not answer is ours. Health, metrics and the API's documents stay ours whatever
the project's routes say. An exception in a route of the project is handled by the project's own handlers; ours never
leaves our API.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from holdfast.api.access import recognised
from holdfast.api.auth import Gate
from holdfast.api.problems import refusal
from holdfast.api.reading import again
from holdfast.api.responses import CUT
from holdfast.errors import DatabaseUnavailable, ProjectError, Refusal
from holdfast.rules.caller import User
from holdfast.sections import HttpSection

ALWAYS_OURS = ("/ok", "/metrics", "/docs", "/openapi.json")
OPEN = frozenset({"/", "/ok", "/health", "/ready", "/info", "/metrics", "/docs", "/openapi.json"})
"""Our own paths that need no credential; so do those below /docs."""


class CustomApp:
    """What `http.app` names."""

    def __init__(self, app: object, place: str) -> None:
        """`place` is its `file:line`.

        Raises:
            ProjectError: it is no Starlette application, or one with hooks that would never run.
        """
        if not isinstance(app, Starlette):
            raise ProjectError(f"'http.app': {place}: must be a Starlette or FastAPI app, not {type(app).__name__}")
        for hooks in ("on_startup", "on_shutdown"):
            if getattr(app.router, hooks, None):
                raise ProjectError(f"'http.app': {place}: has {hooks} functions, which are not run: use a lifespan")
        self._app = app
        self._state: dict[str, Any] = {}

    @property
    def has_cors(self) -> bool:
        """Whether it decides by itself which browsers may call."""
        kinds = [middleware.cls for middleware in self._app.user_middleware]
        return any(isinstance(kind, type) and issubclass(kind, CORSMiddleware) for kind in kinds)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Its lifespan; what that yields is the state of every request."""
        async with self._app.router.lifespan_context(self._app) as state:
            self._state = dict(state or {})
            yield

    def openapi(self) -> dict[str, Any]:
        """Its OpenAPI document; empty for a Starlette app, which has none."""
        return self._app.openapi() if isinstance(self._app, FastAPI) else {}

    def around(self, ours: ASGIApp, gate: Gate, http: HttpSection) -> ASGIApp:
        """It, with our API as its last route."""
        routes = list(self._app.router.routes)
        if http.enable_custom_route_auth or http.middleware_order == "auth_first":
            door = Middleware(_Door, gate=gate, routes=routes, http=http)
            position = 0 if http.middleware_order == "auth_first" else len(self._app.user_middleware)
            self._app.user_middleware.insert(position, door)
        first = [Route(path, ours, include_in_schema=False) for path in ALWAYS_OURS]
        self._app.router.routes[:] = [*first, *routes, Mount("", ours)]
        return self._stateful

    async def _stateful(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {}).update(self._state)

        async def unless_cut(message: Message) -> None:
            # BaseHTTPMiddleware ends the body of an answer that broke off; then its client would not come back.
            if CUT not in scope or message.get("more_body", False):
                await send(message)

        await self._app(scope, receive, unless_cut)


class _Door:
    """Authenticates before the project's routes (`enable_custom_route_auth`), or its middleware (`auth_first`), run."""

    def __init__(self, app: ASGIApp, *, gate: Gate, routes: Sequence[BaseRoute], http: HttpSection) -> None:
        self._app = app
        self._gate = gate
        self._routes = routes
        self._http = http

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not self._is_guarded(scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive) if scope["type"] == "http" else HTTPConnection(scope)
        try:
            caller = await self._gate.admit(request)
        except (Refusal, HTTPException, DatabaseUnavailable) as error:
            answer: ASGIApp = WebSocketClose(1008) if scope["type"] == "websocket" else refusal(error)
            await answer(scope, receive, send)
            return
        recognised(scope, caller)
        scope["user"] = caller.user or User(identity=caller.owner)
        scope["auth"] = AuthCredentials(list(caller.permissions))
        await self._app(scope, again(scope, receive), send)

    def _is_guarded(self, scope: Scope) -> bool:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in ALWAYS_OURS:
            return False
        if any(route.matches(dict(scope))[0] is Match.FULL for route in self._routes):
            return self._http.enable_custom_route_auth
        is_open = path in OPEN or path.startswith("/docs/")
        return self._http.middleware_order == "auth_first" and not is_open
