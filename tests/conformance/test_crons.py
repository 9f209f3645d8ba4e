"""Crons on the wire: every method of the SDK's `crons`, and runs that really start."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import psycopg
import pytest
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError

from tests.conftest import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import LONG, UNKNOWN_ID, get_thread, join, new_thread, refused, start, until

NEVER = "0 0 1 1 *"
KEYS = {
    *("cron_id", "assistant_id", "thread_id", "user_id", "end_time", "schedule", "timezone", "payload"),
    *("next_run_date", "metadata", "on_run_completed", "enabled", "created_at", "updated_at"),
}
pytestmark = pytest.mark.anyio


@pytest.fixture
def tag() -> dict[str, str]:
    """Metadata that only this test's crons carry."""
    return {"tag": str(uuid.uuid4())}


def new_cron(http: httpx.Client, **body: Any) -> dict[str, Any]:
    created = http.post("/runs/crons", json={"assistant_id": "steps", "schedule": NEVER, **body})
    assert created.status_code == 200, created.text
    cron: dict[str, Any] = created.json()
    return cron


def shown(http: httpx.Client, cron: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"/runs/crons/{cron['cron_id']}").json()
    return found


# --- create ---


@pytest.mark.requirement("crons.create")
async def test_a_stateless_cron_has_all_its_keys(sdk: LangGraphClient, tag: dict[str, str]) -> None:
    before = datetime.now(UTC)
    cron: Any = await sdk.crons.create(
        "steps",
        schedule="30 9 * * MON-FRI",
        input={"count": 1},
        metadata=tag,
        config={"tags": ["a"], "configurable": {"model": "m"}},
        interrupt_before=["step"],
        interrupt_after="*",
        webhook="https://1.1.1.1/hook",
        on_run_completed="keep",
        multitask_strategy="interrupt",
        end_time=datetime(2100, 1, 1, tzinfo=UTC),
        timezone=ZoneInfo("Europe/Berlin"),
        stream_mode=["values", "updates"],
        stream_subgraphs=True,
        stream_resumable=True,
        durability="exit",
    )
    assert set(cron) == KEYS
    assert uuid.UUID(cron["cron_id"]).version == 7
    assert (cron["schedule"], cron["timezone"], cron["enabled"]) == ("30 9 * * MON-FRI", "Europe/Berlin", True)
    assert (cron["thread_id"], cron["on_run_completed"]) == (None, "keep")
    assert cron["metadata"] == tag
    assert datetime.fromisoformat(cron["end_time"]) == datetime(2100, 1, 1, tzinfo=UTC)
    due = datetime.fromisoformat(cron["next_run_date"])
    local = due.astimezone(ZoneInfo("Europe/Berlin"))
    assert due > before
    assert (local.hour, local.minute, local.weekday() < 5) == (9, 30, True)
    assert cron["payload"]["config"]["configurable"] == {"model": "m", "cron_id": cron["cron_id"]}
    assert cron["payload"]["assistant_id"] == "steps"
    assert cron["payload"]["webhook"] == "https://1.1.1.1/hook"
    assert (await sdk.crons.search(metadata=tag)) == [cron]


@pytest.mark.requirement("crons.create_for_thread")
async def test_a_cron_of_a_thread_knows_it(sdk: LangGraphClient, tag: dict[str, str]) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    cron: Any = await sdk.crons.create_for_thread(
        thread,
        "steps",
        schedule=NEVER,
        metadata=tag,
        context={"model": "m"},
        timezone="America/New_York",
        multitask_strategy="reject",
        enabled=False,
    )
    assert (cron["thread_id"], cron["on_run_completed"]) == (thread, None)
    assert cron["enabled"] is False
    assert [row["cron_id"] for row in await sdk.crons.search(thread_id=thread)] == [cron["cron_id"]]
    await sdk.threads.delete(thread)
    assert await sdk.crons.search(metadata=tag) == []
    assert await sdk.crons.count(metadata=tag) == 0


@pytest.mark.requirement("crons.defaults")
def test_without_words_a_cron_is_enabled_in_utc_and_leaves_no_threads(http: httpx.Client) -> None:
    cron = new_cron(http)
    assert (cron["timezone"], cron["end_time"]) == (None, None)
    assert (cron["enabled"], cron["on_run_completed"]) == (True, "delete")
    assert shown(http, cron) == cron


