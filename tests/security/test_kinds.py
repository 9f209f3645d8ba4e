"""Callers of each kind at every route: without a good credential nobody is answered, whatever they ask."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import httpx
import pytest

from tests.conftest import PROJECT
from tests.security.routes import ROWS
from tests.support.keys import Keys, kinds
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import refused

Headers = Mapping[str, str]
NOBODYS = ("no credential", "expired", "revoked", "made up")
PER_OPERATION = re.compile(r"(GET|POST|DELETE) /mcp/?|POST /a2a/.*")
"""Many operations under one URL: they are refused in the protocol's own words (tests/api/test_scopes.py)."""


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as url:
        yield url


@pytest.fixture(scope="module")
def callers(database: str) -> Mapping[str, Headers]:
    return {**kinds(Keys(database)), "made up": {"x-api-key": f"hf_{'0' * 16}_{'0' * 64}"}}


@pytest.fixture(scope="module")
def http(database: str) -> Iterator[httpx.Client]:
    with Server(database_url=database, config=PROJECT, HOLDFAST_AUTH="keys") as running, running.http() as client:
        client.timeout = httpx.Timeout(30)
        yield client


@pytest.mark.parametrize("kind", NOBODYS)
def test_without_a_good_credential_no_route_answers(
    http: httpx.Client, callers: Mapping[str, Headers], kind: str
) -> None:
    for method, path in ROWS:
        filled = re.sub(r"\{\w+\}", "nonsense", path)
        refused(http.request(method, filled, content=b"{", headers=callers[kind]), 401)


def test_without_any_scope_no_route_does_anything(http: httpx.Client, callers: Mapping[str, Headers]) -> None:
    asked = [(method, path) for method, path in ROWS if not PER_OPERATION.fullmatch(f"{method} {path}")]
    assert len(asked) > 60
    for method, path in asked:
        filled = re.sub(r"\{\w+\}", "nonsense", path)
        refused(http.request(method, filled, content=b"{", headers=callers["nothing"]), 403)


def test_each_kind_of_caller_is_what_its_name_says(http: httpx.Client, callers: Mapping[str, Headers]) -> None:
    steps = {"assistant_id": "steps", "input": {"count": 1}}
    may = {
        "read": {kind for kind in callers if http.post("/threads/search", json={}, headers=callers[kind]).is_success},
        "write": {kind for kind in callers if http.post("/threads", json={}, headers=callers[kind]).is_success},
        "run": {kind for kind in callers if http.post("/runs/wait", json=steps, headers=callers[kind]).is_success},
        "approve": {
            kind for kind in callers if http.post("/approvals/search", json={}, headers=callers[kind]).is_success
        },
    }
    whole = {"valid", "other user", "admin"}
    assert may == {
        "read": whole | {"read"},
        "write": whole | {"write"},
        "run": whole | {"run"},
        "approve": whole | {"approve", "read"},
    }
