"""What an authorization handler of a project is shown of a store request, and what it makes of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, fields
from typing import Any, cast

import httpx
import pytest
from starlette.requests import Request

from holdfast.api.application import create_app
from holdfast.api.auth import Action, Resource
from holdfast.api.deps import Services
from holdfast.db.pool import Database
from holdfast.db.store import PooledStore
from holdfast.db.trees import Stores
from holdfast.rules.caller import Caller, Sight
from holdfast.settings import Settings
from tests.support.limits import unlimited

pytestmark = pytest.mark.anyio


@dataclass
class Scoping:
    """A gate as a project's handlers make one: everybody below a root label of their own."""

    asks = True
    shown: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def admit(self, request: Request) -> Caller:
        return Caller(request.headers["x-user"], Sight.ALL)

    async def allow(self, caller: Caller, resource: Resource, action: Action, value: dict[str, Any]) -> Caller:
        assert resource == "store"
        self.shown.append((action, dict(value)))
        value["namespace"] = (caller.owner, *(value["namespace"] or ()))
        return caller


@pytest.fixture
def gate() -> Scoping:
    return Scoping()


@pytest.fixture
async def http(database_url: str, gate: Scoping) -> AsyncIterator[httpx.AsyncClient]:
    database = Database(database_url, size=8)
    await database.open()
    stores = Stores(PooledStore(database), shared=True)
    absent = {part.name: cast("Any", None) for part in fields(Services)}
    parts = {"settings": Settings(), "database": database, "stores": stores, "gate": gate}
    services = Services(**absent | parts | {"limits": unlimited(Settings())})
    transport = httpx.ASGITransport(create_app(services))
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers={"x-user": "ada"}) as client:
        yield client
    await database.close()


@pytest.mark.requirement("store.handlers")
async def test_a_handler_may_move_every_operation_below_a_root(http: httpx.AsyncClient, gate: Scoping) -> None:
    item = {"namespace": ["notes"], "key": "k"}
    assert (await http.put("/store/items", json={**item, "value": {"n": 1}})).status_code == 204
    found = (await http.get("/store/items", params=item)).json()
    assert (found["namespace"], found["value"]) == (["ada", "notes"], {"n": 1})
    for terms in ({}, {"namespace_prefix": ["notes"]}):
        [found] = (await http.post("/store/items/search", json=terms)).json()["items"]
        assert found["namespace"] == ["ada", "notes"]
    for terms in ({}, {"prefix": ["notes"]}):
        listed = (await http.post("/store/namespaces", json=terms)).json()
        assert listed == {"namespaces": [["ada", "notes"]]}
    bob = {"x-user": "bob"}
    assert (await http.get("/store/items", params=item, headers=bob)).json() is None
    assert (await http.post("/store/items/search", json={"namespace": ["ada"]}, headers=bob)).json() == {"items": []}
    assert (await http.post("/store/namespaces", json={}, headers=bob)).json() == {"namespaces": []}
    gone = http.build_request("DELETE", "/store/items", content=json.dumps(item))
    assert (await http.send(gone)).status_code == 204
    assert (await http.get("/store/items", params=item)).json() is None


@pytest.mark.requirement("store.handlers")
async def test_a_handler_is_shown_the_operation_in_the_words_of_langgraphs_auth(
    http: httpx.AsyncClient, gate: Scoping
) -> None:
    item = {"namespace": ["a", "b"], "key": "k"}
    await http.put("/store/items", json={**item, "value": {"n": 1}, "index": ["n"], "ttl": 5, "unknown": 1})
    await http.get("/store/items", params={"namespace": "a.b", "key": "k", "refresh_ttl": "true"})
    await http.request("DELETE", "/store/items", json=item)
    await http.post("/store/items/search", json={"namespace_prefix": ["a"], "query": "q", "filter": {"n": 1}})
    await http.post("/store/namespaces", json={"suffix": ["b"], "max_depth": 3})
    place = {"namespace": ("a", "b"), "key": "k"}
    page = {"limit": 10, "offset": 0}
    assert gate.shown == [
        ("put", {**place, "value": {"n": 1}, "index": ["n"], "ttl": 5.0}),
        ("get", {**place, "refresh_ttl": True}),
        ("delete", place),
        ("search", {**page, "namespace": ("a",), "query": "q", "filter": {"n": 1}, "refresh_ttl": None}),
        ("list_namespaces", {**page, "limit": 100, "namespace": None, "suffix": ("b",), "max_depth": 3}),
    ]


async def test_a_handler_is_not_shown_what_makes_no_sense(http: httpx.AsyncClient, gate: Scoping) -> None:
    answers = [
        await http.put("/store/items", json={"namespace": 5, "key": "k", "value": {}}),
        await http.get("/store/items", params={"namespace": "a"}),
        await http.post("/store/items/search", json={"namespace_prefix": ["a.b"]}),
    ]
    assert [answer.status_code for answer in answers] == [422, 400, 422]
    assert gate.shown == []
