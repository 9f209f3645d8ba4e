"""The one place where errors become HTTP answers: `{"detail": "<text>"}`, never a bare 500."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from holdfast.api.responses import Json
from holdfast.errors import (
    BadRequest,
    DatabaseUnavailable,
    EmbeddingFailed,
    HoldfastError,
    Invalid,
    Refusal,
    TooMany,
    UnknownGraph,
    Unsaveable,
)

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 1
HOLD_SECONDS = 0.5
"""How long it takes to be told that one asks too much."""

_REFUSED_WITH = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": str(RETRY_AFTER_SECONDS)}}
"""Headers of refusals, by status."""


def install(app: FastAPI) -> None:
    """Teach the application our error tree."""
    app.add_exception_handler(Refusal, _refusal)
    app.add_exception_handler(UnknownGraph, _unknown_graph)
    app.add_exception_handler(DatabaseUnavailable, _unavailable)
    app.add_exception_handler(Unsaveable, _unsaveable)
    app.add_exception_handler(EmbeddingFailed, _no_embedding)
    app.add_exception_handler(HoldfastError, _unexpected)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def refusal(error: Refusal | HTTPException | DatabaseUnavailable) -> Response:
    """The answer to a request that authentication refused before it met a route."""
    if isinstance(error, DatabaseUnavailable):
        return database_away()
    if isinstance(error, HTTPException):
        return detail(error.status_code, str(error.detail), dict(error.headers or {}))
    if isinstance(error, TooMany):
        return detail(error.status, str(error), {"retry-after": str(error.retry_after)})
    return detail(error.status, str(error), _REFUSED_WITH.get(error.status))


def detail(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """An error in the API's shape."""
    return Json({"detail": text}, status_code=status, headers=headers)


def database_away() -> Response:
    return detail(503, "The database is not available right now.", {"retry-after": str(RETRY_AFTER_SECONDS)})


def explain(error: ValidationError | RequestValidationError) -> str:
    """All that is wrong with a body, as one text: `field: what`, separated by semicolons."""
    return "; ".join(_explain_one(problem) for problem in error.errors())


def invalid(error: ValidationError) -> Invalid:
    return Invalid(explain(error))


def _explain_one(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"] if part not in ("body", "query", "path"))
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    if isinstance(error, TooMany):
        # Who asks again and again would have each refusal cost others as much as an answer.
        await asyncio.sleep(HOLD_SECONDS)
    return refusal(error)


async def _unknown_graph(_: Request, error: Exception) -> Response:
    return detail(BadRequest.status, str(error))


async def _unavailable(_: Request, error: Exception) -> Response:
    logger.warning("answered 503: %s", error)
    return database_away()


async def _unsaveable(_: Request, error: Exception) -> Response:
    return detail(Invalid.status, f"The database cannot hold this value: {error}")


async def _no_embedding(_: Request, error: Exception) -> Response:
    logger.error("answered 502: %s", error, exc_info=error.__cause__)
    return detail(502, f"Nothing was stored or searched: {error}")


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return detail(422, explain(error))


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refusal(error)


async def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return detail(500, "Internal error: the server's log has the details.")
