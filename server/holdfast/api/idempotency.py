"""Requests that may be sent again (`Idempotency-Key`): carried out once, answered every time.

A repeat by the same caller is answered with what the first request made, and says so in a header; for 24 hours. The
same key with another request is refused (422), and with a request whose run or thread is gone it is 404.
"""

from __future__ import annotations

from pydantic import BaseModel
from starlette.requests import Request

from holdfast.db.idempotency import Key
from holdfast.wire.idempotency import HEADER, REPLAYED, key_name, request_digest


def request_key(request: Request, body: BaseModel) -> Key | None:
    """The key of a request, if it has one.

    Raises:
        Invalid: a malformed one.
    """
    name = key_name(request.headers.getlist(HEADER))
    return Key(name, request_digest(request.url.path, "", body)) if name else None


def replayed(repeated: bool) -> dict[str, str]:
    """The headers of an answer to a request that had been carried out before."""
    return REPLAYED if repeated else {}