@pytest.mark.requirement("system.nulls")
def test_nulls_of_a_cron_mean_nothing(http: httpx.Client) -> None:
    cron = new_cron(http, timezone=None, end_time=None, enabled=None, on_run_completed=None)
    assert (cron["enabled"], cron["on_run_completed"]) == (True, "delete")


@pytest.mark.requirement("crons.not_due")
def test_what_will_not_fire_has_no_next_date(http: httpx.Client) -> None:
    assert new_cron(http, end_time="2020-01-01T00:00:00Z")["next_run_date"] is None
    assert new_cron(http, enabled=False)["next_run_date"] is None


@pytest.mark.requirement("crons.refused")
@pytest.mark.parametrize(
    "schedule",
    [
        *("nope", "* * * *", "99 * * * *", ""),
        *(
            pytest.param(schedule, marks=pytest.mark.requirement("crons.refused_odd"))
            for schedule in ("* * * * * *", "0 0 31 2 *", "@daily")
        ),
    ],
)
async def test_a_bad_schedule_is_refused_with_advice(sdk: LangGraphClient, http: httpx.Client, schedule: str) -> None:
    with pytest.raises(UnprocessableEntityError, match=r"(?i)schedule"):
        await sdk.crons.create("steps", schedule=schedule)
    cron = new_cron(http)
    with pytest.raises(UnprocessableEntityError, match=r"(?i)schedule"):
        await sdk.crons.update(cron["cron_id"], schedule=schedule)
    assert shown(http, cron) == cron


@pytest.mark.requirement("crons.refused_run")
@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"timezone": "Mars/Olympus"}, 422),
        ({"assistant_id": UNKNOWN_ID}, 404),
        ({"schedule": None}, 422),
        ({"stream_mode": "nope"}, 422),
        pytest.param({"assistant_id": "nope"}, 422, marks=pytest.mark.requirement("crons.refused_early")),
        pytest.param({"command": {"resume": 1}}, 400, marks=pytest.mark.requirement("crons.refused_early")),
        pytest.param({"command": {"goto": 5}}, 422, marks=pytest.mark.requirement("crons.refused_early")),
        pytest.param(
            {"context": {"a": 1}, "config": {"configurable": {"b": 1}}},
            400,
            marks=pytest.mark.requirement("crons.refused_early"),
        ),
        pytest.param({"metadata": {"a": "\x00"}}, 422, marks=pytest.mark.requirement("crons.refused_early")),
        pytest.param(
            {"config": {"metadata": {"a": "\x00"}}}, 422, marks=pytest.mark.requirement("crons.refused_early")
        ),
    ],
)
def test_what_could_never_run_is_refused_when_the_cron_is_made(
    http: httpx.Client, wrong: dict[str, Any], status: int
) -> None:
    thread = new_thread(http)
    before = http.post("/runs/crons/count", json={}).json()
    for path in ("/runs/crons", f"/threads/{thread}/runs/crons"):
        refused(http.post(path, json={"assistant_id": "steps", "schedule": NEVER, **wrong}), status)
    assert http.post("/runs/crons/count", json={}).json() == before


@pytest.mark.requirement("crons.unknown")
def test_a_cron_of_an_unknown_thread_is_404(http: httpx.Client) -> None:
    body = {"assistant_id": "steps", "schedule": NEVER}
    assert refused(http.post(f"/threads/{UNKNOWN_ID}/runs/crons", json=body), 404).startswith("Thread with ID")
    refused(http.post("/threads/nonsense/runs/crons", json=body), 422)


# --- search, count, get ---


@pytest.mark.requirement("crons.search")
async def test_search_and_count_know_all_terms(sdk: LangGraphClient, tag: dict[str, str]) -> None:
    thread = (await sdk.threads.create())["thread_id"]
    one: Any = await sdk.crons.create("steps", schedule=NEVER, metadata={**tag, "n": {"a": 1}})
    two: Any = await sdk.crons.create_for_thread(thread, "echo", schedule=NEVER, metadata=tag, enabled=False)
    for terms, found in [
        ({}, {one["cron_id"], two["cron_id"]}),
        ({"assistant_id": two["assistant_id"]}, {two["cron_id"]}),
        ({"thread_id": thread}, {two["cron_id"]}),
        ({"enabled": True}, {one["cron_id"]}),
        ({"metadata": {"n": {"a": 1}}}, {one["cron_id"]}),
        ({"thread_id": UNKNOWN_ID}, set()),
    ]:
        asked: Any = {**terms, "metadata": {**tag, **terms.get("metadata", {})}}  # type: ignore[dict-item]
        assert {row["cron_id"] for row in await sdk.crons.search(**asked)} == found
        counted = {key: value for key, value in asked.items() if key != "enabled"}
        if "enabled" not in terms:
            assert await sdk.crons.count(**counted) == len(found)


