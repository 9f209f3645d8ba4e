"""The goals of this directory with few rounds; `make durability` plays them with many.

Here nothing is judged by the clock: whatever is called too late or too slow may be so on a busy machine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.durability import answers, blocking, conversations, idle_streams, leaving, poison, posts, storm, takeover
from tests.durability.goals import Trial
from tests.durability.states import R14
from tests.durability.tally import Tally
from tests.durability.walk import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import start

LEASE_SECONDS = 2.0
KILLED_TWICE = 4
"""A seed whose first round kills both runs."""


def mistakes(tally: Tally) -> list[str]:
    return [failure for failure in tally.failures if " too late" not in failure and " too slow" not in failure]


@pytest.fixture(scope="module")
def site(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[takeover.Site]:
    with takeover.site(tmp_path_factory.mktemp("takeover"), cluster, LEASE_SECONDS) as site:
        yield site


@pytest.fixture
def tally() -> Iterator[Tally]:
    """Whatever is counted here has to be without a mistake in the end."""
    tally = Tally("proof")
    yield tally
    assert not mistakes(tally)


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(1, random.Random(KILLED_TWICE), tmp_path)


def test_a_killed_server_loses_nothing_and_repeats_nothing(trial: Trial) -> None:
    assert not mistakes(conversations.play(trial))


def test_workers_that_are_killed_over_and_over_lose_nothing(tmp_path: Path, database_url: str) -> None:
    tally = storm.played(Trial(6, random.Random(7), tmp_path), database_url)
    assert not [failure for failure in mistakes(tally) if "more than 2 %" not in failure]
    assert tally.counted("kills") == 6
    assert tally.counted("runs acknowledged") >= 15


def test_posts_at_once_are_served_once_each_in_order(trial: Trial, database_url: str) -> None:
    tally = posts.played(trial, database_url)
    assert not mistakes(tally)
    assert tally.counted("posts acknowledged") == posts.THREADS * posts.POSTS


@pytest.mark.parametrize("how", ["_exit", "sys.exit"])
def test_a_poisonous_run_is_given_up_and_hurts_its_neighbours_twice_at_most(
    trial: Trial, database_url: str, how: str
) -> None:
    tally = poison.played(trial, database_url, (how,), budget=3)
    assert not mistakes(tally)
    assert tally.counted("crashes") == (1 if how == poison.NO_CRASH else 3)


def test_a_frozen_worker_that_wakes_up_late_writes_nothing(site: takeover.Site, tally: Tally) -> None:
    takeover.frozen(site, tally, 1)


def test_a_worker_whose_event_loop_is_blocked_keeps_its_run(site: takeover.Site, tally: Tally) -> None:
    blocking.blocked(site, tally, 3 * LEASE_SECONDS)


def test_a_worker_that_leaves_hands_its_run_over_between_two_steps(site: takeover.Site, tally: Tally) -> None:
    leaving.handed_over(site, tally, 1)


def test_the_run_of_a_killed_worker_goes_on_with_the_other_one(site: takeover.Site, tally: Tally) -> None:
    takeover.killed(site, tally, 2)


def test_ctrl_c_on_the_only_server_leaves_the_run_in_the_queue(cluster: Cluster, trial: Trial, tally: Tally) -> None:
    leaving.left_alone(tally, trial, cluster)


def test_random_states_come_back_exactly_or_are_refused(tmp_path: Path) -> None:
    assert not R14.play(Trial(40, random.Random(7), tmp_path)).failures


def test_streams_that_wait_hear_what_happens_beside_clients_that_behave_badly(
    cluster: Cluster, tmp_path: Path, tally: Tally
) -> None:
    with idle_streams.site(Trial(1, random.Random(7), tmp_path), cluster) as place:
        idle_streams.waited(place, tally, 60, measured=False)
    assert tally.counted("streams") == 60


def test_no_answer_is_applied_to_another_question(database_url: str, tmp_path: Path) -> None:
    assert not answers.played(Trial(24, random.Random(7), tmp_path), database_url).failures


def test_a_run_whose_worker_is_gone_without_a_trace_is_adopted(site: takeover.Site) -> None:
    thread = site.client.thread()
    walk = {"input": {"count": 1, "pause": 0.0, "done": []}, "after_seconds": 3600}
    run = start(site.client.http, thread, "walk", **walk)
    _orphaned(site, run)
    effects = str(site.effects.path)
    with Server(config=PROJECT, database_url=site.database_url, part="worker", EFFECT_LOG=effects):
        assert site.client.settled(thread, 10.0)
    assert site.client.run_status(thread, run) == "success"


def test_a_fork_whose_worker_died_before_anything_was_saved_begins_where_it_was_to(site: takeover.Site) -> None:
    walk = site.walk(count=2, pause=0.0)
    assert site.client.settled(walk.thread)
    first, second = site.client.thread_row(walk.thread)["values"]["done"]
    history = site.client.http.get(f"/threads/{walk.thread}/history", params={"limit": 10}).raise_for_status().json()
    (fork,) = [state["checkpoint_id"] for state in history if state["values"].get("done") == [first]]
    further = {"input": {"count": 3, "pause": 0.0, "done": []}, "checkpoint_id": fork, "after_seconds": 3600}
    _orphaned(site, start(site.client.http, walk.thread, "walk", **further))
    effects = str(site.effects.path)
    with Server(config=PROJECT, database_url=site.database_url, part="worker", EFFECT_LOG=effects):
        assert site.client.settled(walk.thread, 10.0)
    done = site.client.thread_row(walk.thread)["values"]["done"]
    assert done[0] == first
    assert len(done) == 3
    assert second not in done


def _orphaned(site: takeover.Site, run: str) -> None:
    """Let a run be due and claimed by a worker that is gone."""
    with psycopg.connect(site.database_url) as conn:
        conn.execute(
            "UPDATE holdfast.runs SET status = 'running', worker_id = gen_random_uuid(), attempt = 1,"
            " fencing_token = nextval('holdfast.fencing_token'), available_at = now() WHERE run_id = %s",
            [run],
        )
