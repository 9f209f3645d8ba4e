"""Threads that come with a time to live, or with a past."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient

from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import UNKNOWN_ID, get_thread, new_thread, refused, start, until, until_running, wait

GRAPHS = Path(__file__).parents[1] / "support" / "project" / "graphs.py"

# --- time to live ---


@pytest.mark.requirement("threads.ttl", "threads.ttl_shape")
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("given", "minutes", "strategy"),
    [
        (5, 5.0, "delete"),
        ({"ttl": 0.5}, 0.5, "delete"),
        ({"ttl": 60, "strategy": "delete"}, 60.0, "delete"),
        ({"ttl": 43_200, "strategy": "keep_latest"}, 43_200.0, "keep_latest"),
    ],
)
async def test_a_time_to_live_is_shown_when_it_was_set_and_when_it_is_asked_for(
    sdk: LangGraphClient, given: Any, minutes: float, strategy: str
) -> None:
    created = await sdk.threads.create(ttl=given)
    patched = await sdk.threads.update((await sdk.threads.create())["thread_id"], metadata={"a": 1}, ttl=given)
    for thread in (created, patched):
        expires = datetime.fromisoformat(thread["updated_at"]) + timedelta(minutes=minutes)  # type: ignore[arg-type]
        assert thread["ttl"] == {  # type: ignore[typeddict-item]
            "strategy": strategy,
            "ttl_minutes": minutes,
            "expires_at": expires.isoformat(timespec="microseconds"),
        }
        assert await sdk.threads.get(thread["thread_id"], include=["ttl"]) == thread
        assert "ttl" not in await sdk.threads.get(thread["thread_id"])


@pytest.mark.requirement("threads.ttl_shape")
@pytest.mark.anyio
async def test_a_thread_without_a_time_to_live_says_so(sdk: LangGraphClient) -> None:
    thread = await sdk.threads.create()
    assert await sdk.threads.get(thread["thread_id"], include=["ttl"]) == {**thread, "ttl": None}
    assert "ttl" not in thread


@pytest.mark.requirement("threads.ttl_number")
def test_a_bare_number_means_minutes(http: httpx.Client, thread: str) -> None:
    for answer in (http.post("/threads", json={"ttl": 7}), http.patch(f"/threads/{thread}", json={"ttl": 7})):
        assert (answer.json()["ttl"]["ttl_minutes"], answer.json()["ttl"]["strategy"]) == (7.0, "delete")


@pytest.mark.requirement("threads.ttl_bounds")
@pytest.mark.parametrize(
    "ttl",
    [
        0,
        -1,
        10**30,
        True,
        "5",
        [],
        pytest.param({}, marks=pytest.mark.requirement("threads.ttl_without_minutes")),
        pytest.param({"ttl": 0}, marks=pytest.mark.requirement("threads.ttl_without_minutes")),
        {"ttl": None},
        {"ttl": 5, "strategy": "burn"},
        pytest.param({"strategy": "delete"}, marks=pytest.mark.requirement("threads.ttl_without_minutes")),
    ],
)
def test_a_time_to_live_that_makes_no_sense_is_refused(http: httpx.Client, thread: str, ttl: Any) -> None:
    before = http.get(f"/threads/{thread}?include=ttl").json()
    refused(http.post("/threads", json={"ttl": ttl}), 422)
    refused(http.patch(f"/threads/{thread}", json={"ttl": ttl}), 422)
    assert http.get(f"/threads/{thread}?include=ttl").json() == before


@pytest.fixture(scope="module")
def forgetful(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server whose project lets threads go quickly."""
    config = tmp_path_factory.mktemp("forgetful") / "langgraph.json"
    ttl = {"strategy": "keep_latest", "default_ttl": 0.001, "sweep_interval_minutes": 0.002, "sweep_limit": 3}
    graphs = {name: f"{GRAPHS}:{name}" for name in ("steps", "growing", "approve")}
    config.write_text(json.dumps({"dependencies": ["."], "graphs": graphs, "checkpointer": {"ttl": ttl}}))
    with (
        cluster.database() as url,
        Server(database_url=url, config=config) as running,
        running.http(timeout=30) as client,
    ):
        yield client


@pytest.mark.requirement("threads.ttl_default", "threads.ttl_keep_latest")
@pytest.mark.parametrize("graph", ["steps", "growing"])
def test_the_projects_default_applies_and_its_sweep_keeps_the_latest_state(forgetful: httpx.Client, graph: str) -> None:
    thread = new_thread(forgetful)
    assert forgetful.get(f"/threads/{thread}?include=ttl").json()["ttl"]["strategy"] == "keep_latest"
    wait(forgetful, thread, graph, input={"log": [], "count": 3})
    row, state = get_thread(forgetful, thread), forgetful.get(f"/threads/{thread}/state").json()
    history = f"/threads/{thread}/history?limit=100"
    until(lambda: len(forgetful.get(history).json()) == 1, "the history is pruned")
    kept = forgetful.get(f"/threads/{thread}/state").json()
    for key in ("values", "next", "checkpoint_id"):
        assert kept[key] == state[key]
    assert get_thread(forgetful, thread) == row
    assert wait(forgetful, thread, graph, input={"log": [], "count": 5})["log"][:3] == state["values"]["log"]


