"""The gate: who is asking, and may they do this.

Without keys everybody is the one local owner. With `HOLDFAST_API_KEYS`, a key in `x-api-key` or as a bearer token names
the owner. Either way callers see their own rows and nothing else, so nothing further has to be asked. A project's own
authentication is another gate (`api/customauth.py`).
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from starlette.requests import HTTPConnection

from holdfast.errors import Unauthenticated
from holdfast.rules.caller import LOCAL, Caller

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


class KeyGate:
    """API keys, or nobody but the local owner."""

    asks = False

    def __init__(self, api_keys: Mapping[str, str]) -> None:
        self._api_keys = api_keys

    async def admit(self, request: HTTPConnection) -> Caller:
        if not self._api_keys:
            return LOCAL
        given = _credential(request).encode()
        for key, name in self._api_keys.items():
            if hmac.compare_digest(key.encode(), given):
                return Caller(name)
        raise Unauthenticated("Missing or unknown API key: send it as x-api-key or as a bearer token.")

    async def allow(self, caller: Caller, resource: Resource, action: Action, value: dict[str, Any]) -> Caller:
        del resource, action, value
        return caller


def _credential(request: HTTPConnection) -> str:
    if key := request.headers.get("x-api-key"):
        return key
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
