"""The store on the wire, and the same store in a graph's nodes."""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.support.talk import new_thread, refused, wait

ITEM = {"namespace", "key", "value", "created_at", "updated_at"}


@pytest.fixture
def root() -> str:
    """A root label that only this test uses."""
    return str(uuid.uuid4())


def put(http: httpx.Client, namespace: list[str], key: str, value: dict[str, Any], **given: Any) -> None:
    answer = http.put("/store/items", json={"namespace": namespace, "key": key, "value": value, **given})
    assert (answer.status_code, answer.content) == (204, b""), answer.text


def found(http: httpx.Client, **terms: Any) -> list[dict[str, Any]]:
    answer = http.post("/store/items/search", json=terms)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


@pytest.mark.anyio
@pytest.mark.requirement("store.sdk")
async def test_the_sdk_does_everything_that_it_offers(sdk: LangGraphClient, root: str) -> None:
    store = sdk.store
    for number in range(3):
        place = [root, f"user {number % 2}"]
        assert await store.put_item(place, key=f"k{number}", value={"n": number}, index=False, ttl=5) is None
    await store.put_item([root, "deep", "er"], key="k", value={"n": 3}, index=["n"])
    item = await store.get_item([root, "user 0"], key="k2", refresh_ttl=True)
    assert (item["namespace"], item["key"], item["value"]) == ([root, "user 0"], "k2", {"n": 2})
    hits = await store.search_items(
        [root], filter={"n": {"$gte": 1}}, limit=2, offset=1, query="anything", refresh_ttl=False
    )
    assert len(hits["items"]) == 2
    assert {hit["value"]["n"] for hit in hits["items"]} < {1, 2, 3}
    names = await store.list_namespaces(prefix=[root], suffix=["user 1"], max_depth=3, limit=5, offset=0)
    assert names == {"namespaces": [[root, "user 1"]]}
    assert await store.delete_item([root, "user 0"], key="k2") is None
    assert await store.get_item([root, "user 0"], key="k2") is None


@pytest.mark.requirement("store.put", "store.created_at")
def test_an_item_is_replaced_but_not_born_again(http: httpx.Client, root: str) -> None:
    put(http, [root], "k", {"n": 1, "gone": True})
    first = http.get("/store/items", params={"namespace": root, "key": "k"}).json()
    put(http, [root], "k", {"n": 2})
    second = http.get("/store/items", params={"namespace": root, "key": "k"}).json()
    assert second["value"] == {"n": 2}
    assert second["created_at"] == first["created_at"]
    assert second["updated_at"] > first["updated_at"]


@pytest.mark.requirement("store.get")
def test_an_item_that_is_not_there_is_null(http: httpx.Client, root: str) -> None:
    answer = http.get("/store/items", params={"namespace": f"{root}.b", "key": "k"})
    assert (answer.status_code, answer.content) == (200, b"null")
    put(http, [root, "b"], "k", {})
    item = http.get("/store/items", params={"namespace": f"{root}.b", "key": "k"}).json()
    assert set(item) == ITEM
    for key in ("created_at", "updated_at"):
        assert item[key].endswith("+00:00")
        assert len(item[key]) == len("2026-01-01T00:00:00.000000+00:00")
        assert datetime.fromisoformat(item[key]).tzinfo is not None


@pytest.mark.requirement("store.get.repeated")
def test_labels_may_come_one_by_one(http: httpx.Client, root: str) -> None:
    put(http, [root, "b", "c"], "k", {"n": 1})
    for namespace in ([root, "b", "c"], [root, "b.c"], [f"{root}.b.c"]):
        item = http.get("/store/items", params={"namespace": namespace, "key": "k"}).json()
        assert item["value"] == {"n": 1}


@pytest.mark.requirement("store.delete")
def test_deleting_is_done_whether_or_not_there_is_something(http: httpx.Client, root: str) -> None:
    put(http, [root], "k", {})
    for _ in range(2):
        answer = http.request("DELETE", "/store/items", json={"namespace": [root], "key": "k"})
        assert (answer.status_code, answer.content) == (204, b"")
    assert found(http, namespace_prefix=[root]) == []


NAMES = [([], 400), (["langgraph", "x"], 400), ([""], 422), (["a", ""], 422), (["a.b"], 422), (["a\x00"], 422)]


