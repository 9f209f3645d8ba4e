"""Creating, changing, versioning and deleting assistants, with the official SDK and raw."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError

from tests.conformance.test_assistants import GRAPHS, KEYS, by_uuid
from tests.support.talk import UNKNOWN_ID, refused, system_assistant

VERSION_KEYS = KEYS - {"updated_at"}


@pytest.fixture
def mine(http: httpx.Client) -> Iterator[str]:
    """The id of an assistant of one's own."""
    body = {"graph_id": "steps", "config": {"tags": ["t"]}, "context": {"a": 1}, "metadata": {"m": 1}}
    created = http.post("/assistants", json={**body, "name": "first", "description": "one"})
    assert created.status_code == 200, created.text
    yield created.json()["assistant_id"]
    http.delete(f"/assistants/{created.json()['assistant_id']}")


# --- create ---


@pytest.mark.requirement("assistants.create")
def test_a_new_assistant_has_the_contracts_shape_and_defaults(http: httpx.Client) -> None:
    answer = http.post("/assistants", json={"graph_id": "steps"})
    assert answer.status_code == 200, answer.text
    created = answer.json()
    assert set(created) == KEYS
    assert uuid.UUID(created["assistant_id"]).version == 4
    assert (created["graph_id"], created["name"], created["description"]) == ("steps", "Untitled", None)
    assert (created["config"], created["context"], created["metadata"]) == ({}, {}, {})
    assert (created["version"], created["created_at"]) == (1, created["updated_at"])
    assert http.get(f"/assistants/{created['assistant_id']}").json() == created
    assert http.delete(f"/assistants/{created['assistant_id']}").status_code == 204


@pytest.mark.anyio
@pytest.mark.requirement("assistants.create")
async def test_the_sdk_creates_with_everything_it_can_say(sdk: LangGraphClient) -> None:
    wanted = str(uuid.uuid4())
    created = await sdk.assistants.create(
        "steps",
        {"tags": ["t"], "recursion_limit": 7, "configurable": {"x": [1]}},
        metadata={"m": {"n": 1}},
        assistant_id=wanted,
        if_exists="raise",
        name="mine",
        description="for tests",
    )
    assert created["assistant_id"] == wanted
    assert created["config"] == {"tags": ["t"], "recursion_limit": 7, "configurable": {"x": [1]}}
    assert (created["context"], created["metadata"]) == ({"x": [1]}, {"m": {"n": 1}})
    assert (created["name"], created["description"]) == ("mine", "for tests")
    assert await sdk.assistants.get(wanted) == created
    await sdk.assistants.delete(wanted)


@pytest.mark.anyio
@pytest.mark.requirement("assistants.mirror")
async def test_configurable_and_context_fill_each_other(sdk: LangGraphClient, mine: str) -> None:
    created = await sdk.assistants.get(mine)
    assert (created["config"], created["context"]) == ({"tags": ["t"], "configurable": {"a": 1}}, {"a": 1})
    patched = await sdk.assistants.update(mine, config={"configurable": {"b": 2}})
    assert (patched["config"], patched["context"]) == ({"configurable": {"b": 2}}, {"b": 2})
    patched = await sdk.assistants.update(mine, context={"c": 3})
    assert (patched["config"], patched["context"]) == ({"configurable": {"c": 3}}, {"c": 3})


@pytest.mark.requirement("assistants.both_given")
def test_both_configurable_and_context_are_refused(http: httpx.Client) -> None:
    both = {"config": {"configurable": {"a": 1}}, "context": {"b": 1}}
    for method, path in (("POST", "/assistants"), ("PATCH", f"/assistants/{by_uuid('steps')}")):
        answer = http.request(method, path, json={"graph_id": "steps", **both})
        assert "both configurable and context" in refused(answer, 400)


@pytest.mark.requirement("assistants.unknown_graph")
def test_an_unknown_graph_is_404_and_names_those_there_are(http: httpx.Client) -> None:
    for method, path in (("POST", "/assistants"), ("PATCH", f"/assistants/{system_assistant('steps')}")):
        detail = refused(http.request(method, path, json={"graph_id": "nope"}), 404)
        assert detail == f"Graph 'nope' not found. Expected one of: {GRAPHS}"


