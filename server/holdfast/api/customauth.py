"""The gate of a project that brings its own: a `langgraph_sdk.Auth` object (`auth.path` in langgraph.json).

Theory of operation. `admit` calls the project's `authenticate` with what it asks for by name. `allow` looks for the
most specific `@auth.on` handler of a resource and action, and turns its answer into what the caller sees:

    None, True              everybody's rows (of what they create: their own)
    a filter                the rows whose metadata matches it; what they create carries it
    False                   403
    no handler              their own rows; 403 for the store, which has no owners

User code decides here, so whatever it does that is not a clear yes is a no: an exception, an answer of another shape, a
filter that could match more than it says. See docs/decisions/0006-authorization.md.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from langgraph_sdk.auth import Auth
from langgraph_sdk.auth.exceptions import HTTPException as AuthHTTPException
from langgraph_sdk.auth.types import AuthContext
from starlette.authentication import AuthenticationError
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request

from holdfast.api.auth import Action, Resource
from holdfast.api.reading import RAW, again, body_of
from holdfast.errors import Forbidden, ProjectError, Unauthenticated
from holdfast.rules.caller import Caller, Sight, User
from holdfast.wire import codec

logger = logging.getLogger(__name__)

FORBIDDEN = "Forbidden"


class CustomGate:
    """Callers and what they may, as the project's handlers say it."""

    asks = True

    def __init__(self, auth: object, place: str, *, max_body_bytes: int) -> None:
        """`auth` is what `auth.path` names, `place` its `file:line`.

        Raises:
            ProjectError: it is no `Auth`, or it could let nobody in.
        """
        if not isinstance(auth, Auth):
            raise ProjectError(f"'auth.path': {place}: must be a langgraph_sdk.Auth, not {type(auth).__name__}")
        if auth._authenticate_handler is None:
            raise ProjectError(f"'auth.path': {place}: has no @auth.authenticate function: nobody could be let in")
        self._auth = auth
        self._authenticate: Callable[..., Any] = auth._authenticate_handler
        self._wanted = _wanted(self._authenticate, place)
        self._limit = max_body_bytes

    async def admit(self, request: HTTPConnection) -> Caller:
        """Raises: Unauthenticated, Forbidden, or the HTTP error that the project's function raised."""
        if _READS_BODY & set(self._wanted):
            await body_of(request, self._limit)
        given = {name: _ARGUMENTS[name](request) for name in self._wanted}
        try:
            return _caller(await _called(self._authenticate, given))
        except Exception as error:  # user code may raise anything, and nothing that it raises opens the door
            raise _refusal(error, "authenticate") from error

    async def allow(self, caller: Caller, resource: Resource, action: Action, value: dict[str, Any]) -> Caller:
        handler = self._handler(resource, action)
        if handler is None:
            if resource == "store":
                raise Forbidden(FORBIDDEN)
            return replace(caller, sight=Sight.OWN, filters=())
        user = caller.user or User(identity=caller.owner)
        context = AuthContext(permissions=caller.permissions, user=user, resource=resource, action=action)
        try:
            answer = await handler(ctx=context, value=value)
            allowed = _sighted(caller, resource, action, answer)
        except Exception as error:  # as above
            raise _refusal(error, f"the handler of {resource}.{action}") from error
        metadata = value.get("metadata")
        if action == "create" and isinstance(metadata, dict):
            value["metadata"] = allowed.marked(metadata)
        if action == "update" and isinstance(metadata, dict) and not allowed.keeps(metadata):
            raise Forbidden(FORBIDDEN)
        return allowed

    def _handler(self, resource: Resource, action: Action) -> Callable[..., Awaitable[Any]] | None:
        found = self._auth._handlers
        for key in ((resource, action), (resource, "*"), ("*", action)):
            if handlers := found.get(key):
                return handlers[-1]
        return self._auth._global_handlers[-1] if self._auth._global_handlers else None


class _BadAnswerError(Exception):
    """User code answered something that means nothing; the text is for the log."""


class _ObjectUser(User):
    """A user that the project made as an object of its own: handlers find all of it, methods included."""

    origin: object = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name] if name in self else getattr(self.origin, name)


def _sighted(caller: Caller, resource: Resource, action: Action, answer: object) -> Caller:
    if answer is False:
        raise Forbidden(FORBIDDEN)
    if answer is None or answer is True:
        # Whoever may create sees what they created, not a row of somebody else's that has its id already.
        return replace(caller, sight=Sight.OWN if action == "create" else Sight.ALL, filters=())
    if not isinstance(answer, Mapping):
        raise _BadAnswerError(f"answered {type(answer).__name__}: must be None, a bool or a filter")
    if resource == "store":
        raise _BadAnswerError("answered a filter, but store items have no metadata: change value['namespace'] instead")
    return replace(caller, sight=Sight.MATCHING, filters=(_terms(answer),))


def _terms(answer: Mapping[Any, Any]) -> dict[str, Any]:
    """A filter as a document that the metadata must contain."""
    if not answer:
        raise _BadAnswerError("answered an empty filter: answer None or True to show everything")
    return {key: _term(key, condition) for key, condition in answer.items()}