@pytest.mark.requirement("threads.ttl_delete", "threads.ttl_busy")
def test_the_sweep_deletes_what_is_due_but_never_a_busy_thread(forgetful: httpx.Client) -> None:
    ttl = {"ttl": 0.001, "strategy": "delete"}
    busy = new_thread(forgetful, ttl=ttl)
    run = start(
        forgetful, busy, "steps", input={"log": [], "pause": 0.05, "count": 100}, config={"recursion_limit": 200}
    )
    until_running(forgetful, busy, run)
    due = [new_thread(forgetful, ttl=ttl) for _ in range(5)]
    until(lambda: forgetful.post("/threads/count", json={"ids": due}).json() == 0, "the idle threads are gone")
    refused(forgetful.get(f"/threads/{due[0]}"), 404)
    assert get_thread(forgetful, busy)["status"] == "busy"
    until(lambda: forgetful.get(f"/threads/{busy}").status_code == 404, "the thread is gone when its run is over")


@pytest.mark.requirement("threads.ttl_interrupted")
@pytest.mark.parametrize("strategy", ["delete", "keep_latest"])
def test_a_thread_that_asks_something_does_not_expire_before_it_is_answered(
    forgetful: httpx.Client, strategy: str
) -> None:
    asking = new_thread(forgetful, ttl={"ttl": 0.001, "strategy": strategy})
    wait(forgetful, asking, "approve", input={"log": ["go"]})
    history = forgetful.get(f"/threads/{asking}/history?limit=100").json()
    for _ in range(2):
        due = new_thread(forgetful, ttl={"ttl": 0.001, "strategy": "delete"})
        until(lambda: forgetful.get(f"/threads/{due}").status_code == 404, "a sweep has come by")  # noqa: B023
    assert get_thread(forgetful, asking)["status"] == "interrupted"
    assert forgetful.get(f"/threads/{asking}/history?limit=100").json() == history
    assert wait(forgetful, asking, "approve", command={"resume": "yes"})["log"] == ["go", "yes", "done"]
    until(
        lambda: (
            forgetful.get(f"/threads/{asking}").status_code == 404
            or len(forgetful.get(f"/threads/{asking}/history?limit=100").json()) == 1
        ),
        "its time is up now",
    )


@pytest.mark.requirement("threads.ttl_interrupted")
def test_the_project_may_say_that_threads_that_ask_something_expire_too(cluster: Cluster, tmp_path: Path) -> None:
    config = tmp_path / "langgraph.json"
    ttl = {"default_ttl": 0.001, "sweep_interval_minutes": 0.002, "include_interrupted": True}
    graphs = {"approve": f"{GRAPHS}:approve"}
    config.write_text(json.dumps({"dependencies": ["."], "graphs": graphs, "checkpointer": {"ttl": ttl}}))
    with cluster.database() as url, Server(database_url=url, config=config) as running, running.http() as http:
        asking = new_thread(http)
        assert http.post(f"/threads/{asking}/runs/wait", json={"assistant_id": "approve", "input": {"log": []}})
        until(lambda: http.get(f"/threads/{asking}").status_code == 404, "the thread is gone")


# --- supersteps ---

PAST = [
    {"updates": [{"values": {"log": ["asked"], "count": 1}, "as_node": "__input__"}]},
    {"updates": [{"values": {"log": ["asked"], "count": 1}, "as_node": "__start__"}]},
    {"updates": [{"values": {"log": [0]}, "as_node": "step"}]},
]


@pytest.mark.requirement("threads.supersteps")
@pytest.mark.anyio
async def test_a_thread_can_come_with_its_past(sdk: LangGraphClient) -> None:
    thread = await sdk.threads.create(graph_id="steps", supersteps=PAST, metadata={"from": "elsewhere"})
    assert (thread["status"], thread["values"]) == ("idle", {"log": ["asked", 0], "count": 1})
    assert thread["metadata"] == {"from": "elsewhere", "graph_id": "steps"}
    rows = await sdk.threads.get_history(thread["thread_id"])
    assert [row["metadata"]["source"] for row in rows] == ["update", "update", "input"]  # type: ignore[index]
    assert [row["next"] for row in rows] == [[], ["step"], ["__start__"]]
    assert (await sdk.threads.get_state(thread["thread_id"]))["values"] == thread["values"]
    going_on = await sdk.runs.wait(thread["thread_id"], "steps", input={"log": ["again"], "count": 2})
    assert going_on == {"log": ["asked", 0, "again", 1], "count": 2}


