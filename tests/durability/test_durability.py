"""The proofs of this directory with few rounds; each is also a program that does many (`make durability`)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.durability import answers, drain, kill_rounds, takeover
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


@pytest.fixture(scope="module")
def site(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[takeover.Site]:
    with takeover.site(tmp_path_factory.mktemp("takeover"), cluster, LEASE_SECONDS) as site:
        yield site


@pytest.fixture
def tally() -> Iterator[Tally]:
    """Whatever is counted here has to be without a fault in the end."""
    tally = Tally("proof")
    yield tally
    assert not tally.failures


def test_a_killed_server_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    assert not kill_rounds.run_rounds(1, random.Random(KILLED_TWICE), tmp_path).failures


def test_a_frozen_worker_that_wakes_up_late_writes_nothing(site: takeover.Site, tally: Tally) -> None:
    takeover.frozen(site, tally, 1)


def test_a_worker_whose_event_loop_is_blocked_keeps_its_run(site: takeover.Site, tally: Tally) -> None:
    takeover.blocking(site, tally, 1)


def test_a_worker_that_leaves_hands_its_run_over_between_two_steps(site: takeover.Site, tally: Tally) -> None:
    takeover.leaving(site, tally, 1)


def test_the_run_of_a_killed_worker_goes_on_within_two_seconds(site: takeover.Site, tally: Tally) -> None:
    takeover.killed(site, tally, 2)


def test_ctrl_c_on_the_only_server_leaves_the_run_in_the_queue(cluster: Cluster, tmp_path: Path) -> None:
    assert not drain.run_rounds(1, 0, tmp_path, cluster).failures


def test_random_states_come_back_exactly_or_are_refused(tmp_path: Path) -> None:
    assert not R14.play(Trial(40, random.Random(7), tmp_path)).failures


def test_no_answer_is_applied_to_another_question(database_url: str, tmp_path: Path) -> None:
    assert not answers.interleavings(database_url, Trial(24, random.Random(7), tmp_path)).failures


def test_a_run_whose_worker_is_gone_without_a_trace_is_adopted(site: takeover.Site) -> None:
    thread = site.client.thread()
    walk = {"input": {"count": 1, "pause": 0.0, "done": []}, "after_seconds": 3600}
    run = start(site.client.http, thread, "walk", **walk)
    with psycopg.connect(site.database_url) as conn:
        conn.execute(
            "UPDATE holdfast.runs SET status = 'running', worker_id = gen_random_uuid(), attempt = 1,"
            " fencing_token = nextval('holdfast.fencing_token'), available_at = now() WHERE run_id = %s",
            [run],
        )
    effects = str(site.effects.path)
    with Server(config=PROJECT, database_url=site.database_url, part="worker", EFFECT_LOG=effects):
        assert site.client.settled(thread, 10.0)
    assert site.client.run_status(thread, run) == "success"