def _term(key: object, condition: object) -> Any:
    if not isinstance(key, str) or key.startswith("$"):
        raise _BadAnswerError(f"answered a filter with {key!r}, which is not the name of a metadata entry")
    if isinstance(condition, Mapping) and len(condition) == 1:
        [(operator, wanted)] = condition.items()
        if operator == "$eq":
            return _scalar(key, wanted)
        if operator == "$contains":
            several = wanted if isinstance(wanted, list | tuple) and wanted else [wanted]
            return [_scalar(key, item) for item in several]
    return _scalar(key, condition)


def _scalar(key: str, value: object) -> str | int | float | bool:
    # Containment is equality for these alone: an object or an array would match every larger one.
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, str | int | float | bool):
        return value
    kind = type(value).__name__
    raise _BadAnswerError(f"answered a filter with {kind} for {key!r}: must be a value, $eq or $contains")


def _caller(result: object) -> Caller:
    if result is None:
        raise Unauthenticated("Unauthorized")
    user = _user(result)
    identity = user.get("identity")
    if isinstance(identity, UUID | int) and not isinstance(identity, bool):
        identity = str(identity)
    if not isinstance(identity, str) or not identity:
        raise _BadAnswerError("answered a user without an identity")
    permissions = user.get("permissions") or ()
    if isinstance(permissions, str) or not all(isinstance(permission, str) for permission in permissions):
        raise _BadAnswerError("answered permissions that are no list of strings")
    user |= {"identity": identity, "permissions": list(permissions)}
    user.setdefault("display_name", identity)
    user.setdefault("is_authenticated", True)
    if not user["is_authenticated"]:
        raise Unauthenticated("Unauthorized")
    return Caller(identity, user=user, permissions=tuple(permissions))


def _user(result: object) -> User:
    if isinstance(result, str):
        return User(identity=result)
    if isinstance(result, Mapping):
        return User(_data(result))
    user = _ObjectUser(_data(_attributes(result)))
    user.origin = result
    return user


def _attributes(result: object) -> Mapping[str, Any]:
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        own: Mapping[str, Any] = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    elif callable(dump := getattr(result, "model_dump", None)):
        own = dump()
    else:
        own = getattr(result, "__dict__", {})
    known = ("identity", "display_name", "is_authenticated", "permissions")
    return {**own, **{name: getattr(result, name) for name in known if hasattr(result, name)}}


def _data(entries: Mapping[Any, Any]) -> dict[str, Any]:
    """The public entries as JSON data: they are kept with every run."""
    public = {str(key): value for key, value in entries.items() if not str(key).startswith("_")}
    data: dict[str, Any] = codec.loads(codec.dumps(public))
    return data


async def _called(function: Callable[..., Any], given: Mapping[str, Any]) -> object:
    if inspect.iscoroutinefunction(function):
        return await function(**given)
    result = await asyncio.to_thread(function, **given)
    return await result if inspect.isawaitable(result) else result


def _refusal(error: Exception, what: str) -> Exception:
    """The answer to a request whose handler raised this."""
    if isinstance(error, Unauthenticated | Forbidden):
        return error
    if isinstance(error, AuthHTTPException | HTTPException):
        status = error.status_code if 400 <= error.status_code < 600 else 403
        return HTTPException(status, str(error.detail), dict(error.headers or {}))
    if isinstance(error, AuthenticationError | AssertionError):
        return Forbidden(str(error) or FORBIDDEN)
    logger.error("auth.path: %s failed, so the request was refused", what, exc_info=error)
    return HTTPException(500, "Authentication failed: the server's log has the details.")


def _body(request: HTTPConnection) -> Any:
    try:
        return codec.loads(request.scope.get(RAW) or b"{}")
    except ValueError:
        return None


def _request(request: HTTPConnection) -> HTTPConnection:
    # Not the route's own: what user code reads of it, the route must still be able to read.
    return Request(request.scope, again(request.scope, request.receive)) if isinstance(request, Request) else request


_ARGUMENTS: Mapping[str, Callable[[HTTPConnection], Any]] = {
    "request": _request,
    "body": _body,
    "user": lambda request: request.scope.get("user"),
    "path": lambda request: request.scope["path"],
    "method": lambda request: request.scope.get("method", "GET"),
    "scopes": lambda request: list(getattr(request.scope.get("auth"), "scopes", ())),
    "path_params": lambda request: dict(request.path_params),
    "query_params": lambda request: dict(QueryParams(request.scope["query_string"])),
    "headers": lambda request: dict(request.scope["headers"]),
    "authorization": lambda request: request.headers.get("authorization"),
    "scope": lambda request: request.scope,
}
_READS_BODY = {"request", "body"}


def _wanted(function: Callable[..., Any], place: str) -> tuple[str, ...]:
    """The parameters that we can give.

    Raises:
        ProjectError: it needs another one.
    """
    wanted: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in _ARGUMENTS:
            wanted.append(name)
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise ProjectError(
                f"'auth.path': {place}: the authenticate function asks for {name!r}; it may ask for "
                f"{', '.join(sorted(_ARGUMENTS))}"
            )
    return tuple(wanted)
