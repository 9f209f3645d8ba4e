"""Nobody reaches, or learns of, what belongs to somebody else: every route, every place in which it takes an id."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from starlette.routing import WebSocketRoute

from holdfast.api.application import routers
from holdfast.sections import HttpSection
from tests.security.matrix import Things, asked, made_by, rows, snapshot, without_ids
from tests.security.routes import CANARY, OPEN, ROWS, Ask
from tests.support.guarded import ADA, BOB, WAYS, guarded_server
from tests.support.postgres import Cluster
from tests.support.server import Server

EACH = pytest.mark.parametrize(
    ("method", "path", "ask"),
    [pytest.param(*row, id=f"{row[0]} {row[1]} {number}") for number, row in enumerate(rows())],
)


WHOLE = os.environ.get("SECURITY") == "whole"
"""`make security`; without it the slice that `make test` has."""


@pytest.fixture(scope="module", params=WAYS if WHOLE else WAYS[:1])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(cluster: Cluster, way: str) -> Iterator[Server]:
    with guarded_server(cluster, way) as running:
        yield running


@pytest.fixture(scope="module")
def ada(server: Server) -> Iterator[httpx.Client]:
    with server.http(headers=ADA, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def bob(server: Server) -> Iterator[httpx.Client]:
    with server.http(headers=BOB, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def hers(ada: httpx.Client) -> Things:
    return made_by(ada)


@pytest.fixture(scope="module")
def before(ada: httpx.Client, hers: Things) -> Iterator[Mapping[str, Any]]:
    """All that she has; in the end it is as it was."""
    before = snapshot(ada, hers)
    yield before
    assert snapshot(ada, hers) == before


def test_every_route_has_its_row() -> None:
    routes = [route for _, router in routers(HttpSection()) for route in router.routes]
    assert not [route for route in routes if isinstance(route, WebSocketRoute)]
    there = {(method, route.path) for route in routes for method in route.methods}  # type: ignore[attr-defined]
    assert {row for row in there if row[1] not in OPEN} == set(ROWS)


@EACH
def test_somebody_else_cannot_tell_her_things_from_none(
    ada: httpx.Client, bob: httpx.Client, hers: Things, before: Mapping[str, Any], method: str, path: str, ask: Ask
) -> None:
    nobodys = Things.nobodys()
    status, text = asked(bob, method, path, ask, hers)
    other_status, other_text = asked(bob, method, path, ask, nobodys)
    assert status < 500
    assert status != 422
    assert CANARY not in text.replace(f'"{CANARY}" not found', "")
    if not ask.tells_that_it_exists:
        assert (status, without_ids(text, hers)) == (other_status, without_ids(other_text, nobodys))
    else:
        assert status in (404, 409)
    if WHOLE:
        assert snapshot(ada, hers) == before


@pytest.mark.skipif(not WHOLE, reason="that each ask is a real one is played by make security")
@EACH
def test_she_herself_is_answered(ada: httpx.Client, way: str, method: str, path: str, ask: Ask) -> None:
    status, text = asked(ada, method, path, ask, made_by(ada))
    # Without a handler that says so, a project's authentication lets nobody at the store.
    assert status in ((403,) if way == "bare" and path.startswith("/store") else ask.owner), text
