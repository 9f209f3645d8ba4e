"""Thread states, history and state updates on the wire."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError

from tests.support.talk import LONG, UNKNOWN_ID, get_thread, new_thread, refused, wait

# --- reading states ---


@pytest.mark.requirement("threads.state_empty")
@pytest.mark.anyio
async def test_a_thread_without_runs_has_an_empty_state(sdk: LangGraphClient) -> None:
    thread = await sdk.threads.create()
    state = await sdk.threads.get_state(thread["thread_id"])
    assert set(state) == {
        "values",
        "next",
        "tasks",
        "metadata",
        "created_at",
        "checkpoint",
        "parent_checkpoint",
        "interrupts",
        "checkpoint_id",
        "parent_checkpoint_id",
    }
    assert (state["values"], state["next"], state["tasks"], state["interrupts"]) == ({}, [], [], [])
    assert (state["checkpoint"], state["checkpoint_id"], state["created_at"]) == (None, None, None)
    assert await sdk.threads.get_history(thread["thread_id"]) == []


@pytest.mark.requirement("threads.state_chain")
@pytest.mark.anyio
async def test_a_state_says_where_it_stands_in_the_chain(sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    await sdk.runs.wait(thread, "steps", input={"count": 1})
    state = await sdk.threads.get_state(thread)
    assert state["values"] == {"log": [0], "count": 1}
    assert state["checkpoint"]["thread_id"] == thread
    assert state["checkpoint"]["checkpoint_ns"] == ""
    assert state["checkpoint"]["checkpoint_id"] == state["checkpoint_id"]
    assert state["parent_checkpoint"]["checkpoint_id"] == state["parent_checkpoint_id"]
    metadata = state["metadata"]
    assert metadata is not None
    assert (metadata["source"], metadata["step"], metadata["graph_id"]) == ("loop", 1, "steps")
    assert {"run_id", "assistant_id"} <= set(metadata)


@pytest.mark.requirement("threads.state_at")
@pytest.mark.anyio
async def test_a_past_state_is_the_same_by_id_in_the_path_and_by_checkpoint(sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    await sdk.runs.wait(thread, "steps", input={"count": 2})
    middle = (await sdk.threads.get_history(thread, limit=10))[1]
    assert middle["values"] == {"log": [0], "count": 2}
    by_id = await sdk.threads.get_state(thread, checkpoint_id=str(middle["checkpoint"]["checkpoint_id"]))
    by_checkpoint = await sdk.threads.get_state(thread, checkpoint=middle["checkpoint"])
    # The official server leaves the empty namespace out of what it finds by id.
    by_id["checkpoint"].setdefault("checkpoint_ns", "")
    assert by_id == by_checkpoint
    assert by_id["values"] == middle["values"]
    assert by_id["next"] == ["step"]


@pytest.mark.requirement("threads.state_unknown_checkpoint")
@pytest.mark.parametrize("checkpoint", [UNKNOWN_ID, "nonsense"])
def test_an_unknown_checkpoint_is_an_empty_state_that_echoes_the_id(
    http: httpx.Client, thread: str, checkpoint: str
) -> None:
    wait(http, thread, "steps", input={"count": 1})
    answer = http.get(f"/threads/{thread}/state/{checkpoint}")
    assert answer.status_code == 200
    assert (answer.json()["values"], answer.json()["checkpoint_id"]) == ({}, checkpoint)


@pytest.mark.requirement("threads.state_subgraphs")
@pytest.mark.anyio
async def test_a_pending_subgraph_shows_its_own_state_when_asked(sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    await sdk.runs.wait(thread, "nested_ask", input={})
    plain = await sdk.threads.get_state(thread)
    assert plain["next"] == ["child"]
    place = plain["tasks"][0]["checkpoint"]
    assert place is not None
    assert place["checkpoint_ns"].startswith("child:")
    assert plain["tasks"][0]["state"] is None
    deep = await sdk.threads.get_state(thread, subgraphs=True)
    inner = deep["tasks"][0]["state"]
    assert inner is not None
    assert inner["next"] == ["inside"]
    assert inner["checkpoint"]["checkpoint_ns"] == place["checkpoint_ns"]
    alone = await sdk.threads.get_state(thread, checkpoint=place)
    assert alone["next"] == ["inside"]
    assert alone["checkpoint"]["checkpoint_ns"] == place["checkpoint_ns"]


# --- history ---


@pytest.fixture(scope="module")
def walked(http: httpx.Client) -> str:
    """A thread with five checkpoints."""
    thread = new_thread(http)
    wait(http, thread, "steps", input={"count": 3})
    return thread


@pytest.mark.requirement("threads.history")
def test_history_is_newest_first_and_one_row_long_by_default(http: httpx.Client, walked: str) -> None:
    rows = http.get(f"/threads/{walked}/history", params={"limit": 100}).json()
    assert [row["metadata"]["step"] for row in rows] == [3, 2, 1, 0, -1]
    assert [row["parent_checkpoint_id"] for row in rows] == [row["checkpoint_id"] for row in rows[1:]] + [None]
    assert rows[1]["tasks"][0]["result"] == {"log": [2]}
    assert http.get(f"/threads/{walked}/history").json() == rows[:1]
    assert http.post(f"/threads/{walked}/history", json={}).json() == rows[:1]
    assert http.post(f"/threads/{walked}/history", json={"limit": 100}).json() == rows
    refused(http.post(f"/threads/{walked}/history", json={"limit": 0}), 422)


@pytest.mark.requirement("threads.history_bounds")
def test_the_limit_of_a_history_is_the_same_in_the_query(http: httpx.Client, walked: str) -> None:
    for limit in (0, 1001):
        refused(http.get(f"/threads/{walked}/history", params={"limit": limit}), 422)


@pytest.mark.requirement("threads.history_before")
@pytest.mark.parametrize("form", ["string", "checkpoint", "config"])
def test_before_takes_an_id_a_checkpoint_and_a_config(http: httpx.Client, walked: str, form: str) -> None:
    rows = http.get(f"/threads/{walked}/history", params={"limit": 100}).json()
    place = rows[1]["checkpoint"]
    before = {"string": place["checkpoint_id"], "checkpoint": place, "config": {"configurable": place}}[form]
    found = http.post(f"/threads/{walked}/history", json={"limit": 2, "before": before}).json()
    assert found == rows[2:4]


@pytest.mark.requirement("threads.history_before")
def test_before_works_in_the_query_too(http: httpx.Client, walked: str) -> None:
    rows = http.get(f"/threads/{walked}/history", params={"limit": 100}).json()
    query = {"limit": 100, "before": rows[2]["checkpoint_id"]}
    assert http.get(f"/threads/{walked}/history", params=query).json() == rows[3:]


@pytest.mark.requirement("threads.history_before")
def test_before_that_is_none_of_the_three_forms_is_refused(http: httpx.Client, walked: str) -> None:
    for before in (5, [], {"configurable": 5}, {"checkpoint_id": 5}):
        refused(http.post(f"/threads/{walked}/history", json={"before": before}), 422)


@pytest.mark.requirement("threads.history_filter")
def test_history_filters_by_metadata_and_starts_at_a_checkpoint(http: httpx.Client, walked: str) -> None:
    rows = http.get(f"/threads/{walked}/history", params={"limit": 100}).json()
    found = http.post(f"/threads/{walked}/history", json={"limit": 100, "metadata": {"source": "input"}}).json()
    assert found == rows[-1:]
    found = http.post(f"/threads/{walked}/history", json={"limit": 9, "checkpoint": {"checkpoint_ns": ""}}).json()
    assert found == rows


@pytest.mark.requirement("threads.history_before")
@pytest.mark.anyio
async def test_the_sdk_reads_history_with_a_checkpoint_as_before(sdk: LangGraphClient, walked: str) -> None:
    rows = await sdk.threads.get_history(walked)
    assert len(rows) == 5
    assert await sdk.threads.get_history(walked, before=rows[1]["checkpoint"]) == rows[2:]


@pytest.mark.requirement("threads.history_filter")
def test_a_subgraph_has_a_history_of_its_own(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "nested_ask", input={"log": ["go"]})
    place = http.get(f"/threads/{thread}/state").json()["tasks"][0]["checkpoint"]
    inner = http.post(f"/threads/{thread}/history", json={"limit": 100, "checkpoint": place}).json()
    assert {row["checkpoint"]["checkpoint_ns"] for row in inner} == {place["checkpoint_ns"]}
    assert [row["next"] for row in inner] == [["inside"], ["__start__"]]
    outer = http.post(f"/threads/{thread}/history", json={"limit": 100}).json()
    assert {row["checkpoint"]["checkpoint_ns"] for row in outer} == {""}


# --- parts of states ---


@pytest.mark.requirement("threads.state_select")
@pytest.mark.anyio
async def test_select_shows_only_the_fields_that_were_asked_for(sdk: LangGraphClient, walked: str) -> None:
    state = await sdk.threads.get_state(walked)
    place: Any = state["checkpoint"]
    for select in (["values"], ["next", "checkpoint"], ["tasks", "metadata", "created_at", "interrupts"]):
        expected = {field: state[field] for field in select}  # type: ignore[literal-required]
        assert await sdk.threads.get_state(walked, select=select) == expected
        assert await sdk.threads.get_state(walked, checkpoint=place, select=select) == expected
        assert await sdk.threads.get_state(walked, checkpoint_id=place["checkpoint_id"], select=select) == expected
        assert await sdk.threads.get_history(walked, limit=1, select=select) == [expected]


@pytest.mark.requirement("threads.state_select")
def test_select_shows_single_keys_of_the_values(http: httpx.Client, walked: str) -> None:
    def selected(*select: str) -> Any:
        return http.get(f"/threads/{walked}/state", params={"select": list(select)}).json()

    assert selected("values.log") == {"values": {"log": [0, 1, 2]}}
    assert selected("values.log", "values.count", "next") == {"next": [], "values": {"log": [0, 1, 2], "count": 3}}
    assert selected("values.nothing") == {"values": {}}
    assert selected("values.log", "values") == selected("values") == {"values": {"log": [0, 1, 2], "count": 3}}
    assert selected("next,values.count") == {"next": [], "values": {"count": 3}}
    history = http.get(f"/threads/{walked}/history", params={"limit": 2, "select": "values.log"}).json()
    assert history == [{"values": {"log": [0, 1, 2]}}, {"values": {"log": [0, 1]}}]


@pytest.mark.requirement("threads.state_select")
@pytest.mark.parametrize("select", ["bogus", "values.", "checkpoint.thread_id"])
def test_a_field_that_no_state_has_is_refused(http: httpx.Client, walked: str, select: str) -> None:
    place = {"checkpoint": {"checkpoint_ns": ""}, "select": ["values", select]}
    refused(http.get(f"/threads/{walked}/state", params={"select": select}), 422)
    refused(http.get(f"/threads/{walked}/state/x", params={"select": select}), 422)
    refused(http.get(f"/threads/{walked}/history", params={"select": select}), 422)
    refused(http.post(f"/threads/{walked}/state/checkpoint", json=place), 422)
    refused(http.post(f"/threads/{walked}/history", json=place), 422)


# --- updating states ---


@pytest.mark.requirement("threads.update_state")
@pytest.mark.anyio
async def test_a_state_update_goes_through_the_reducers_and_onto_the_thread(sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    await sdk.runs.wait(thread, "steps", input={"count": 1})
    before = await sdk.threads.get_state(thread)
    updated = await sdk.threads.update_state(thread, {"log": ["by hand"]})
    assert set(updated) == {"checkpoint", "configurable", "checkpoint_id"}
    assert updated["checkpoint"] == {  # type: ignore[typeddict-item]
        "thread_id": thread,
        "checkpoint_ns": "",
        "checkpoint_id": updated["checkpoint_id"],  # type: ignore[typeddict-item]
    }
    state = await sdk.threads.get_state(thread)
    assert state["values"]["log"] == [0, "by hand"]  # type: ignore[call-overload]
    assert state["parent_checkpoint_id"] == before["checkpoint_id"]
    row = await sdk.threads.get(thread)
    assert row["values"]["log"] == [0, "by hand"]  # type: ignore[call-overload]


@pytest.mark.requirement("threads.update_as_node")
def test_as_node_decides_what_comes_next(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "approve", input={})
    answer = http.post(f"/threads/{thread}/state", json={"values": {"log": ["skipped"]}, "as_node": "ask"})
    assert answer.status_code == 200
    state = http.get(f"/threads/{thread}/state").json()
    assert (state["next"], state["values"]) == (["done"], {"log": ["skipped"]})
    row = get_thread(http, thread)
    assert (row["status"], row["interrupts"]) == ("interrupted", {})
    assert wait(http, thread, "approve", input=None) == {"log": ["skipped", "done"]}


@pytest.mark.requirement("threads.update_as_end")
def test_an_update_as_the_end_clears_what_was_to_come(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "approve", input={})
    assert http.post(f"/threads/{thread}/state", json={"values": None, "as_node": "__end__"}).status_code == 200
    row = get_thread(http, thread)
    assert (row["status"], row["interrupts"]) == ("idle", {})
    assert http.get(f"/threads/{thread}/state").json()["next"] == []


@pytest.mark.requirement("threads.update_branch")
@pytest.mark.parametrize("form", ["checkpoint", "checkpoint_id"])
def test_an_update_of_a_past_state_makes_a_branch(http: httpx.Client, walked: str, form: str) -> None:
    thread = new_thread(http)
    wait(http, thread, "steps", input={"count": 2})
    rows = http.get(f"/threads/{thread}/history", params={"limit": 100}).json()
    past = rows[1]
    where = {"checkpoint": past["checkpoint"]} if form == "checkpoint" else {"checkpoint_id": past["checkpoint_id"]}
    answer = http.post(f"/threads/{thread}/state", json={"values": {"log": ["branch"]}, "as_node": "step", **where})
    assert answer.status_code == 200, answer.text
    state = http.get(f"/threads/{thread}/state").json()
    assert state["parent_checkpoint_id"] == past["checkpoint_id"]
    assert state["values"]["log"] == [0, "branch"]
    assert state["metadata"]["source"] == "update"
    assert len(http.get(f"/threads/{thread}/history", params={"limit": 100}).json()) == len(rows) + 1


@pytest.mark.requirement("threads.update_as_copy")
def test_studios_run_again_from_here_copies_a_checkpoint(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "steps", input={"count": 2})
    past = http.get(f"/threads/{thread}/history", params={"limit": 100}).json()[1]
    body = {"values": None, "as_node": "__copy__", "checkpoint_id": past["checkpoint_id"]}
    assert http.post(f"/threads/{thread}/state", json=body).status_code == 200
    assert get_thread(http, thread)["status"] == "interrupted"
    assert wait(http, thread, "steps", input=None)["log"] == [0, 1]


@pytest.mark.requirement("threads.update_as_copy")
def test_a_copy_of_a_checkpoint_may_change_its_tasks(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "approve", input={})
    body = {"values": [[{"log": ["by hand"]}, "ask"]], "as_node": "__copy__"}
    answer = http.post(f"/threads/{thread}/state", json=body)
    assert answer.status_code == 200, answer.text
    state = http.get(f"/threads/{thread}/state").json()
    assert (state["values"], state["next"]) == ({"log": ["by hand"]}, ["done"])
    refused(http.post(f"/threads/{new_thread(http)}/state", json=body), 400)


@pytest.mark.requirement("threads.update_as_input")
def test_an_update_as_input_starts_the_graph_anew(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "steps", input={"count": 1})
    body = {"values": {"log": ["given"], "count": 2}, "as_node": "__input__"}
    assert http.post(f"/threads/{thread}/state", json=body).status_code == 200
    assert get_thread(http, thread)["status"] == "interrupted"
    assert wait(http, thread, "steps", input=None) == {"log": [0, "given", 1], "count": 2}
    refused(http.post(f"/threads/{thread}/state", json={"values": None, "as_node": "__input__"}), 400)


@pytest.mark.requirement("threads.update_refused")
def test_a_refused_update_says_why_and_changes_nothing(http: httpx.Client, thread: str) -> None:
    refused(http.post(f"/threads/{thread}/state", json={"values": {}}), 400)
    wait(http, thread, "steps", input={"count": 1})
    before = http.get(f"/threads/{thread}/history", params={"limit": 100}).json()
    unknown = http.post(f"/threads/{thread}/state", json={"values": {"log": [1]}, "as_node": "nowhere"})
    assert refused(unknown, 400).endswith("Node nowhere does not exist")
    refused(http.post(f"/threads/{thread}/state", json={"values": [{"log": [1]}]}), 400)
    refused(http.post(f"/threads/{thread}/state", json={"values": 5}), 422)
    assert http.get(f"/threads/{thread}/history", params={"limit": 100}).json() == before


@pytest.mark.requirement("threads.update_busy")
@pytest.mark.anyio
async def test_the_state_of_a_busy_thread_cannot_be_updated(sdk: LangGraphClient) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    run = await sdk.runs.create(thread, "steps", **LONG)
    with pytest.raises(ConflictError):
        await sdk.threads.update_state(thread, {"log": ["in between"]})
    await sdk.runs.cancel(thread, run["run_id"], wait=True)
    await sdk.threads.update_state(thread, {"log": ["afterwards"]})
    state = await sdk.threads.get_state(thread)
    log = state["values"]["log"]  # type: ignore[call-overload]
    assert log[-1] == "afterwards"
    assert "in between" not in log
