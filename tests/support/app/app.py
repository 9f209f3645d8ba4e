"""An application of a project's own: routes, middleware, a lifespan, and handlers of its own errors."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from langgraph_sdk import Auth
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger("project")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
    log.warning("the project's lifespan begins")
    if os.environ.get("LIFESPAN_FAILS"):
        raise RuntimeError("no such warehouse")
    yield {"greeting": "hello"}
    log.warning("the project's lifespan ends")


app = FastAPI(lifespan=lifespan)


class Teapot(Exception):
    pass


class Order(BaseModel):
    cups: int


@app.exception_handler(Teapot)
async def short_and_stout(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"teapot": str(error)}, 418)


class Tagged:
    """Plain ASGI middleware; says who it believes is calling."""

    def __init__(self, inner: ASGIApp) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        user = scope.get("user")

        async def tagged(message: Any) -> None:
            if message["type"] == "http.response.start":
                seen = user.identity if user else "nobody"
                message["headers"] = [*message["headers"], (b"x-seen", seen.encode())]
            await send(message)

        await self.inner(scope, receive, tagged)


class Buffering(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-project"] = "yes"
        return response


app.add_middleware(Tagged)
app.add_middleware(Buffering)


@app.get("/")
async def home() -> dict[str, str]:
    return {"home": "ours"}


@app.get("/hello")
async def hello(request: Request) -> dict[str, Any]:
    user = request.scope.get("user")
    return {"greeting": request.state.greeting, "user": user.identity if user else None}


@app.post("/orders")
async def order(body: Order) -> Order:
    return body


@app.get("/teapot")
async def teapot() -> None:
    raise Teapot("no coffee")


@app.get("/threads/special")
async def special() -> dict[str, bool]:
    return {"special": True}


@app.get("/ok")
@app.get("/metrics")
async def never() -> dict[str, str]:
    return {"this": "is never answered"}


hooked = FastAPI()
hooked.router.on_startup.append(print)
no_app = "app"

auth = Auth()


@auth.authenticate
async def authenticate(authorization: str | None, body: Any) -> str:
    if authorization != "Bearer key":
        raise Auth.exceptions.HTTPException(401, "Who are you?")
    return "ada"
