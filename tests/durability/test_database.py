"""The proofs about the database with few rounds; what takes how long is judged by `make durability` alone."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from holdfast.db.pool import REPEAT_SECONDS
from tests.conftest import PROJECT
from tests.db.pgbouncer import binary, pgbouncer
from tests.durability import lost_connections, outages, walk
from tests.durability.client import Client
from tests.durability.effects import EffectLog
from tests.durability.goals import Trial
from tests.durability.pooled import POOLED
from tests.durability.tally import Tally
from tests.support.server import Server, refusal_to_start

LONG_SECONDS = REPEAT_SECONDS + 6.0
"""Longer than any verb is repeated before its caller is told."""
LATE = {"last run late", "healed too late", "done too late"}


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(1, random.Random(6), tmp_path)


def wrong(tally: object) -> list[str]:
    """What was found, but for how long it took."""
    failures: list[str] = tally.failures  # type: ignore[attr-defined]
    return [failure for failure in failures if failure.partition(":")[0] not in LATE]


def test_terminated_connections_are_noticed_by_nobody(database_url: str, trial: Trial) -> None:
    assert not wrong(lost_connections.storm(trial, database_url, database_url))


def test_lost_answers_are_noticed_by_nobody(database_url: str, trial: Trial) -> None:
    if binary() is None:
        assert not wrong(lost_connections.silence(trial, database_url, database_url))
        return
    with pgbouncer(database_url) as pooled:
        assert not wrong(lost_connections.silence(trial, database_url, pooled, **POOLED))


def test_a_database_that_stops_at_once_loses_nothing(trial: Trial) -> None:
    with outages.stoppable(trial.directory / "database") as (postgres, url):
        assert not wrong(outages.outage(trial, postgres, url, url))


def test_a_worker_without_a_free_slot_outlives_a_long_outage(trial: Trial) -> None:
    effects, tally = EffectLog(trial.directory / "effects.jsonl"), Tally("a long outage")
    with outages.stoppable(trial.directory / "database") as (postgres, url), ExitStack() as stack:
        given = {"HOLDFAST_SLOTS": "1", "EFFECT_LOG": str(effects.path)}
        server = stack.enter_context(Server(config=walk.PROJECT, database_url=url, **given))
        client = stack.enter_context(Client(server.url))
        run = walk.Walk.begin(client, effects, count=1, pause=LONG_SECONDS + 1)
        run.started(1)
        postgres.stop_at_once()
        time.sleep(LONG_SECONDS)  # The length of the outage.
        postgres.start()
        run.judge(tally, may_start_twice=0)
        assert server.is_up
    assert not tally.failures


def test_a_server_that_starts_before_its_database_waits_for_it(trial: Trial) -> None:
    assert not wrong(outages.together(trial))


def test_a_server_that_is_not_let_in_says_so_at_once(database_url: str) -> None:
    assert "does not exist" in refusal_to_start(PROJECT, database_url.replace("/test_", "/no_test_"))
