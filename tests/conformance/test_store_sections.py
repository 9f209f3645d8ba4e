"""The store as langgraph.json sets it up: an index, lives that end, a store of the project's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.conftest import PROJECT
from tests.support.keys import Keys
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import new_thread, refused, until, wait

OWN_STORE = """
from contextlib import asynccontextmanager
from langgraph.store.memory import InMemoryStore

class OwnStore(InMemoryStore):
    pass

one = OwnStore()

@asynccontextmanager
async def opened():
    store = OwnStore()
    await store.aput(("notes",), "first", {"text": "from the start"})
    yield store
"""


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Iterator[str]:
    with cluster.database(migrated=False) as url:
        yield url


@pytest.fixture(scope="module")
def http(database: str) -> Iterator[httpx.Client]:
    """A server whose store finds by (hashed) words and forgets after half an hour."""
    with Server(database_url=database, config=PROJECT.parent / "store.json") as running, running.http() as client:
        yield client


def put(http: httpx.Client, key: str, value: dict[str, Any], *, place: str = "docs", **given: Any) -> None:
    answer = http.put("/store/items", json={"namespace": [place], "key": key, "value": value, **given})
    assert answer.status_code == 204, answer.text


def search(http: httpx.Client, *, place: str = "docs", **terms: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = http.post("/store/items/search", json={"namespace_prefix": [place], **terms}).json()[
        "items"
    ]
    return items


@pytest.mark.requirement("store.search.meaning")
def test_a_query_finds_what_shares_its_words(http: httpx.Client) -> None:
    put(http, "cats", {"text": "cats sleep all day", "other": "green tea"})
    put(http, "dogs", {"text": "dogs run all day", "other": "black coffee"})
    put(http, "tea", {"text": "nothing", "other": "green tea"}, index=["other"])
    put(http, "hidden", {"text": "cats sleep all day"}, index=False)
    items = search(http, query="which cats sleep?")
    assert items[0]["key"] == "cats"
    assert {item["key"] for item in items} == {"cats", "dogs", "tea"}
    scores = [item["score"] for item in items]
    assert scores == sorted(scores, reverse=True)
    assert 0.5 < scores[0] <= 1
    assert search(http, query="green tea", limit=1)[0]["key"] == "tea"
    assert [item["key"] for item in search(http, query="cats sleep", limit=2, offset=1)] == [
        item["key"] for item in search(http, query="cats sleep")[1:]
    ]
    assert [item["key"] for item in search(http, query="day", filter={"other": "black coffee"})] == ["dogs"]
    assert {item["score"] for item in search(http)} == {None}
    put(http, "cats", {"text": "tigers"})
    assert max(item["score"] for item in search(http, query="cats sleep all") if item["key"] == "cats") < 0.5


def expires_in(database: str, key: str, minutes: float | None = None) -> float | None:
    """Minutes until the item expires; with `minutes` it is set first."""
    with psycopg.connect(database, autocommit=True) as conn:
        if minutes is not None:
            conn.execute(
                "UPDATE store SET expires_at = now() + %s * interval '1 minute' WHERE key = %s", (minutes, key)
            )
        row = conn.execute(
            "SELECT extract(epoch FROM expires_at - now())::float8 / 60 FROM store WHERE key = %s", (key,)
        ).fetchone()
    return row[0] if row else None


@pytest.mark.requirement("store.ttl")
def test_an_items_life_ends(http: httpx.Client, database: str) -> None:
    put(http, "default", {}, place="lives")
    put(http, "own", {}, place="lives", ttl=5)
    assert expires_in(database, "default") == pytest.approx(30, abs=0.5)
    assert expires_in(database, "own", 1) == pytest.approx(1, abs=0.5)
    place = {"namespace": "lives", "key": "own"}
    http.get("/store/items", params=place)
    search(http, place="lives")
    assert expires_in(database, "own") == pytest.approx(1, abs=0.5)
    http.get("/store/items", params={**place, "refresh_ttl": "true"})
    assert expires_in(database, "own") == pytest.approx(5, abs=0.5)
    expires_in(database, "own", 1)
    search(http, place="lives", refresh_ttl=True)
    assert expires_in(database, "own") == pytest.approx(5, abs=0.5)
    expires_in(database, "own", -1)
    assert http.get("/store/items", params=place).json() is None
    assert [item["key"] for item in search(http, place="lives")] == ["default"]
    until(lambda: expires_in(database, "own") is None, "the expired item is swept")


@pytest.mark.requirement("store.search.meaning")
def test_nodes_find_by_words_too(http: httpx.Client) -> None:
    assert wait(http, new_thread(http), "memory", input={"log": ["a"]})["log"][:2] == ["a", "a"]
    assert [item["key"] for item in search(http, place="notes", query="a", limit=1)] == ["a"]


# --- a store of the project's own ---


def project(directory: Path, store: dict[str, Any], text: str = OWN_STORE) -> Path:
    (directory / "stores.py").write_text(text)
    config = directory / "langgraph.json"
    graphs = {"memory": f"{PROJECT.parent / 'graphs.py'}:memory"}
    config.write_text(json.dumps({"dependencies": ["."], "graphs": graphs, "store": store}))
    return config


@pytest.mark.parametrize("name", ["one", "opened"])
@pytest.mark.requirement("store.own")
def test_a_project_may_bring_a_store_of_its_own(database_url: str, tmp_path: Path, name: str) -> None:
    config = project(tmp_path, {"path": f"./stores.py:{name}"})
    with Server(database_url=database_url, config=config) as running, running.http() as http:
        put(http, "k", {"text": 1}, place="notes")
        noted = {"one": {"k"}, "opened": {"k", "first"}}[name]
        assert {item["key"] for item in search(http, place="notes")} == noted
        assert wait(http, new_thread(http), "memory", input={"log": []})["log"][-1] == len(noted)
        assert http.get("/store/items", params={"namespace": "notes.by thread", "key": "last"}).json()["value"]
        namespaces = http.post("/store/namespaces", json={}).json()["namespaces"]
        assert ["notes", "by thread"] in namespaces
        item = {"namespace": ["notes"], "key": "k", "value": {}, "ttl": 5}
        assert "ttl" in refused(http.put("/store/items", json=item), 400)
    with psycopg.connect(database_url) as conn:
        assert conn.execute("SELECT count(*) FROM store").fetchone() == (0,)


@pytest.mark.requirement("store.own")
def test_no_key_is_named_local_beside_a_store_of_the_projects_own(database_url: str, tmp_path: Path) -> None:
    config = project(tmp_path, {"path": "./stores.py:one"})
    server = Server(database_url=database_url, config=config, HOLDFAST_API_KEYS="local:key-l,ada:key-a")
    with pytest.raises(AssertionError, match="no key may be named 'local'"):
        server.start()
    server.__exit__()


@pytest.mark.requirement("store.own")
def test_a_key_of_the_database_named_local_is_worthless_beside_a_store_of_the_projects_own(
    database_url: str, tmp_path: Path
) -> None:
    config = project(tmp_path, {"path": "./stores.py:one"})
    keys = Keys(database_url)
    with (
        Server(database_url=database_url, config=config, HOLDFAST_AUTH="keys") as running,
        running.http(timeout=30) as http,
    ):
        refused(http.post("/threads", json={}, headers={"x-api-key": keys.valid("local")}), 401)
        assert http.post("/threads", json={}, headers={"x-api-key": keys.valid("ada")}).status_code == 200


EMBEDS = """
calls = []

async def embed(texts):
    if "fail" in texts:
        raise RuntimeError("secret")
    return [[float(len(text)), 1.0] + ([2.0] if "wide" in text else []) for text in texts]
"""


@pytest.mark.requirement("store.embed")
def test_an_embedding_of_the_projects_own_is_used_and_its_failure_is_told(database_url: str, tmp_path: Path) -> None:
    section = {"index": {"dims": 2, "embed": "./stores.py:embed", "fields": ["text"]}}
    config = project(tmp_path, section, EMBEDS)
    with Server(database_url=database_url, config=config) as running, running.http() as http:
        put(http, "short", {"text": "ab"})
        put(http, "long", {"text": "abcdefghijkl"})
        put(http, "other", {"no text": 1})
        assert [item["key"] for item in search(http, query="abc")] == ["short", "long"]
        for text, said in (("fail", "RuntimeError"), ("wide", "gave 3 numbers; store.index.dims is 2")):
            answer = http.put("/store/items", json={"namespace": ["docs"], "key": "k", "value": {"text": text}})
            detail = refused(answer, 502)
            assert said in detail
            assert "secret" not in detail
        assert {item["key"] for item in search(http)} == {"short", "long", "other"}