@pytest.mark.parametrize(("namespace", "status"), NAMES)
@pytest.mark.requirement("store.namespace.errors")
def test_a_namespace_that_cannot_be_is_refused(http: httpx.Client, namespace: list[str], status: int) -> None:
    place = {"namespace": namespace, "key": "k"}
    detail = refused(http.put("/store/items", json={**place, "value": {}}), status)
    assert refused(http.request("DELETE", "/store/items", json=place), status) == detail
    if not any("." in label for label in namespace):
        asked = http.get("/store/items", params={"namespace": ".".join(namespace), "key": "k"})
        refused(asked, 400 if namespace == [""] else status)
    if status == 422:
        refused(http.post("/store/items/search", json={"namespace_prefix": namespace}), 422)
        refused(http.post("/store/namespaces", json={"prefix": namespace}), 422)
        refused(http.post("/store/namespaces", json={"suffix": namespace}), 422)


@pytest.mark.requirement("store.key.required")
def test_a_key_is_required(http: httpx.Client) -> None:
    assert refused(http.get("/store/items", params={"namespace": "a"}), 400) == "Key is required"


@pytest.mark.requirement("store.bounds")
@pytest.mark.parametrize(
    "query",
    [
        pytest.param("key=k", marks=pytest.mark.requirement("store.namespace.errors")),
        pytest.param("namespace=&key=k", marks=pytest.mark.requirement("store.namespace.errors")),
        pytest.param("namespace=a&key=", marks=pytest.mark.requirement("store.key.required")),
        pytest.param("namespace=a..b&key=k", marks=pytest.mark.requirement("store.namespace.errors")),
        pytest.param("namespace=holdfast-owner:ada&key=k", marks=pytest.mark.requirement("store.limits")),
        "namespace=a%00&key=k",
        pytest.param("namespace=a&key=k%00", marks=pytest.mark.requirement("store.limits")),
        pytest.param("namespace=a&key=k&refresh_ttl=perhaps", marks=pytest.mark.requirement("store.limits")),
        pytest.param(f"namespace={'a' * 1025}&key=k", marks=pytest.mark.requirement("store.limits")),
        pytest.param(f"namespace=a&key={'k' * 1025}", marks=pytest.mark.requirement("store.limits")),
    ],
)
def test_a_bad_query_is_refused(http: httpx.Client, query: str) -> None:
    answer = http.get(f"/store/items?{query}")
    refused(answer, 400 if answer.status_code == 400 else 422)


@pytest.mark.requirement("store.search")
def test_a_search_is_in_pages(http: httpx.Client, root: str) -> None:
    for number in range(12):
        put(http, [root, f"u{number % 3}"], f"k{number}", {"n": number})
    items = found(http, namespace_prefix=[root])
    assert len(items) == 10
    assert {frozenset(item) for item in items} == {frozenset(ITEM | {"score"})}
    rest = found(http, namespace_prefix=[root], limit=4, offset=10)
    assert len(rest) == 2
    assert len({item["key"] for item in items + rest}) == 12
    assert found(http, namespace_prefix=[root[:-1]]) == []


@pytest.mark.requirement("store.search.order")
def test_a_search_finds_the_newest_first(http: httpx.Client, root: str) -> None:
    for number in range(12):
        put(http, [root, f"u{number % 3}"], f"k{number}", {"n": number})
    assert [item["value"]["n"] for item in found(http, namespace_prefix=[root])] == list(range(11, 1, -1))
    assert [item["key"] for item in found(http, namespace_prefix=[root], limit=4, offset=10)] == ["k1", "k0"]
    assert [item["key"] for item in found(http, namespace_prefix=[root, "u1"], limit=2)] == ["k10", "k7"]


@pytest.mark.requirement("store.search.everywhere")
def test_a_search_without_a_prefix_looks_everywhere(http: httpx.Client, root: str) -> None:
    put(http, [root, "a"], "k", {"mark": root})
    for terms in ({}, {"namespace_prefix": []}, {"namespace_prefix": None}):
        assert [item["namespace"] for item in found(http, **terms, filter={"mark": root})] == [[root, "a"]]


@pytest.mark.parametrize(
    ("wanted", "keys"),
    [
        ({"n": 9}, ["nine"]),
        ({"n": {"$eq": 10}}, ["ten"]),
        ({"n": {"$ne": 10}}, ["nine", "other"]),
        ({"n": {"$gt": 9}}, ["ten"]),
        ({"n": {"$gte": 9, "$lt": 10}}, ["nine"]),
        ({"n": {"$lte": 10}, "who": {"name": "Ada"}}, ["nine"]),
        ({"n": 9, "who": {"name": "Bob"}}, []),
    ],
)
@pytest.mark.requirement("store.search.filter")
def test_a_filter_compares_numbers_as_numbers(
    http: httpx.Client, root: str, wanted: dict[str, Any], keys: list[str]
) -> None:
    put(http, [root], "nine", {"n": 9, "who": {"name": "Ada"}})
    put(http, [root], "ten", {"n": 10})
    put(http, [root], "other", {"text": "x"})
    assert sorted(item["key"] for item in found(http, namespace_prefix=[root], filter=wanted)) == keys


