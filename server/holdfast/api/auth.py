"""Who is asking: an API key in `x-api-key` or as a bearer token, or the one local owner where no keys are
configured."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from starlette.requests import Request

from holdfast.errors import Unauthenticated
from holdfast.rules.caller import LOCAL, Caller


def authenticate(request: Request, api_keys: Mapping[str, str]) -> Caller:
    """The caller behind a request.

    Raises:
        Unauthenticated: keys are configured and none of them came along.
    """
    if not api_keys:
        return LOCAL
    given = _credential(request).encode()
    for key, name in api_keys.items():
        if hmac.compare_digest(key.encode(), given):
            return Caller(name)
    raise Unauthenticated("Missing or unknown API key: send it as x-api-key or as a bearer token.")


def _credential(request: Request) -> str:
    if key := request.headers.get("x-api-key"):
        return key
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
