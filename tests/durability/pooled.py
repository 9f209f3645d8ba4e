"""R15: behind PgBouncer in transaction mode, where sessions mean nothing: no LISTEN, no session locks, the lease alone.

What R1, R4 to R7 and R9 try, and workers that are killed or frozen one by one, once more with PgBouncer in between.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from tests.db.pgbouncer import pgbouncer
from tests.durability import answers, lost_connections, posts, storm, takeover
from tests.durability.client import Client
from tests.durability.effects import EffectLog
from tests.durability.goals import Control, Goal, Trial
from tests.durability.outages import outage, stoppable
from tests.durability.tally import Tally
from tests.durability.walk import PROJECT
from tests.support.server import Server

POOLED = {"HOLDFAST_POOLER": "transaction"}
SERVER_CONNECTIONS = 12
LEASE_SECONDS = 5.0
NOTICED_WITHIN = LEASE_SECONDS + 1.0
TERMINATIONS, SILENT_SECONDS, KILLS, POSTS, INTERLEAVINGS = 5, 15, 30, 2, 100
"""Of what is one round elsewhere, for one round here."""


def played(trial: Trial) -> Tally:
    """Everything, so many rounds."""
    tally = Tally("behind PgBouncer in transaction mode")
    with (
        lost_connections.own_database(trial.directory / "own") as url,
        pgbouncer(url, server_connections=SERVER_CONNECTIONS) as pooled,
    ):
        tally.add(lost_connections.storm(_part(trial, "terminated", TERMINATIONS), url, pooled, **POOLED))
        tally.add(lost_connections.silence(_part(trial, "silence", SILENT_SECONDS), url, pooled, **POOLED))
        if not trial.planted:
            tally.add(taken_over(_part(trial, "taken-over", 1), pooled))
            tally.add(storm.played(_part(trial, "killed", KILLS), pooled, **POOLED))
            tally.add(posts.played(_part(trial, "posts", POSTS), pooled, **POOLED))
            tally.add(answers.played(_part(trial, "answers", INTERLEAVINGS), pooled, **POOLED))
    if not trial.planted:
        with (
            stoppable(trial.directory / "stoppable") as (postgres, url),
            pgbouncer(url, server_connections=SERVER_CONNECTIONS) as pooled,
        ):
            tally.add(outage(_part(trial, "outage", 1), postgres, url, pooled, **POOLED))
    return tally


def _part(trial: Trial, name: str, rounds: int) -> Trial:
    directory = trial.directory / name
    directory.mkdir()
    return replace(trial, rounds=trial.rounds * rounds, directory=directory)


@contextmanager
def _site(trial: Trial, pooled: str) -> Iterator[takeover.Site]:
    """An API and two workers that know each other by their leases alone."""
    effects = EffectLog(trial.directory / "effects.jsonl")
    given: dict[str, Any] = {
        "config": PROJECT,
        "database_url": pooled,
        "EFFECT_LOG": str(effects.path),
        "HOLDFAST_LEASE_SECONDS": str(LEASE_SECONDS),
        **POOLED,
    }
    servers = [Server(part=part, **given) for part in ("api", "worker", "worker")]
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        api, one, two = list(pool.map(stack.enter_context, servers))
        client = stack.enter_context(Client(api.url))
        yield takeover.Site(client, (one, two), effects, pooled, LEASE_SECONDS)


def taken_over(trial: Trial, pooled: str) -> Tally:
    """Workers die and freeze. A dead one stays a zombie, so that its process seems to exist, as on another host."""
    tally = Tally("a worker's lease is all that is seen of it")
    with _site(trial, pooled) as site:
        for _ in range(trial.rounds):
            walk = site.walk()
            walk.started(2)
            holder, other = site.holder_and_other(walk)
            died = time.monotonic()
            holder.signal(signal.SIGKILL)
            gap = walk.started_by(other.pid, LEASE_SECONDS + 10).started - died
            holder.wait()
            tally.count("workers killed")
            tally.timed("killed: until it went on", gap)
            tally.fault("killed: went on too late", [f"{gap:.2f} s"] if gap > NOTICED_WITHIN else [])
            walk.judge(tally, may_start_twice=1)
        takeover.frozen(site, tally, trial.rounds)
    return tally


POOLER = Goal(
    id="R15",
    title="PgBouncer in transaction mode",
    play=played,
    rounds=2,
    at_least={
        "connections terminated": 50,
        "answers lost": 50,
        "outages": 2,
        "workers killed": 2,
        "kills": 60,
        "posts acknowledged": 400,
        "interleavings": 200,
        "frozen: rounds": 2,
        "runs acknowledged": 100,
    },
    controls=(Control("no-save-retry", ("5xx answers", "runs that did not succeed", "wrong answers"), rounds=1),),
)
