"""`holdfast prune`, as an operator calls it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import httpx
import psycopg
import pytest

from holdfast.errors import SettingsError
from holdfast.retention import age
from tests.conftest import PROJECT
from tests.support.server import ROOT, Server
from tests.support.talk import new_thread, wait

SECONDS = 60.0


def prune(database_url: str, *words: str) -> tuple[int, str]:
    """Exit status, and the last line."""
    ended = subprocess.run(
        [sys.executable, "-m", "holdfast", "prune", "--config", str(PROJECT), "--database-url", database_url, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT / "server")},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return ended.returncode, (ended.stdout or ended.stderr).strip().splitlines()[-1]


def threads(http: httpx.Client) -> set[str]:
    return {row["thread_id"] for row in http.post("/threads/search", json={"limit": 100}).json()}


def test_an_operator_prunes_what_nobody_uses_after_a_look_at_what_it_would_be(database_url: str) -> None:
    with Server(database_url=database_url, config=PROJECT) as server, server.http(timeout=30) as http:
        old, asking, fresh = new_thread(http), new_thread(http), new_thread(http)
        wait(http, old, "steps", input={"log": ["x" * 3000], "count": 3})
        wait(http, asking, "approve", input={"log": []})
        with psycopg.connect(database_url, autocommit=True) as conn:
            aged = "UPDATE holdfast.threads SET updated_at = updated_at - interval '2 days' WHERE thread_id = ANY(%s)"
            conn.execute(aged, [[old, asking]])
        status, said = prune(database_url, "--older-than", "1d", "--dry-run")
        assert status == 0
        found = re.fullmatch(r"would prune 1 threads and free about (\d+) bytes", said)
        assert found is not None, said
        assert int(found[1]) > 3000
        assert threads(http) == {old, asking, fresh}
        assert prune(database_url, "--older-than", "1d", "--strategy", "keep_latest") == (0, "pruned 1 threads")
        assert len(http.get(f"/threads/{old}/history?limit=100").json()) == 1
        assert prune(database_url, "--older-than", "1d") == (0, "pruned 1 threads")
        assert threads(http) == {asking, fresh}
        assert prune(database_url, "--older-than", "1d", "--include-interrupted") == (0, "pruned 1 threads")
        assert threads(http) == {fresh}
        assert prune(database_url, "--older-than", "1d") == (0, "pruned 0 threads")


def test_without_an_age_those_go_whose_own_time_is_up_each_in_its_way(database_url: str) -> None:
    with Server(database_url=database_url, config=PROJECT) as server, server.http(timeout=30) as http:
        whole = new_thread(http, ttl={"ttl": 60, "strategy": "delete"})
        history = new_thread(http, ttl={"ttl": 60, "strategy": "keep_latest"})
        new_thread(http, ttl={"ttl": 600, "strategy": "delete"})
        for thread in (whole, history):
            wait(http, thread, "steps", input={"log": [], "count": 3})
        with psycopg.connect(database_url, autocommit=True) as conn:
            conn.execute("UPDATE holdfast.threads SET updated_at = updated_at - interval '2 hours'")
        assert prune(database_url, "--dry-run")[1].startswith("would prune 2 threads")
        assert prune(database_url) == (0, "pruned 2 threads")
        assert http.get(f"/threads/{whole}").status_code == 404
        assert len(http.get(f"/threads/{history}/history?limit=100").json()) == 1


@pytest.mark.parametrize("text", ["", "soon", "5", "d", "-1d", "1.5d", "1y", "1d\n", "99999999d"])
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--older-than"):
        age(text)


def test_ages_are_minutes_hours_days_or_weeks() -> None:
    assert [age(text) for text in ("90m", "12h", "30d", "8w")] == [5400, 43_200, 2_592_000, 4_838_400]


def test_an_age_that_is_none_is_one_line_and_not_a_traceback(database_url: str) -> None:
    status, said = prune(database_url, "--older-than", "soon")
    assert status == 1
    assert said.startswith("holdfast: --older-than")
