"""With keys, everybody has a store of their own, and so have the nodes of their runs (invariant 10)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import new_thread, refused, wait

PLACE = {"namespace": ["notes", "mine"], "key": "k"}


@pytest.fixture(scope="module")
def guarded(cluster: Cluster) -> Iterator[Server]:
    with (
        cluster.database() as url,
        Server(database_url=url, config=PROJECT, HOLDFAST_API_KEYS="ada:key-a,bob:key-b") as running,
    ):
        yield running


@pytest.fixture(scope="module")
def ada(guarded: Server) -> Iterator[httpx.Client]:
    with guarded.http(headers={"x-api-key": "key-a"}, timeout=30) as client:
        client.put("/store/items", json={**PLACE, "value": {"text": "ada's"}})
        yield client


@pytest.fixture(scope="module")
def bob(guarded: Server) -> Iterator[httpx.Client]:
    with guarded.http(headers={"x-api-key": "key-b"}, timeout=30) as client:
        yield client


def everything(client: httpx.Client) -> list[Any]:
    items = client.post("/store/items/search", json={"limit": 1000}).json()["items"]
    return [*items, client.post("/store/namespaces", json={}).json()]


@pytest.mark.requirement("store.owners")
def test_what_one_owner_stores_another_neither_finds_nor_changes(ada: httpx.Client, bob: httpx.Client) -> None:
    before = everything(ada)
    assert bob.get("/store/items", params={"namespace": "notes.mine", "key": "k"}).json() is None
    assert bob.request("DELETE", "/store/items", json=PLACE).status_code == 204
    assert bob.put("/store/items", json={**PLACE, "value": {"text": "bob's"}}).status_code == 204
    [found] = bob.post("/store/items/search", json={"filter": {"text": {"$ne": "x"}}}).json()["items"]
    assert (found["namespace"], found["value"]) == (["notes", "mine"], {"text": "bob's"})
    assert bob.post("/store/namespaces", json={"suffix": ["mine"]}).json() == {"namespaces": [["notes", "mine"]]}
    assert everything(ada) == before


@pytest.mark.parametrize("root", ["holdfast-owner:ada", "holdfast-owner:"])
def test_another_owners_root_cannot_be_named(ada: httpx.Client, bob: httpx.Client, root: str) -> None:
    before = everything(ada)
    place = {"namespace": [root, "notes", "mine"], "key": "k"}
    refused(bob.put("/store/items", json={**place, "value": {}}), 422)
    refused(bob.request("DELETE", "/store/items", json=place), 422)
    refused(bob.get("/store/items", params={"namespace": f"{root}.notes.mine", "key": "k"}), 422)
    refused(bob.post("/store/items/search", json={"namespace_prefix": [root]}), 422)
    refused(bob.post("/store/namespaces", json={"prefix": [root]}), 422)
    assert everything(ada) == before


@pytest.mark.parametrize("stateless", [False, True])
@pytest.mark.requirement("store.owners")
def test_the_nodes_of_a_run_have_the_store_of_its_owner(ada: httpx.Client, bob: httpx.Client, stateless: bool) -> None:
    for client, name in ((ada, "ada"), (bob, "bob")):
        body = {"input": {"log": [f"{name} says"]}}
        if stateless:
            log = client.post("/runs/wait", json={"assistant_id": "memory", **body}).json()["log"]
        else:
            log = wait(client, new_thread(client), "memory", **body)["log"]
        other = "bob" if name == "ada" else "ada"
        assert f"{name} says" in log[1:]
        assert not [entry for entry in log if other in str(entry)]
        item = client.get("/store/items", params={"namespace": "notes.by node", "key": f"{name} says"}).json()
        assert item["value"] == {"text": f"{name} says"}
        missing = client.get("/store/items", params={"namespace": "notes.by node", "key": f"{other} says"}).json()
        assert missing is None


def test_without_a_key_there_is_no_store(guarded: Server) -> None:
    with guarded.http() as nobody:
        refused(nobody.get("/store/items", params={"namespace": "notes.mine", "key": "k"}), 401)
        refused(nobody.post("/store/items/search", json={}), 401)