@pytest.mark.anyio
@pytest.mark.requirement("assistants.if_exists")
async def test_a_taken_id_is_a_conflict_unless_the_old_one_will_do(sdk: LangGraphClient, mine: str) -> None:
    before = await sdk.assistants.get(mine)
    with pytest.raises(ConflictError):
        await sdk.assistants.create("steps", assistant_id=mine, name="again")
    with pytest.raises(ConflictError):
        await sdk.assistants.create("steps", assistant_id=mine, if_exists="raise")
    kept = await sdk.assistants.create("echo", assistant_id=mine, if_exists="do_nothing", name="again")
    assert kept == before == await sdk.assistants.get(mine)


@pytest.mark.requirement("assistants.reserved_keys_of_assistants")
def test_reserved_keys_are_silently_dropped_from_an_assistant(http: httpx.Client) -> None:
    forged = {"langgraph_auth_user": 1, "langgraph_request_id": 2, "__otel_x__": 3, "kept": 4}
    metadata = {"thread_id": 1, "assistant_id": 2, "run_id": 3, "cron_id": 4, "kept": 5}
    for body in ({"context": forged}, {"config": {"configurable": forged}}):
        created = http.post("/assistants", json={"graph_id": "steps", "metadata": metadata, **body}).json()
        path = f"/assistants/{created['assistant_id']}"
        for row in (created, http.patch(path, json={"metadata": metadata, **body}).json()):
            assert row["config"] == {"configurable": {"kept": 4}}
            assert (row["context"], row["metadata"]) == ({"kept": 4}, {"kept": 5})
        assert http.delete(path).status_code == 204


# --- patch, versions, latest ---


@pytest.mark.requirement("assistants.patch")
def test_every_patch_is_a_version_even_an_empty_one(http: httpx.Client, mine: str) -> None:
    _patched_without_a_change(http, mine, {})


@pytest.mark.requirement("assistants.patch_nulls")
def test_a_null_in_a_patch_changes_nothing(http: httpx.Client, mine: str) -> None:
    nothing = dict.fromkeys(("graph_id", "name", "description", "config", "context", "metadata"))
    _patched_without_a_change(http, mine, nothing)


def _patched_without_a_change(http: httpx.Client, assistant: str, body: dict[str, Any]) -> None:
    first = http.get(f"/assistants/{assistant}").json()
    patched = http.patch(f"/assistants/{assistant}", json=body).json()
    assert patched["version"] == 2
    assert patched["updated_at"] > first["updated_at"]
    assert {**patched, "version": 1, "updated_at": first["updated_at"]} == first


@pytest.mark.anyio
@pytest.mark.requirement("assistants.patch")
async def test_a_patch_replaces_what_it_names_and_merges_metadata(sdk: LangGraphClient, mine: str) -> None:
    patched = await sdk.assistants.update(
        mine, graph_id="echo", metadata={"n": 2}, name="second", description="two", config={"recursion_limit": 9}
    )
    assert (patched["version"], patched["graph_id"], patched["name"]) == (2, "echo", "second")
    assert (patched["description"], patched["metadata"]) == ("two", {"m": 1, "n": 2})
    assert (patched["config"], patched["context"]) == ({"recursion_limit": 9}, {"a": 1})


@pytest.mark.anyio
@pytest.mark.requirement("assistants.versions")
async def test_versions_are_listed_newest_first_in_pages_and_by_metadata(sdk: LangGraphClient, mine: str) -> None:
    for number in range(2, 13):
        await sdk.assistants.update(mine, metadata={"parity": number % 2})
    listed = await sdk.assistants.get_versions(mine)
    assert [row["version"] for row in listed] == list(range(12, 2, -1))
    assert all(set(row) == VERSION_KEYS for row in listed)
    rest = await sdk.assistants.get_versions(mine, limit=5, offset=10)
    assert [row["version"] for row in rest] == [2, 1]
    assert (rest[1]["name"], rest[1]["context"], rest[1]["metadata"]) == ("first", {"a": 1}, {"m": 1})
    odd = await sdk.assistants.get_versions(mine, metadata={"parity": 1})
    assert [row["version"] for row in odd] == [11, 9, 7, 5, 3]


@pytest.mark.anyio
@pytest.mark.requirement("assistants.latest")
async def test_an_earlier_version_comes_back_with_everything_it_was(sdk: LangGraphClient, mine: str) -> None:
    first = await sdk.assistants.get(mine)
    await sdk.assistants.update(
        mine, graph_id="echo", context={"b": 2}, metadata={"n": 2}, name="second", description="two"
    )
    back = await sdk.assistants.set_latest(mine, 1)
    assert {**back, "updated_at": first["updated_at"]} == first
    assert await sdk.assistants.get(mine) == back
    assert (await sdk.assistants.update(mine, name="third"))["version"] == 3
    assert [row["version"] for row in await sdk.assistants.get_versions(mine)] == [3, 2, 1]


