"""Searching and counting threads on the wire, and asking for parts of them."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.support.talk import UNKNOWN_ID, new_thread, refused, wait


@pytest.fixture
def tag() -> dict[str, str]:
    """Metadata that only this test's threads carry."""
    return {"tag": str(uuid.uuid4())}


@pytest.mark.requirement("threads.search_metadata", "threads.count")
@pytest.mark.anyio
async def test_search_contains_metadata_at_any_depth(sdk: LangGraphClient, tag: dict[str, str]) -> None:
    wanted = await sdk.threads.create(metadata={**tag, "deep": {"a": {"b": 1}, "c": [1, 2]}})
    await sdk.threads.create(metadata={**tag, "deep": {"a": {"b": 2}}})
    part = {"a": {"b": 1}}
    found = await sdk.threads.search(metadata={**tag, "deep": part})
    assert [row["thread_id"] for row in found] == [wanted["thread_id"]]
    assert await sdk.threads.count(metadata={**tag, "deep": part}) == 1
    assert await sdk.threads.count(metadata=tag) == 2
    assert await sdk.threads.search(metadata={**tag, "deep": {"a": 1}}) == []


@pytest.mark.requirement("threads.search_lists")
def test_a_list_contains_its_members(http: httpx.Client, tag: dict[str, str]) -> None:
    thread = new_thread(http, metadata={**tag, "deep": {"c": [1, 2]}})
    [found] = http.post("/threads/search", json={"metadata": {**tag, "deep": {"c": [2]}}}).json()
    assert found["thread_id"] == thread


@pytest.mark.requirement("threads.search_values")
@pytest.mark.anyio
async def test_search_by_values_works_beside_threads_without_values(sdk: LangGraphClient, tag: dict[str, str]) -> None:
    await sdk.threads.create(metadata=tag)
    thread = await sdk.threads.create(metadata=tag)
    await sdk.runs.wait(thread["thread_id"], "steps", input={"count": 2})
    for values in ({"count": 2}, {"log": [1]}, {"count": 2, "log": [0, 1]}):
        found = await sdk.threads.search(metadata=tag, values=values)
        assert [row["thread_id"] for row in found] == [thread["thread_id"]]
        assert await sdk.threads.count(metadata=tag, values=values) == 1
    assert await sdk.threads.search(metadata=tag, values={"count": 3}) == []


@pytest.mark.requirement("threads.search_ids_and_status")
@pytest.mark.anyio
async def test_search_by_ids_status_and_both(sdk: LangGraphClient, tag: dict[str, str]) -> None:
    idle = (await sdk.threads.create(metadata=tag))["thread_id"]
    asking = (await sdk.threads.create(metadata=tag))["thread_id"]
    await sdk.runs.wait(asking, "approve", input={})
    found = await sdk.threads.search(ids=[idle, UNKNOWN_ID])
    assert [row["thread_id"] for row in found] == [idle]
    found = await sdk.threads.search(metadata=tag, status="interrupted")
    assert [row["thread_id"] for row in found] == [asking]
    assert await sdk.threads.search(ids=[idle], status="interrupted") == []
    assert await sdk.threads.count(metadata=tag, status="idle") == 1


@pytest.mark.requirement("threads.paging")
def test_paging_headers_say_whether_more_exists(http: httpx.Client, tag: dict[str, str]) -> None:
    for _ in range(5):
        new_thread(http, metadata=tag)
    pages: list[list[str]] = []
    offset: int | None = 0
    while offset is not None:
        answer = http.post("/threads/search", json={"metadata": tag, "limit": 2, "offset": offset})
        pages.append([row["thread_id"] for row in answer.json()])
        following = answer.headers.get("x-pagination-next")
        total = int(answer.headers["x-pagination-total"])
        assert total == (offset + 3 if following else 5)
        offset = int(following) if following else None
    assert [len(page) for page in pages] == [2, 2, 1]
    assert len({thread for page in pages for thread in page}) == 5


