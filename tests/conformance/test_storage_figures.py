"""What threads take up, as `GET /metrics` shows it."""

from __future__ import annotations

import psycopg
import pytest

from tests.conftest import PROJECT
from tests.support.server import Server
from tests.support.talk import new_thread, until, wait


@pytest.mark.requirement("system.storage")
def test_the_bytes_of_threads_are_measured_in_the_background(database_url: str) -> None:
    with Server(database_url=database_url, config=PROJECT) as server, server.http(timeout=30) as http:
        empty = until(lambda: http.get("/metrics?format=json").json()["storage"], "the first round")
        assert (empty["threads"], empty["bytes"], empty["largest_bytes"]) == (0, 0, [])
        small, large = new_thread(http), new_thread(http)
        wait(http, small, "steps", input={"log": [], "count": 1})
        wait(http, large, "steps", input={"log": [f"{n}" * 500 for n in range(100)], "count": 5})
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("UPDATE holdfast.storage_report SET measured_at = measured_at - interval '1 hour'")
    with Server(database_url=database_url, config=PROJECT) as server, server.http(timeout=30) as http:
        until(lambda: http.get("/metrics?format=json").json()["storage"]["threads"] == 2, "the next round")
        storage = http.get("/metrics?format=json").json()["storage"]
        text = http.get("/metrics").text
        assert large not in text
    assert storage["bytes"] == sum(storage["largest_bytes"])
    assert storage["largest_bytes"][0] > storage["largest_bytes"][1] > 0
    counts = list(storage["threads_up_to_bytes"].values())
    assert counts == sorted(counts)
    assert counts[-1] == 2
    assert f'holdfast_thread_bytes_bucket{{le="+Inf"}} {float(2)}' in text
    assert f'holdfast_largest_thread_bytes{{place="1"}} {float(storage["largest_bytes"][0])}' in text