@pytest.mark.requirement("assistants.latest_query")
def test_the_version_may_stand_in_the_query(http: httpx.Client, mine: str) -> None:
    http.patch(f"/assistants/{mine}", json={"name": "second"})
    back = http.post(f"/assistants/{mine}/latest", params={"version": 1}).json()
    assert (back["version"], back["name"]) == (1, "first")
    refused(http.post(f"/assistants/{mine}/latest", params={"version": "one"}), 422)
    refused(http.post(f"/assistants/{mine}/latest", json={}), 422)


@pytest.mark.requirement("assistants.latest")
@pytest.mark.parametrize("version", [0, -1, 99, 2**40])
def test_a_version_that_is_not_there_is_404(http: httpx.Client, version: int) -> None:
    for assistant in ("steps", by_uuid("steps")):
        detail = refused(http.post(f"/assistants/{assistant}/latest", json={"version": version}), 404)
        assert detail == f"Version {version} of assistant {by_uuid('steps')} not found"


@pytest.mark.anyio
@pytest.mark.requirement("assistants.patch")
async def test_patches_at_once_lose_nothing(sdk: LangGraphClient, mine: str) -> None:
    rows = await asyncio.gather(*(sdk.assistants.update(mine, metadata={str(n): n}) for n in range(12)))
    assert sorted(row["version"] for row in rows) == list(range(2, 14))
    assert (await sdk.assistants.get(mine))["metadata"] == {"m": 1, **{str(n): n for n in range(12)}}
    listed = await sdk.assistants.get_versions(mine, limit=100)
    assert [row["version"] for row in listed] == list(range(13, 0, -1))


# --- delete ---


@pytest.mark.requirement("assistants.delete")
def test_a_deleted_assistant_is_gone(http: httpx.Client, mine: str) -> None:
    assert http.delete(f"/assistants/{mine}").status_code == 204
    assert refused(http.delete(f"/assistants/{mine}"), 404) == f"Assistant with ID {mine} not found"
    gone = [
        http.get(f"/assistants/{mine}"),
        http.patch(f"/assistants/{mine}", json={}),
        http.post(f"/assistants/{mine}/versions", json={}),
        http.post(f"/assistants/{mine}/latest", json={"version": 1}),
    ]
    for answer in gone:
        refused(answer, 404)


@pytest.mark.anyio
@pytest.mark.requirement("assistants.delete")
async def test_the_sdk_deletes_an_assistant_with_its_threads(sdk: LangGraphClient) -> None:
    made = (await sdk.assistants.create("steps"))["assistant_id"]
    thread = await sdk.threads.create()
    await sdk.runs.wait(thread["thread_id"], made, input={"count": 1})  # type: ignore[call-overload]
    await sdk.assistants.delete(made, delete_threads=True)
    with pytest.raises(NotFoundError):
        await sdk.threads.get(thread["thread_id"])
    with pytest.raises(NotFoundError):
        await sdk.assistants.delete(made, delete_threads=True)


@pytest.mark.parametrize("threads", ["true", "false"])
@pytest.mark.parametrize("assistant", ["twice", by_uuid("twice")])
@pytest.mark.requirement("assistants.delete_system")
def test_a_system_assistant_cannot_be_deleted(http: httpx.Client, assistant: str, threads: str) -> None:
    answer = http.delete(f"/assistants/{assistant}", params={"delete_threads": threads})
    assert (
        refused(answer, 403)
        == "The system assistant of graph 'twice' stands for the graph itself and cannot be deleted."
    )
    assert http.get(f"/assistants/{assistant}").status_code == 200


@pytest.mark.anyio
@pytest.mark.requirement("assistants.change_system")
async def test_a_system_assistant_can_be_changed_and_put_back_where_nobody_else_is(sdk: LangGraphClient) -> None:
    before = await sdk.assistants.get("twice")
    changed = await sdk.assistants.update(before["assistant_id"], context={"a": 1}, name="Ours")
    assert (changed["name"], changed["context"], changed["version"]) == ("Ours", {"a": 1}, 2)
    back = await sdk.assistants.set_latest(before["assistant_id"], 1)
    assert {**back, "updated_at": before["updated_at"]} == before


@pytest.mark.requirement("assistants.change_system")
def test_a_system_assistant_stays_with_its_graph(http: httpx.Client) -> None:
    answer = http.patch("/assistants/twice", json={"graph_id": "steps"})
    assert "stays with its graph" in refused(answer, 403)