@pytest.mark.requirement("store.search.filter")
def test_an_unknown_operator_is_refused_by_name(http: httpx.Client) -> None:
    detail = refused(http.post("/store/items/search", json={"filter": {"n": {"$regex": ".*"}}}), 422)
    assert "$regex" in detail


@pytest.mark.requirement("store.search.plain")
def test_without_an_index_a_query_changes_nothing(http: httpx.Client, root: str) -> None:
    for key in ("a", "b"):
        put(http, [root], key, {"text": key}, index=["text"])
    items = found(http, namespace_prefix=[root], query="a")
    assert sorted((item["key"], item["score"]) for item in items) == [("a", None), ("b", None)]


@pytest.mark.requirement("store.namespaces")
def test_namespaces_are_listed_by_their_ends(http: httpx.Client, root: str) -> None:
    for namespace in (["a", "notes"], ["a", "facts"], ["b", "notes"], ["b", "notes", "old"]):
        put(http, [root, *namespace], "k", {})

    def listed(**terms: Any) -> list[list[str]]:
        answer = http.post("/store/namespaces", json={"prefix": [root], **terms}).json()
        assert list(answer) == ["namespaces"]
        return [namespace[1:] for namespace in answer["namespaces"]]

    assert listed() == [["a", "facts"], ["a", "notes"], ["b", "notes"], ["b", "notes", "old"]]
    assert listed(suffix=["notes"]) == [["a", "notes"], ["b", "notes"]]
    assert listed(prefix=[root, "*", "notes"]) == [["a", "notes"], ["b", "notes"], ["b", "notes", "old"]]
    assert listed(max_depth=2) == [["a"], ["b"]]
    assert listed(limit=1, offset=2) == [["b", "notes"]]


@pytest.mark.requirement("store.nodes")
def test_nodes_and_clients_share_one_store(http: httpx.Client) -> None:
    text = str(uuid.uuid4())
    put(http, ["notes", "by client"], text, {"text": text})
    log = wait(http, new_thread(http), "memory", input={"log": [text + "!"]})["log"]
    assert {text, text + "!"} <= set(log)
    item = http.get("/store/items", params={"namespace": "notes.by node", "key": text + "!"}).json()
    assert item["value"] == {"text": text + "!"}
    by_thread = http.get("/store/items", params={"namespace": "notes.by thread", "key": "last"}).json()
    assert by_thread["value"]["text"] == log[-1]


@pytest.mark.requirement("store.values")
@pytest.mark.parametrize("text", ["🧨 \u2028 \x7f", "'; DROP TABLE store; --", "%s %(key)s", "a/b?c=d&e", " "])
def test_any_text_survives_as_label_key_and_value(http: httpx.Client, root: str, text: str) -> None:
    put(http, [root, text], text, {text: text})
    item = http.get("/store/items", params={"namespace": f"{root}.{text}", "key": text}).json()
    assert (item["namespace"], item["key"], item["value"]) == ([root, text], text, {text: text})
    assert [item["key"] for item in found(http, namespace_prefix=[root, text], filter={text: text})] == [text]
    names = http.post("/store/namespaces", json={"prefix": [root], "suffix": [text]}).json()["namespaces"]
    assert names == [[root, text]]


@pytest.mark.requirement("store.values")
def test_a_large_and_deep_value_is_kept(http: httpx.Client, root: str) -> None:
    deep: Any = 1
    for _ in range(150):
        deep = [deep]
    value = {"text": "x" * 2**20, "deep": deep, "wide": 2**63, "small": 5e-324}
    put(http, [root], "k", value)
    assert http.get("/store/items", params={"namespace": root, "key": "k"}).json()["value"] == value


@pytest.mark.requirement("system.bodies")
def test_text_plain_is_read_as_json(http: httpx.Client, root: str) -> None:
    body = json.dumps({"namespace": [root], "key": "k", "value": {}}).encode()
    assert http.put("/store/items", content=body, headers={"content-type": "text/plain"}).status_code == 204