@pytest.mark.requirement("crons.search_by_name")
async def test_crons_are_found_by_their_graphs_name(sdk: LangGraphClient, tag: dict[str, str]) -> None:
    cron: Any = await sdk.crons.create("steps", schedule=NEVER, metadata=tag)
    [found] = await sdk.crons.search(assistant_id="steps", metadata=tag)
    assert found["cron_id"] == cron["cron_id"]
    assert await sdk.crons.count(assistant_id="steps", metadata=tag) == 1


@pytest.mark.requirement("crons.paging")
def test_pages_sort_and_say_whether_more_exists(http: httpx.Client, tag: dict[str, str]) -> None:
    made = [new_cron(http, metadata=tag, schedule=f"{minute} 0 1 1 *")["cron_id"] for minute in (3, 1, 2)]
    body = {"metadata": tag, "limit": 2}
    first = http.post("/runs/crons/search", json=body)
    assert [row["cron_id"] for row in first.json()] == [made[2], made[1]]
    assert first.headers["x-pagination-next"] == "2"
    rest = http.post("/runs/crons/search", json={**body, "offset": 2})
    assert [row["cron_id"] for row in rest.json()] == [made[0]]
    assert "x-pagination-next" not in rest.headers
    by_date = http.post("/runs/crons/search", json={**body, "sort_by": "next_run_date", "sort_order": "asc"})
    assert [row["cron_id"] for row in by_date.json()] == [made[1], made[2]]
    for sort_by in ("cron_id", "assistant_id", "thread_id", "created_at", "updated_at", "end_time"):
        for order in ("asc", "desc"):
            rows = http.post("/runs/crons/search", json={"metadata": tag, "sort_by": sort_by, "sort_order": order})
            values = [row[sort_by] for row in rows.json()]
            assert len(values) == 3
            assert values == sorted(values, key=str, reverse=order == "desc")


@pytest.mark.requirement("crons.select")
async def test_select_shows_what_was_asked_for(sdk: LangGraphClient, tag: dict[str, str]) -> None:
    cron: Any = await sdk.crons.create("steps", schedule=NEVER, metadata=tag)
    assert await sdk.crons.search(metadata=tag, select=["cron_id", "next_run_date"]) == [
        {"cron_id": cron["cron_id"], "next_run_date": cron["next_run_date"]}
    ]


@pytest.mark.requirement("crons.select_now")
async def test_select_may_ask_for_the_servers_time(sdk: LangGraphClient, tag: dict[str, str]) -> None:
    await sdk.crons.create("steps", schedule=NEVER, metadata=tag)
    rows: Any = await sdk.crons.search(metadata=tag, select=["now"])
    assert abs(datetime.fromisoformat(rows[0]["now"]) - datetime.now(UTC)) < timedelta(seconds=30)


# --- update, delete ---


@pytest.mark.requirement("crons.patch")
async def test_an_update_changes_what_it_names(sdk: LangGraphClient, tag: dict[str, str]) -> None:
    cron: Any = await sdk.crons.create(
        "steps", schedule=NEVER, input={"count": 1}, metadata={**tag, "a": 1}, end_time=datetime(2100, 1, 1, tzinfo=UTC)
    )
    cron_id = cron["cron_id"]
    changed: Any = await sdk.crons.update(
        cron_id,
        schedule="0 12 * * *",
        timezone="Asia/Tokyo",
        input={"count": 2},
        metadata={"b": 2},
        config={"configurable": {"model": "m"}},
        webhook="https://1.1.1.1/other",
        interrupt_before="*",
        interrupt_after=["step"],
        on_run_completed="keep",
        stream_mode="updates",
        stream_subgraphs=True,
        stream_resumable=True,
        durability="sync",
    )
    assert set(changed) == KEYS
    assert (changed["schedule"], changed["timezone"]) == ("0 12 * * *", "Asia/Tokyo")
    assert changed["on_run_completed"] == "keep"
    assert changed["metadata"] == {**tag, "a": 1, "b": 2}
    assert changed["payload"]["input"] == {"count": 2}
    assert changed["payload"]["config"]["configurable"] == {"model": "m", "cron_id": cron_id}
    assert datetime.fromisoformat(changed["next_run_date"]).astimezone(UTC).hour == 3
    assert (changed["end_time"], changed["created_at"]) == (cron["end_time"], cron["created_at"])
    cleared: Any = await sdk.crons.update(cron_id, end_time=None)
    assert (cleared["end_time"], cleared["next_run_date"]) == (None, changed["next_run_date"])
    disabled: Any = await sdk.crons.update(cron_id, enabled=False)
    assert disabled["enabled"] is False
    enabled: Any = await sdk.crons.update(cron_id, enabled=True)
    assert enabled["next_run_date"] == changed["next_run_date"]
    context: Any = await sdk.crons.update(cron_id, config={}, context={"model": "x"})
    assert context["payload"]["context"] == {"model": "x"}
    await sdk.crons.delete(cron_id)
    with pytest.raises(NotFoundError):
        await sdk.crons.update(cron_id, enabled=True)
    with pytest.raises(NotFoundError):
        await sdk.crons.delete(cron_id)


