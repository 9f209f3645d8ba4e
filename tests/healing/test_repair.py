"""`POST /threads/{thread_id}/repair`, `holdfast doctor`, and what housekeeping mends by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import httpx
import psycopg
import pytest

from tests.healing.conftest import STRICT
from tests.healing.test_dangling import cancelled_in_a_tool, human, repairs, state
from tests.healing.test_unreadable import damage
from tests.support.server import ROOT, Server
from tests.support.talk import UNKNOWN_ID, get_thread, new_thread, refused, start, until, wait


def sql(url: str, statement: str, *params: Any) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(statement, params)  # type: ignore[arg-type]


def busy_without_runs(http: httpx.Client, url: str) -> str:
    thread = new_thread(http)
    wait(http, thread, "added", input=human("ask"))
    sql(url, "UPDATE holdfast.threads SET status = 'busy' WHERE thread_id = %s", thread)
    return thread


def held_answers(http: httpx.Client, url: str) -> str:
    thread = new_thread(http)
    wait(http, thread, "added", input=human("ask"))
    sql(
        url,
        "INSERT INTO holdfast.answers (thread_id, interrupt_id, run_id, checkpoint_id)"
        " SELECT t.thread_id, asked ->> 'id', r.run_id, t.checkpoint_id"
        " FROM holdfast.threads t JOIN holdfast.runs r USING (thread_id), jsonb_each(t.interrupts) AS task,"
        " jsonb_array_elements(task.value) AS asked WHERE t.thread_id = %s",
        thread,
    )
    refused(http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "added", "command": {"resume": "y"}}), 409)
    return thread


def untold_ends(http: httpx.Client, url: str) -> str:
    thread = new_thread(http)
    wait(http, thread, "added", input=human("ask"))
    sql(
        url,
        "UPDATE holdfast.threads t SET ended_runs = (SELECT array_agg(run_id) FROM holdfast.runs r"
        " WHERE r.thread_id = t.thread_id) WHERE thread_id = %s",
        thread,
    )
    return thread


STUCK = {made.__name__: made for made in (busy_without_runs, held_answers, untold_ends)}


def repair(http: httpx.Client, thread: str, **body: Any) -> dict[str, Any]:
    answer = http.post(f"/threads/{thread}/repair", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.requirement("healing.repair")
@pytest.mark.parametrize("kind", STUCK)
def test_rows_that_do_not_agree_are_mended_once(http: httpx.Client, strict_url: str, kind: str) -> None:
    thread = STUCK[kind](http, strict_url)
    looked = repair(http, thread, dry_run=True)
    assert ([found["kind"] for found in looked["findings"]], looked["repaired"]) == ([kind], [])
    mended = repair(http, thread)
    assert (mended["thread_id"], mended["findings"], mended["repaired"]) == (thread, looked["findings"], [kind])
    assert get_thread(http, thread)["status"] == "interrupted"
    again = repair(http, thread)
    assert (again["findings"], again["repaired"]) == ([], [])
    assert wait(http, thread, "added", command={"resume": "yes"})["messages"][2]["content"] == "yes"


def test_a_run_on_a_resting_thread_makes_it_busy_again(http: httpx.Client, strict_url: str, thread: str) -> None:
    run = start(http, thread, "added", input=human("hello"), after_seconds=600)
    sql(strict_url, "UPDATE holdfast.threads SET status = 'idle' WHERE thread_id = %s", thread)
    assert repair(http, thread)["repaired"] == ["resting_with_runs"]
    assert get_thread(http, thread)["status"] == "busy"
    refused(http.post(f"/threads/{thread}/repair", json={}), 409)
    http.post(f"/threads/{thread}/runs/{run}/cancel")


@pytest.mark.parametrize("graph", ["added", "delta"])
def test_a_repair_answers_tool_calls_and_brings_the_thread_to_rest(http: httpx.Client, thread: str, graph: str) -> None:
    cancelled_in_a_tool(http, thread, graph)
    assert repair(http, thread, dry_run=True)["repaired"] == repairs(http, thread) == []
    assert repair(http, thread)["repaired"] == ["dangling_tool_calls"]
    assert get_thread(http, thread)["status"] == "idle"
    assert state(http, thread)["values"] == get_thread(http, thread)["values"]
    assert len(repairs(http, thread)) == 1
    assert repair(http, thread)["findings"] == []
    assert wait(http, thread, graph, input=human("hello"))["messages"][-1]["content"] == "hath"


def test_a_question_that_waits_is_nothing_to_repair(http: httpx.Client, thread: str) -> None:
    wait(http, thread, "added", input=human("ask"))
    assert repair(http, thread)["findings"] == []
    assert get_thread(http, thread)["status"] == "interrupted"


def test_refusals(http: httpx.Client, thread: str) -> None:
    refused(http.post(f"/threads/{UNKNOWN_ID}/repair", json={}), 404)
    refused(http.post("/threads/x/repair", json={}), 422)
    refused(http.post(f"/threads/{thread}/repair", json={"dry_run": "perhaps"}), 422)
    assert repair(http, thread, dry_run=None)["dry_run"] is False
    run = start(http, thread, "added", input=human("one"))
    refused(http.post(f"/threads/{thread}/repair", json={}), 409)
    http.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": "true"})


def doctor(url: str, *options: str) -> tuple[int, str]:
    """Exit status and output."""
    ended = subprocess.run(
        [sys.executable, "-m", "holdfast", "doctor", "--config", str(STRICT), "--database-url", url, *options],
        env={**os.environ, "PYTHONPATH": str(ROOT / "server")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return ended.returncode, ended.stdout


def test_the_doctor_counts_what_it_cannot_mend(database_url: str) -> None:
    with Server(database_url=database_url, config=STRICT) as server, server.http(timeout=30) as http:
        thread = new_thread(http)
        wait(http, thread, "added", input=human("hello"))
        assert doctor(database_url)[0] == 0
        stuck = busy_without_runs(http, database_url)
        damage(database_url, thread, "cut off")
        status, told = doctor(database_url)
        assert status == 2, told
        assert f"WRONG thread {stuck}: the thread is busy" in told
        assert f"WRONG thread {thread}: checkpoint" in told
        assert doctor(database_url, "--threads", "0")[0] == 1
        status, told = doctor(database_url, "--fix", "--all")
        assert (status, get_thread(http, stuck)["status"]) == (1, "interrupted"), told
        assert get_thread(http, thread)["status"] == "error"


def test_housekeeping_mends_at_the_start(database_url: str) -> None:
    with Server(database_url=database_url, config=STRICT) as server, server.http(timeout=30) as http:
        threads = [made(http, database_url) for made in STUCK.values()]
        server.stop()
        server.start()
        for thread in threads:
            until(lambda found=thread: get_thread(http, found)["status"] == "interrupted", "the thread rests")
        until(lambda: server.log.count("mended on 1 threads") == len(STUCK), "all of it is mended")
        assert wait(http, threads[1], "added", command={"resume": "yes"})["messages"][2]["content"] == "yes"