# --- search ---


@pytest.fixture
async def named(sdk: LangGraphClient) -> AsyncIterator[str]:
    """Three assistants, created in the order b, a, C; the value of `set` in their metadata."""
    mark = str(uuid.uuid4())
    made = [
        (await sdk.assistants.create(graph, name=f"{name} {mark}", metadata={"set": mark, "deep": {"n": [1, name]}}))[
            "assistant_id"
        ]
        for name, graph in (("b", "steps"), ("a", "echo"), ("C", "steps"))
    ]
    yield mark
    for assistant_id in made:
        await sdk.assistants.delete(assistant_id)


@pytest.mark.anyio
@pytest.mark.requirement("assistants.search")
async def test_search_knows_terms_order_and_selection(sdk: LangGraphClient, named: str) -> None:
    async def found(**terms: Any) -> list[str]:
        terms = {"metadata": {"set": named}, **terms}
        return [row["name"][0] for row in await sdk.assistants.search(**terms)]

    assert await found() == ["C", "a", "b"]
    assert await found(sort_by="graph_id", sort_order="asc") in (["a", "b", "C"], ["a", "C", "b"])
    for column in ("assistant_id", "name", "created_at", "updated_at"):
        ascending = await found(sort_by=column, sort_order="asc")
        assert ascending == (await found(sort_by=column, sort_order="desc"))[::-1]
        assert sorted(ascending) == ["C", "a", "b"]
    assert await found(graph_id="steps") == ["C", "b"]
    assert await found(name="c " + named[:4].upper()) == ["C"]
    assert await found(metadata={"deep": {"n": ["a"]}, "set": named}) == ["a"]
    assert await found(limit=1, offset=1) == ["a"]
    rows = await sdk.assistants.search(metadata={"set": named}, select=["name", "version"])
    assert all(set(row) == {"name", "version"} for row in rows)
    assert await sdk.assistants.count(metadata={"set": named}) == 3
    assert await sdk.assistants.count(metadata={"set": named}, graph_id="steps", name=f"b {named}") == 1


@pytest.mark.anyio
@pytest.mark.requirement("assistants.pages")
async def test_a_page_says_where_the_next_one_begins(sdk: LangGraphClient, named: str) -> None:
    terms = {"metadata": {"set": named}}
    page = await sdk.assistants.search(**terms, limit=2, response_format="object")
    assert (len(page["assistants"]), page["next"]) == (2, "2")
    page = await sdk.assistants.search(**terms, limit=2, offset=2, response_format="object")
    assert (len(page["assistants"]), page["next"]) == (1, None)


@pytest.mark.requirement("assistants.sort_order")
def test_an_order_without_a_column_is_that_of_creation(http: httpx.Client, mine: str) -> None:
    later = http.post("/assistants", json={"graph_id": "steps", "metadata": {"m": 1}}).json()["assistant_id"]
    body = {"metadata": {"m": 1}, "graph_id": "steps", "sort_order": "asc", "limit": 1000}
    ids = [row["assistant_id"] for row in http.post("/assistants/search", json=body).json()]
    assert ids.index(mine) < ids.index(later)
    http.delete(f"/assistants/{later}")


@pytest.mark.requirement("assistants.pages")
def test_the_headers_of_a_page_say_whether_there_is_more(http: httpx.Client) -> None:
    terms = {"metadata": {"created_by": "system"}}
    headers = http.post("/assistants/search", json={**terms, "limit": 2}).headers
    assert (headers["x-pagination-next"], headers["x-pagination-total"]) == ("2", "3")
    headers = http.post("/assistants/search", json={**terms, "limit": 1000}).headers
    assert "x-pagination-next" not in headers
    assert headers["x-pagination-total"] == str(len(GRAPHS))


@pytest.mark.anyio
@pytest.mark.requirement("assistants.errors")
async def test_what_the_sdk_is_told_when_it_asks_wrongly(sdk: LangGraphClient) -> None:
    with pytest.raises(NotFoundError):
        await sdk.assistants.get(UNKNOWN_ID)
    with pytest.raises(NotFoundError):
        await sdk.assistants.update(UNKNOWN_ID, name="x")
    with pytest.raises(UnprocessableEntityError):
        await sdk.assistants.create("steps", assistant_id="no-uuid")
    with pytest.raises(UnprocessableEntityError):
        await sdk.assistants.create(None)
    with pytest.raises(UnprocessableEntityError):
        await sdk.assistants.search(select=["nope"])  # type: ignore[list-item]