@pytest.mark.requirement("crons.patch_empty")
def test_an_empty_update_is_refused(http: httpx.Client) -> None:
    cron = new_cron(http)
    path = f"/runs/crons/{cron['cron_id']}"
    assert refused(http.patch(path, json={}), 400) == "Request body cannot be empty"
    assert http.get(path).json() == cron


@pytest.mark.requirement("crons.patch_refused")
def test_an_update_that_could_never_run_is_refused(http: httpx.Client) -> None:
    cron = new_cron(http)
    path = f"/runs/crons/{cron['cron_id']}"
    refused(http.patch(path, json={"context": {"a": 1}, "config": {"configurable": {"b": 1}}}), 400)
    for wrong in ({"stream_mode": "nope"}, {"durability": "maybe"}, {"interrupt_before": 5}, {"webhook": "nope"}):
        refused(http.patch(path, json=wrong), 422)
    assert http.get(path).json() == cron


@pytest.mark.requirement("crons.patch")
def test_an_update_of_the_words_leaves_the_due_time(http: httpx.Client) -> None:
    cron = new_cron(http, schedule="*/30 * * * *")
    changed = http.patch(f"/runs/crons/{cron['cron_id']}", json={"input": {"count": 5}}).json()
    assert changed["next_run_date"] == cron["next_run_date"]
    assert changed["updated_at"] > cron["updated_at"]


@pytest.mark.requirement("crons.unknown")
def test_the_routes_of_crons_are_no_run_ids(http: httpx.Client) -> None:
    cron = new_cron(http)["cron_id"]
    assert http.get(f"/runs/crons/{cron}").json()["cron_id"] == cron
    assert http.delete(f"/runs/crons/{cron}").status_code == 204
    refused(http.get(f"/runs/crons/{cron}"), 404)
    assert refused(http.get("/runs/crons/nonsense"), 422) == "Invalid cron ID: must be a UUID"
    assert http.get("/info").json()["flags"]["crons"] is True


@pytest.mark.requirement("crons.sdk")
def test_the_synchronous_sdk_does_the_same(server: Server, tag: dict[str, str]) -> None:
    with get_sync_client(url=server.url) as client:
        cron: Any = client.crons.create("steps", schedule=NEVER, metadata=tag)
        assert client.crons.update(cron["cron_id"], enabled=False)["enabled"] is False
        assert client.crons.count(metadata=tag) == len(client.crons.search(metadata=tag)) == 1
        client.crons.delete(cron["cron_id"])
        assert client.crons.count(metadata=tag) == 0


# --- runs ---