@pytest.mark.requirement("threads.sort")
@pytest.mark.parametrize("sort_by", ["thread_id", "status", "created_at", "updated_at", "state_updated_at"])
def test_search_sorts_both_ways(http: httpx.Client, tag: dict[str, str], sort_by: str) -> None:
    threads = [new_thread(http, metadata=tag) for _ in range(3)]
    http.patch(f"/threads/{threads[0]}", json={"metadata": {"touched": True}})
    wait(http, threads[1], "approve", input={})
    rows = {}
    for order in ("asc", "desc"):
        body = {"metadata": tag, "sort_by": sort_by, "sort_order": order}
        rows[order] = [row[sort_by] for row in http.post("/threads/search", json=body).json()]
        assert rows[order] == sorted(rows[order], reverse=order == "desc")
    assert len(rows["asc"]) == 3


@pytest.mark.requirement("threads.default_order")
def test_the_last_touched_thread_comes_first(http: httpx.Client, tag: dict[str, str]) -> None:
    first, second = new_thread(http, metadata=tag), new_thread(http, metadata=tag)
    http.patch(f"/threads/{first}", json={"metadata": {"touched": True}})
    found = http.post("/threads/search", json={"metadata": tag}).json()
    assert [row["thread_id"] for row in found] == [first, second]


@pytest.mark.requirement("threads.search_bounds")
def test_search_takes_ten_by_default_and_a_thousand_at_most(http: httpx.Client, tag: dict[str, str]) -> None:
    for _ in range(11):
        new_thread(http, metadata=tag)
    assert len(http.post("/threads/search", json={"metadata": tag}).json()) == 10
    assert len(http.post("/threads/search", json={"metadata": tag, "limit": 1000}).json()) == 11
    refused(http.post("/threads/search", json={"limit": 1001}), 422)
    refused(http.post("/threads/search", json={"limit": 0}), 422)
    refused(http.post("/threads/search", json={"sort_by": "values"}), 422)
    refused(http.post("/threads/search", json={"status": "bogus"}), 422)


# --- parts of threads ---


@pytest.mark.requirement("threads.select")
@pytest.mark.anyio
async def test_select_shows_only_what_was_asked_for(sdk: LangGraphClient, tag: dict[str, str]) -> None:
    thread = await sdk.threads.create(metadata=tag)
    await sdk.runs.wait(thread["thread_id"], "steps", input={"count": 1})
    [whole] = await sdk.threads.search(metadata=tag)
    for fields in (["thread_id"], ["values"], ["thread_id", "metadata", "status"], ["interrupts", "config", "values"]):
        [row] = await sdk.threads.search(metadata=tag, select=fields)  # type: ignore[arg-type]
        assert row == {field: whole[field] for field in fields}  # type: ignore[literal-required]


@pytest.mark.requirement("threads.select")
def test_select_shows_the_fields_named_and_takes_no_others(http: httpx.Client, tag: dict[str, str]) -> None:
    wait(http, new_thread(http, metadata=tag), "steps", input={"count": 1})
    fields = ["thread_id", "created_at", "updated_at", "state_updated_at", "metadata", "config", "status", "values"]
    answer = http.post("/threads/search", json={"metadata": tag, "select": [*fields, "interrupts"]})
    assert set(answer.json()[0]) == {*fields, "interrupts"}
    whole = http.post("/threads/search", json={"metadata": tag}).json()
    assert http.post("/threads/search", json={"metadata": tag, "select": []}).json() == whole
    for bogus in (["bogus"], ["thread_id", "owner"], "thread_id", [5], ["values.log"], {}):
        refused(http.post("/threads/search", json={"select": bogus}), 422)


@pytest.mark.requirement("threads.select_sdk")
def test_select_takes_the_other_fields_of_the_sdk_too(http: httpx.Client, tag: dict[str, str]) -> None:
    new_thread(http, metadata=tag)
    body = {"metadata": tag, "select": ["thread_id", "context", "error", "ttl"]}
    [row] = http.post("/threads/search", json=body).json()
    assert row.keys() == {"thread_id", "error", "ttl"}


