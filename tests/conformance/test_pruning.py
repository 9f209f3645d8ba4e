"""Pruning with care: what it would do, whom it spares, and who is told."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.follow import following
from tests.support.server import Server
from tests.support.talk import UNKNOWN_ID, new_thread, wait


def prune(http: httpx.Client, *threads: str, **terms: Any) -> Any:
    answer = http.post("/threads/prune", json={"thread_ids": threads, **terms})
    assert answer.status_code == 200
    return answer.json()


def history(http: httpx.Client, thread: str) -> Any:
    return http.get(f"/threads/{thread}/history?limit=100").json()


@pytest.mark.requirement("threads.prune_dry_run")
@pytest.mark.parametrize("strategy", ["delete", "keep_latest"])
def test_a_dry_run_says_what_would_go_and_changes_nothing(http: httpx.Client, strategy: str) -> None:
    thread, empty = new_thread(http), new_thread(http)
    wait(http, thread, "steps", input={"log": ["x" * 5000], "count": 5})
    before = history(http, thread)
    said = prune(http, thread, thread, empty, UNKNOWN_ID, strategy=strategy, dry_run=True)
    assert said["pruned_count"] == 2
    assert said["bytes"] > 5000
    assert history(http, thread) == before
    assert prune(http, thread, empty, strategy=strategy) == {"pruned_count": 2}
    left = prune(http, thread, empty, strategy=strategy, dry_run=True)
    assert left == {"pruned_count": 2 if strategy == "keep_latest" else 0, "bytes": 0}


@pytest.mark.requirement("threads.prune_dry_run")
def test_a_dry_run_of_the_whole_is_more_than_one_of_the_history(http: httpx.Client) -> None:
    thread = new_thread(http)
    wait(http, thread, "steps", input={"log": ["x" * 5000], "count": 5})
    whole = prune(http, thread, dry_run=True)["bytes"]
    past = prune(http, thread, strategy="keep_latest", dry_run=True)["bytes"]
    assert 0 < past < whole


@pytest.mark.requirement("threads.prune_interrupted")
@pytest.mark.parametrize("strategy", ["delete", "keep_latest"])
@pytest.mark.parametrize("dry_run", [True, False])
def test_threads_that_wait_for_somebody_can_be_spared(http: httpx.Client, strategy: str, dry_run: bool) -> None:
    asking = new_thread(http)
    wait(http, asking, "approve", input={"log": ["go"]})
    before = history(http, asking)
    said = prune(http, asking, strategy=strategy, include_interrupted=False, dry_run=dry_run)
    assert said["pruned_count"] == 0
    assert history(http, asking) == before
    assert wait(http, asking, "approve", command={"resume": "yes"})["log"] == ["go", "yes", "done"]


@pytest.mark.requirement("threads.prune_interrupted")
def test_who_names_a_thread_means_it_and_its_question_outlives_its_history(http: httpx.Client) -> None:
    kept, deleted = new_thread(http), new_thread(http)
    for thread in (kept, deleted):
        wait(http, thread, "steps", input={"log": ["past"], "count": 2})
        wait(http, thread, "approve", input={"log": ["go"]})
    assert prune(http, kept, strategy="keep_latest") == {"pruned_count": 1}
    assert len(history(http, kept)) == 1
    assert wait(http, kept, "approve", command={"resume": "yes"})["log"][-2:] == ["yes", "done"]
    assert prune(http, deleted) == {"pruned_count": 1}
    assert http.get(f"/threads/{deleted}").status_code == 404


@pytest.mark.requirement("threads.prune_told")
def test_the_followers_of_a_pruned_thread_are_told_at_once(server: Server, http: httpx.Client) -> None:
    thread = new_thread(http)
    wait(http, thread, "steps", input={"log": [], "count": 1})
    with following(server.url, f"/threads/{thread}/stream", "-") as follower:
        follower.until(lambda one: one.events, "the past")
        assert prune(http, thread) == {"pruned_count": 1}
        follower.until(lambda one: one.ended, "the stream has ended")
