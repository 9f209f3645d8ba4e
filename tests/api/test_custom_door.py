"""A project's own routes behind our door: what cannot be known now is a 503 in the API's shape, and lets nobody in."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from holdfast.api.auth import KeyGate
from holdfast.api.customapp import CustomApp
from holdfast.errors import DatabaseUnavailable, IssuerAway
from holdfast.rules.caller import Caller
from holdfast.sections import HttpSection

pytestmark = pytest.mark.anyio


class Away:
    """A way in that cannot be judged now."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def caller(self, credential: str) -> Caller | None:
        del credential
        raise self._error


def behind(gate: KeyGate) -> ASGIApp:
    async def secret(request: HTTPConnection) -> PlainTextResponse:
        return PlainTextResponse("secret")

    app = Starlette(routes=[Route("/secret", secret)])
    ours: Any = PlainTextResponse("ours")
    return CustomApp(app, "app.py:1").around(ours, gate, HttpSection(enable_custom_route_auth=True))


@pytest.mark.parametrize("error", [DatabaseUnavailable("gone"), IssuerAway("gone")])
async def test_nobody_comes_in_while_credentials_cannot_be_judged(error: Exception) -> None:
    transport = httpx.ASGITransport(behind(KeyGate([Away(error)])))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        answer = await client.get("/secret", headers={"x-api-key": "key"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json().keys() == {"detail"}


async def test_without_any_way_in_nobody_comes_in() -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(behind(KeyGate([]))), base_url="http://here") as client:
        for headers in ({}, {"x-api-key": "key"}):
            assert (await client.get("/secret", headers=headers)).status_code == 401
