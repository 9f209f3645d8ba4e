"""Sentry hears of what failed, with ids and without secrets, and of nothing else."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.conftest import PROJECT
from tests.support.receiver import Receiver
from tests.support.server import Server, free_port, refusal_to_start
from tests.support.talk import new_thread, start, until, wait

SECRET = "the-secret-of-this-test"


@contextmanager
def reporting(database_url: str, dsn: str) -> Iterator[tuple[Server, httpx.Client]]:
    with (
        Server(config=PROJECT, database_url=database_url, SENTRY_DSN=dsn, SOME_API_KEY=SECRET) as server,
        server.http(timeout=30) as http,
    ):
        yield server, http


def events(sentry: Receiver) -> list[dict[str, Any]]:
    """The events in the envelopes that came: a header, then pairs of an item's header and the item."""
    found = []
    for call in sentry.calls:
        packed = call.headers.get("content-encoding") == "gzip"
        _, *items = (gzip.decompress(call.body) if packed else call.body).splitlines()
        found += [json.loads(item) for kind, item in zip(items[::2], items[1::2], strict=True) if b'"event"' in kind]
    return found


def test_O5_a_run_that_fails_is_told_with_its_ids(database_url: str) -> None:
    with Receiver() as sentry, reporting(database_url, f"http://public@127.0.0.1:{sentry.port}/1") as (_, http):
        thread = new_thread(http)
        run = start(http, thread, "failing", input={"log": [f"with {SECRET}"]})
        [event] = until(lambda: events(sentry), "the failure arrives")
        assert event["tags"]["run_id"] == run
        assert event["tags"]["thread_id"] == thread
        assert event["tags"]["graph_id"] == "failing"
        assert event["exception"]["values"][-1]["type"] in ("ValueError", "RuntimeError")
        assert SECRET not in json.dumps(event)


def test_O5_questions_and_clients_mistakes_are_no_errors(database_url: str) -> None:
    with Receiver() as sentry, reporting(database_url, f"http://public@127.0.0.1:{sentry.port}/1") as (server, http):
        wait(http, new_thread(http), "approve", input={"log": []})
        assert http.post("/threads", json={"metadata": "none"}).status_code == 422
        assert http.get(f"/threads/{new_thread(http)}/runs/1").status_code in (404, 422)
        cancelled = new_thread(http)
        run = start(http, cancelled, "steps", input={"log": [], "count": 1, "pause": 60})
        http.post(f"/threads/{cancelled}/runs/{run}/cancel", params={"wait": "true"}).raise_for_status()
        assert server.stop() == 0
        assert events(sentry) == []


def test_O5_a_sentry_that_is_not_there_costs_nothing_but_events(database_url: str) -> None:
    with reporting(database_url, f"http://public@127.0.0.1:{free_port()}/1") as (server, http):
        for _ in range(3):
            wait(http, new_thread(http), "failing", input={"log": []})
        assert len(wait(http, new_thread(http), "steps", input={"log": [], "count": 1})["log"]) == 1
        assert server.stop() == 0


@pytest.mark.parametrize("dsn", ["not a dsn", "https://only.a.host"])
def test_O5_what_is_no_dsn_ends_the_start_without_being_quoted(dsn: str, database_url: str) -> None:
    said = refusal_to_start(PROJECT, database_url, SENTRY_DSN=dsn)
    assert said == "holdfast: SENTRY_DSN is no DSN of Sentry"