@pytest.mark.requirement("threads.extract")
@pytest.mark.anyio
async def test_extract_shows_what_stands_at_a_path(sdk: LangGraphClient, tag: dict[str, str]) -> None:
    thread = (await sdk.threads.create(metadata={**tag, "a.b": 1, "list": [{"x": "y"}]}))["thread_id"]
    await sdk.runs.wait(thread, "echo", input={"messages": [{"role": "user", "content": "hello"}]})
    paths = {
        "said": "values.messages[0].content",
        "last": "values.messages[-1].content",
        "all": "values",
        "beyond": "values.messages[7].content",
        "nothing": "values.nothing",
        "x": "metadata.list[0].x",
        "graph": "metadata.graph_id",
        "setup": "config.configurable.nothing",
        "asked": "interrupts",
    }
    [row] = await sdk.threads.search(metadata=tag, extract=paths, select=["thread_id"])
    extracted = row["extracted"]  # type: ignore[typeddict-item]
    values = extracted.pop("all")
    assert [message["content"] for message in values["messages"]] == ["hello", "you said: hello"]
    assert row == {
        "thread_id": thread,
        "extracted": {
            "said": "hello",
            "last": "you said: hello",
            "beyond": None,
            "nothing": None,
            "x": "y",
            "graph": "echo",
            "setup": None,
            "asked": {},
        },
    }


@pytest.mark.requirement("threads.extract")
@pytest.mark.requirement("threads.search_values")
def test_a_value_with_nul_is_found_as_u_fffd_and_shown_as_it_is(http: httpx.Client, tag: dict[str, str]) -> None:
    for said in ("a\x00b\x00\x00", "\\u0000 \x00"):
        wait(http, new_thread(http, metadata=tag), "mirror", input={"text": said})
        paths = {"text": "values.text", "code": "values.codes[1]", "all": "values"}
        body = {"metadata": tag, "values": {"text": said.replace("\x00", "\ufffd")}, "extract": paths}
        [found] = http.post("/threads/search", json=body).json()
        assert found["values"]["text"] == said
        assert found["extracted"] == {"text": said, "code": ord(said[1]), "all": found["values"]}
    assert http.post("/threads/count", json={"metadata": tag, "values": {"text": "else"}}).json() == 0


@pytest.mark.requirement("threads.extract")
def test_extract_stands_beside_the_thread_and_works_without_values(http: httpx.Client, tag: dict[str, str]) -> None:
    new_thread(http, metadata=tag)
    [plain] = http.post("/threads/search", json={"metadata": tag}).json()
    assert "extracted" not in plain
    body = {"metadata": tag, "extract": {"last": "values.log[-1]", "tag": "metadata.tag"}}
    [row] = http.post("/threads/search", json=body).json()
    assert row == {**plain, "extracted": {"last": None, "tag": tag["tag"]}}


@pytest.mark.requirement("threads.extract_bounds")
@pytest.mark.parametrize(
    "extract",
    [
        {"a": "thread_id"},
        {"a": "status"},
        {"a": ""},
        pytest.param({"a": "values."}, marks=pytest.mark.requirement("threads.extract_malformed")),
        pytest.param({"a": "values[]"}, marks=pytest.mark.requirement("threads.extract_malformed")),
        pytest.param({"a": "values.x[one]"}, marks=pytest.mark.requirement("threads.extract_malformed")),
        pytest.param({"a": "values..x"}, marks=pytest.mark.requirement("threads.extract_malformed")),
        {"a": "valuesx"},
        pytest.param({"a": "values.x[99999999999]"}, marks=pytest.mark.requirement("threads.extract_malformed")),
        {"a": 5},
        {"a": None},
        pytest.param({"a": "values.x\x00"}, marks=pytest.mark.requirement("threads.extract_malformed")),
        {"a\x00": "values.x"},
        {str(number): "values" for number in range(11)},
        ["values"],
        "values",
    ],
)
def test_an_extract_that_leads_nowhere_is_refused(http: httpx.Client, extract: Any) -> None:
    refused(http.post("/threads/search", json={"extract": extract}), 422)