@pytest.mark.requirement("threads.supersteps")
def test_a_past_can_be_copied_from_a_history(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "approve", input={"log": ["a"]})
    rows = http.get(f"/threads/{thread}/history?limit=100").json()
    past = [
        {"updates": [{"values": task["result"], "as_node": task["name"]} for task in row["tasks"] if task["result"]]}
        for row in reversed(rows)
    ]
    past = [superstep for superstep in past if superstep["updates"]]
    entry = {"updates": [{"values": {"log": ["a"]}, "as_node": "__input__"}]}
    copied = http.post("/threads", json={"metadata": {"graph_id": "approve"}, "supersteps": [entry, *past]}).json()
    state = http.get(f"/threads/{copied['thread_id']}/state").json()
    assert (copied["status"], state["values"], state["next"]) == ("interrupted", {"log": ["a"]}, ["ask"])
    wait(http, copied["thread_id"], "approve", input=None)
    answered = wait(http, copied["thread_id"], "approve", command={"resume": "yes"})
    assert answered["log"] == ["a", "yes", "done"]


@pytest.mark.requirement("threads.supersteps_command")
def test_a_superstep_may_hold_a_command_and_several_updates(http: httpx.Client) -> None:
    supersteps = [
        {"updates": [{"values": {"log": [], "count": 2}, "as_node": "__input__"}]},
        {"updates": [{"values": {"log": [], "count": 2}, "as_node": "__start__"}]},
        {
            "updates": [
                {"values": None, "command": {"update": {"log": ["commanded"]}}, "as_node": "step"},
                {"values": {"log": ["beside"]}, "command": None, "as_node": "step"},
            ]
        },
    ]
    thread = http.post("/threads", json={"metadata": {"graph_id": "steps"}, "supersteps": supersteps}).json()
    assert thread["values"]["log"] == ["commanded", "beside"]


BAD_PASTS: list[tuple[Any, int]] = [
    ([{"updates": [{"values": {"log": [1]}, "as_node": "nowhere"}]}], 400),
    ([PAST[0], {"updates": [{"values": {"log": [1]}, "as_node": "nowhere"}]}], 400),
    ([PAST[0], {"updates": [{"values": 5, "as_node": "step"}]}], 400),
    ([{"updates": [{"values": None, "as_node": "__copy__"}]}], 400),
    ([PAST[0], {"updates": [{"command": {"goto": 5}, "as_node": "step"}]}], 422),
    ([{"updates": []}], 422),
    ([{"updates": [{"values": {}}]}], 422),
    ([{"updates": [{"values": {}, "as_node": 5}]}], 422),
    ([{"updates": "text"}], 422),
    ([{}], 422),
    (["text"], 422),
    ("text", 422),
    ({}, 422),
]


@pytest.mark.requirement("threads.supersteps_refused")
@pytest.mark.parametrize(("past", "status"), BAD_PASTS)
def test_a_past_that_the_graph_refuses_leaves_nothing_behind(http: httpx.Client, past: Any, status: int) -> None:
    wanted = str(uuid.uuid4())
    body = {"thread_id": wanted, "metadata": {"graph_id": "steps"}}
    refused(http.post("/threads", json={**body, "supersteps": past}), status)
    refused(http.get(f"/threads/{wanted}"), 404)
    # The id is free again, and nothing of the attempt shows.
    assert http.post("/threads", json={**body, "if_exists": "raise"}).json()["values"] is None
    assert http.get(f"/threads/{wanted}/history?limit=10").json() == []


@pytest.mark.requirement("threads.supersteps_refused")
@pytest.mark.parametrize("metadata", [{}, {"graph_id": "nope"}, {"graph_id": 5}, {"graph_id": None}])
def test_a_past_needs_a_graph(http: httpx.Client, metadata: dict[str, Any]) -> None:
    before = http.post("/threads/count", json={}).json()
    refused(http.post("/threads", json={"metadata": metadata, "supersteps": PAST}), 400)
    assert http.post("/threads/count", json={}).json() == before


@pytest.mark.requirement("threads.if_exists_past")
def test_a_past_for_a_taken_id_changes_nothing(http: httpx.Client, thread: str) -> None:
    before = get_thread(http, thread)
    body = {"thread_id": thread, "metadata": {"graph_id": "steps"}, "supersteps": PAST}
    refused(http.post("/threads", json=body), 409)
    assert http.post("/threads", json={**body, "if_exists": "do_nothing"}).json() == before
    assert http.get(f"/threads/{thread}/history").json() == []
    assert http.post("/threads", json={**body, "thread_id": UNKNOWN_ID, "if_exists": "do_nothing"}).json()["values"]
    http.delete(f"/threads/{UNKNOWN_ID}")
