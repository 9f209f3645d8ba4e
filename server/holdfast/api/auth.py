"""The gate: who is asking, and may they do this.

Without any configuration everybody is the one local owner. Otherwise a credential in `x-api-key` or as a bearer token
says who a caller is, in one of several ways: a key of `HOLDFAST_API_KEYS`, a key that the database knows
(`api/apikeys.py`), a token of an issuer (`api/tokens.py`). Callers see their own rows and nothing else, and do with
them what the scopes of their credential allow. A project's own authentication is another gate (`api/customauth.py`).

Whatever is wrong with a credential, the answer is the same, and takes about as long.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Literal, Protocol

from starlette.requests import HTTPConnection

from holdfast.errors import Forbidden, Unauthenticated
from holdfast.rules.caller import LOCAL, Caller
from holdfast.rules.scope import Scope

Resource = Literal["assistants", "threads", "crons", "store"]
Action = Literal["create", "read", "update", "delete", "search", "create_run", "put", "get", "list_namespaces"]


class Gate(Protocol):
    """What every request passes."""

    @property
    def asks(self) -> bool:
        """Whether `allow` may refuse or change anything; if not, requests need not be shown to it."""

    async def admit(self, request: HTTPConnection) -> Caller:
        """The caller behind a request.

        Raises:
            Unauthenticated: no valid credential came along.
        """

    async def allow(self, caller: Caller, resource: Resource, action: Action, value: dict[str, Any]) -> Caller:
        """The caller with what they may see of this resource; `value` is what is asked, and may be changed.

        Raises:
            Forbidden: they may not.
        """


class OpenGate:
    """Nobody but the local owner."""

    asks = False

    async def admit(self, request: HTTPConnection) -> Caller:
        del request
        return LOCAL

    async def allow(self, caller: Caller, resource: Resource, action: Action, value: dict[str, Any]) -> Caller:
        del resource, action, value
        return caller


class Way(Protocol):
    """A way to know callers by what they send."""

    async def caller(self, credential: str) -> Caller | None:
        """Whose credential this is; None: nobody's.

        Raises:
            DatabaseUnavailable, IssuerAway: that cannot be known now.
        """


class KeyGate:
    """Callers with a credential, by the first way that knows it. Without any way nobody comes in."""

    asks = False

    def __init__(self, ways: Sequence[Way], *, nobody: frozenset[str] = frozenset()) -> None:
        """`nobody` may have one of these names: they mean something else here."""
        self._ways = ways
        self._nobody = nobody

    async def admit(self, request: HTTPConnection) -> Caller:
        given = _credential(request)
        for way in self._ways:
            caller = await way.caller(given)
            if caller is not None and caller.owner not in self._nobody:
                return caller
        raise Unauthenticated("Missing or unknown API key: send it as x-api-key or as a bearer token.")

    async def allow(self, caller: Caller, resource: Resource, action: Action, value: dict[str, Any]) -> Caller:
        del resource, action, value
        return caller


class ConfiguredKeys:
    """The keys of `HOLDFAST_API_KEYS`."""

    def __init__(self, api_keys: Mapping[str, str]) -> None:
        self._callers = [(_digest(key), Caller(name)) for key, name in api_keys.items()]

    async def caller(self, credential: str) -> Caller | None:
        given, found = _digest(credential), None
        # All of them, so that the time says nothing of which; nor of their lengths, as digests have one.
        for digest, caller in self._callers:
            if hmac.compare_digest(digest, given):
                found = caller
        return found


def demand(caller: Caller, any_of: Sequence[Scope]) -> None:
    """Let a caller go on who has one of these scopes.

    Raises:
        Forbidden: says which one they lack.
    """
    if caller.scopes.isdisjoint(any_of):
        raise lacks(any_of[0])


def lacks(scope: Scope) -> Forbidden:
    return Forbidden(f"This needs the scope '{scope}'.")


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()


def _credential(request: HTTPConnection) -> str:
    """`x-api-key` wins: with one, a bearer token means nothing. Two different ones of the same header mean nothing."""
    if any(keys := request.headers.getlist("x-api-key")):
        return _only(keys)
    tokens = [header.partition(" ") for header in request.headers.getlist("authorization")]
    return _only([token.strip() if scheme.lower() == "bearer" else "" for scheme, _, token in tokens])


def _only(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else ""