@pytest.fixture(scope="module")
def ticking_url(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as url:
        yield url


@pytest.fixture(scope="module")
def ticking(ticking_url: str) -> Iterator[Server]:
    """A server in whose database due times can be moved."""
    with Server(database_url=ticking_url, config=PROJECT) as running:
        yield running


@pytest.fixture
def talk(ticking: Server) -> Iterator[httpx.Client]:
    with ticking.http(timeout=30) as client:
        yield client


@pytest.fixture
async def client(ticking: Server) -> AsyncIterator[LangGraphClient]:
    async with ticking.client() as client:
        yield client


def now_due(url: str, cron_id: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            "UPDATE holdfast.crons SET next_run_date = date_trunc('minute', now()) WHERE cron_id = %s", [cron_id]
        )


@pytest.mark.requirement("crons.fires")
def test_a_due_cron_runs_on_its_thread_and_says_who_it_is(talk: httpx.Client, ticking_url: str) -> None:
    thread = new_thread(talk)
    body = {"assistant_id": "steps", "schedule": NEVER, "input": {"count": 2}, "metadata": {"why": "daily"}}
    cron = talk.post(f"/threads/{thread}/runs/crons", json={**body, "context": {"a": 1}}).json()
    now_due(ticking_url, cron["cron_id"])
    [run] = until(lambda: talk.get(f"/threads/{thread}/runs").json(), "the cron has fired")
    assert join(talk, thread, run["run_id"]) == {"count": 2, "log": [0, 1]}
    assert (run["metadata"]["cron_id"], run["metadata"]["why"]) == (cron["cron_id"], "daily")
    assert run["kwargs"]["config"]["configurable"]["cron_id"] == cron["cron_id"]
    assert talk.get(f"/threads/{thread}/state").json()["metadata"]["cron_id"] == cron["cron_id"]
    after = talk.get(f"/runs/crons/{cron['cron_id']}").json()
    assert after["next_run_date"] == cron["next_run_date"]
    assert len(talk.get(f"/threads/{thread}/runs").json()) == 1


@pytest.mark.requirement("crons.on_run_completed")
@pytest.mark.parametrize(("on_run_completed", "left"), [("keep", 1), ("delete", 0)])
async def test_a_stateless_cron_keeps_or_deletes_its_threads(
    client: LangGraphClient, ticking_url: str, tag: dict[str, str], on_run_completed: Any, left: int
) -> None:
    cron: Any = await client.crons.create(
        "steps", schedule=NEVER, input={"count": 1}, metadata=tag, on_run_completed=on_run_completed
    )
    now_due(ticking_url, cron["cron_id"])

    def ended() -> Any:
        with psycopg.connect(ticking_url) as conn:
            query = "SELECT thread_id FROM holdfast.runs WHERE metadata ->> 'cron_id' = %s AND status = 'success'"
            return conn.execute(query, [cron["cron_id"]]).fetchall()

    assert len(until(ended, "the cron's run has ended")) == 1
    found = await client.threads.search(metadata=tag)
    assert len(found) == left
    assert [thread["values"] for thread in found] == [{"count": 1, "log": [0]}] * left


@pytest.mark.requirement("crons.last_error")
def test_a_cron_that_could_not_start_says_why(talk: httpx.Client, ticking_url: str) -> None:
    thread = new_thread(talk)
    run = start(talk, thread, "steps", **LONG)
    body = {"assistant_id": "steps", "schedule": NEVER, "multitask_strategy": "reject"}
    cron = talk.post(f"/threads/{thread}/runs/crons", json=body).json()
    now_due(ticking_url, cron["cron_id"])
    path = f"/runs/crons/{cron['cron_id']}"
    after = until(lambda: (found := talk.get(path).json()).get("last_error") and found, "the refusal is recorded")
    assert after["last_error"]["error"] == "Conflict"
    assert after["next_run_date"] == cron["next_run_date"]
    assert [row["run_id"] for row in talk.get(f"/threads/{thread}/runs").json()] == [run]
    talk.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": 1})
    now_due(ticking_url, cron["cron_id"])
    until(lambda: "last_error" not in talk.get(path).json(), "the next due time has started a run")
    assert get_thread(talk, thread)["metadata"]["graph_id"] == "steps"


@pytest.mark.requirement("crons.killed")
def test_a_server_that_is_killed_while_it_starts_a_run_neither_loses_nor_doubles_it(cluster: Cluster) -> None:
    with cluster.database() as url, Server(database_url=url, config=PROJECT) as server:
        with server.http(timeout=30) as http:
            thread = new_thread(http)
            body = {"assistant_id": "steps", "schedule": NEVER, "input": {"count": 1}}
            cron = http.post(f"/threads/{thread}/runs/crons", json=body).json()
        with psycopg.connect(url) as lock, psycopg.connect(url, autocommit=True) as conn:
            # The due time is taken, the run cannot be written yet: exactly there the process dies.
            lock.execute("LOCK TABLE holdfast.runs IN SHARE MODE")
            now_due(url, cron["cron_id"])
            blocked = "SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO%'"
            until(lambda: conn.execute(blocked).fetchall(), "the server waits in the middle of the admission")
            server.kill()
        server.start()
        with server.http(timeout=30) as http:
            runs = until(lambda: http.get(f"/threads/{thread}/runs").json(), "the cron has fired")
            assert join(http, thread, runs[0]["run_id"])["log"] == [0]
            assert shown(http, cron)["next_run_date"] == cron["next_run_date"]
            assert len(http.get(f"/threads/{thread}/runs").json()) == 1
