"""Joining after the events have expired: the stream still says how the run ended, and ends."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import psycopg
import pytest

from holdfast.db.sql import statements
from tests.conftest import PROJECT
from tests.support.follow import following
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import LONG, Event, new_thread, parse, until

HOUR = 3600.0


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as url:
        yield url


@pytest.fixture(scope="module")
def http(database: str) -> Iterator[httpx.Client]:
    with Server(database_url=database, config=PROJECT) as server, server.http(timeout=30) as client:
        yield client


def expire(database: str) -> int:
    """What housekeeping does two hours later."""
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("UPDATE holdfast.event_blocks SET created_at = created_at - interval '2 hours'")
        return conn.execute(statements("events")["expire"], {"ttl": HOUR, "batch": 10_000}).rowcount


def ended(http: httpx.Client, thread_id: str, graph: str) -> tuple[str, list[Event]]:
    """A run that was streamed to its end: its path, and what it said."""
    body = {"assistant_id": graph, "input": {"log": []}, "stream_resumable": True}
    with http.stream("POST", f"/threads/{thread_id}/runs/stream", json=body) as answer:
        said = parse(answer.read())
    return answer.headers["content-location"], said


def joined(http: httpx.Client, path: str, after: str | None) -> list[Event]:
    headers = {} if after is None else {"last-event-id": after}
    answer = http.get(f"{path}/stream", headers=headers)
    assert answer.status_code == 200
    return parse(answer.content)


@pytest.mark.requirement("streams.expired")
@pytest.mark.parametrize("place", ["-1", "the middle", "the end", "beyond"])
def test_a_join_says_that_the_run_is_done(http: httpx.Client, database: str, place: str) -> None:
    path, said = ended(http, new_thread(http), "steps")
    ids = [event.id or "" for event in said]
    after = {"-1": "-1", "the middle": ids[1], "the end": ids[-1], "beyond": "1-999999"}[place]
    assert expire(database)
    [event] = joined(http, path, after)
    assert (event.name, event.data) == ("metadata", {"status": "run_done", "run_id": path.rsplit("/", 1)[1]})
    assert http.get(path).json()["status"] == "success"
    assert joined(http, path, None) == []


@pytest.mark.requirement("streams.expired_error")
def test_a_join_of_a_failed_run_says_why(http: httpx.Client, database: str) -> None:
    path, said = ended(http, new_thread(http), "failing")
    assert said[-1].name == "error"
    assert expire(database)
    [event] = joined(http, path, "-1")
    assert (event.name, event.data) == ("error", said[-1].data)


@pytest.mark.requirement("streams.expired_result")
def test_join_and_wait_answer_the_result_from_the_thread(http: httpx.Client, database: str) -> None:
    path, said = ended(http, new_thread(http), "steps")
    assert expire(database)
    assert http.get(f"{path}/join").json() == said[-1].data


@pytest.mark.requirement("streams.resume")
def test_what_is_still_there_is_replayed_as_before(http: httpx.Client, database: str) -> None:
    path, said = ended(http, new_thread(http), "steps")
    assert [event.raw for event in joined(http, path, "-1")] == [event.raw for event in said]
    assert joined(http, path, said[-1].id) == []


@pytest.mark.requirement("streams.expired")
def test_a_run_that_was_cancelled_before_it_ran_has_nothing_to_say(http: httpx.Client) -> None:
    thread_id = new_thread(http)
    run = http.post(f"/threads/{thread_id}/runs", json={"assistant_id": "steps", "after_seconds": 600}).json()
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    assert http.post(f"{path}/cancel?wait=1").status_code in (200, 202, 204)
    assert joined(http, path, "-1") == []


@pytest.mark.requirement("streams.expired_running")
def test_the_events_of_a_run_that_still_runs_stay(http: httpx.Client, database: str) -> None:
    thread_id = new_thread(http)
    body = {"assistant_id": "steps", "stream_resumable": True, **LONG}
    run = http.post(f"/threads/{thread_id}/runs", json=body).json()
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    with psycopg.connect(database, autocommit=True) as conn:
        count = "SELECT count(*) FROM holdfast.event_blocks WHERE run_id = %s"
        until(lambda: conn.execute(count, [run["run_id"]]).fetchone()[0] > 2, "it has said something")  # type: ignore[index]
    expire(database)
    with http.stream("GET", f"{path}/stream", headers={"last-event-id": "-1"}) as answer:
        first = next(answer.iter_bytes())
    assert first.startswith(b"event: metadata\r\n")
    http.post(f"{path}/cancel?wait=1")


@pytest.mark.requirement("streams.thread_expired")
@pytest.mark.parametrize("place", ["-", "the start"])
def test_a_thread_stream_says_which_run_ended_last_and_goes_on(http: httpx.Client, database: str, place: str) -> None:
    thread_id = new_thread(http)
    ended(http, thread_id, "steps")
    path, said = ended(http, thread_id, "steps")
    assert expire(database)
    log = f"/threads/{thread_id}/stream"
    with following(str(http.base_url).rstrip("/"), log, place if place == "-" else said[0].id) as follower:
        follower.until(lambda one: len(one.events) == 1, "the last end")
        [done] = follower.events
        assert (done.name, done.data) == ("metadata", {"status": "run_done", "run_id": path.rsplit("/", 1)[1]})
        _, news = ended(http, thread_id, "steps")
        follower.until(lambda one: len(one.events) == len(news) + 2, "the next run")
    assert [event.raw for event in follower.events[1:-1]] == [event.raw for event in news]
    assert int(str(news[0].id).split("-")[1]) > int(str(done.id).split("-")[1])
