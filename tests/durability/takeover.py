"""R2 and R3: one of two workers dies or freezes, and the other one goes on with its runs.

    killed    `kill -9`: the other one goes on
    alone     `kill -9` of the only server: it goes on as soon as it is there again
    frozen    `kill -STOP` past the lease, the other one takes over, `kill -CONT`: the late writes are refused

Every other killed worker stays a zombie for a while: its process then seems to exist, and only its session lock tells
that it is dead, as it does between two hosts.
"""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.durability.client import Client
from tests.durability.effects import EffectLog
from tests.durability.goals import Control, Goal, Trial
from tests.durability.tally import Tally
from tests.durability.walk import PROJECT, Walk
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import until

LEASE_SECONDS = 5.0
PAUSE = 0.4
STEPS = 4
TYPICALLY_WITHIN, GOES_ON_WITHIN = 1.0, 2.0
"""Seconds from the death of a worker to the next step at another one: the median, and the longest."""
RESTARTED_GOES_ON_WITHIN = 1.0
FROZEN_NOTICED_WITHIN = 1.0
"""Seconds after the end of the lease."""


@dataclass(frozen=True, slots=True)
class Site:
    """An API and two workers over one database."""

    client: Client
    workers: tuple[Server, Server]
    effects: EffectLog
    database_url: str
    lease: float

    def walk(self, graph: str = "walk", *, count: int = STEPS, pause: float = PAUSE) -> Walk:
        """Start a run of so many steps, with both workers up."""
        for worker in self.workers:
            if not worker.is_up:
                worker.start()
        return Walk.begin(self.client, self.effects, graph, count=count, pause=pause)

    def holder_and_other(self, walk: Walk) -> tuple[Server, Server]:
        """The worker that executes this run now, and the one that does not."""
        pid = walk.executions()[-1].pid
        one, two = self.workers
        return (one, two) if one.pid == pid else (two, one)


@contextmanager
def site(directory: Path, cluster: Cluster, lease: float = LEASE_SECONDS, planted: str = "") -> Iterator[Site]:
    """An API and two workers, all gone afterwards."""
    effects = EffectLog(directory / "effects.jsonl")
    with cluster.database() as url:
        given: dict[str, Any] = {
            "config": PROJECT,
            "database_url": url,
            "planted": planted,
            "EFFECT_LOG": str(effects.path),
            "HOLDFAST_LEASE_SECONDS": str(lease),
        }
        servers = [Server(part=part, **given) for part in ("api", "worker", "worker")]
        with ExitStack() as stack, ThreadPoolExecutor() as pool:
            api, one, two = list(pool.map(stack.enter_context, servers))
            client = stack.enter_context(Client(api.url))
            yield Site(client, (one, two), effects, url, lease)


def frozen(site: Site, tally: Tally, rounds: int) -> None:
    """`kill -STOP` past the lease, then `kill -CONT` while the other worker goes on."""
    for number in range(rounds):
        walk = site.walk()
        walk.started(2)
        holder, other = site.holder_and_other(walk)
        stopped = time.monotonic()
        holder.signal(signal.SIGSTOP)
        try:
            taken = walk.started_by(other.pid, site.lease + 10)
            took = taken.started - stopped
            tally.timed("frozen: until taken over", took)
            late = [f"{took:.2f} s"] if took > site.lease + FROZEN_NOTICED_WITHIN else []
            tally.fault("frozen: taken over too late", late)
            if number % 2:
                site.client.settled(walk.thread)
        finally:
            holder.signal(signal.SIGCONT)
        tally.count("frozen: rounds")
        _gives_up(holder, walk, tally)
        walk.judge(tally, may_start_twice=1)
        late_steps = [each for each in walk.executions() if each.pid == holder.pid and each.started > stopped]
        tally.fault("steps started by a worker that had lost its run", late_steps)


def _gives_up(woken: Server, walk: Walk, tally: Tally) -> None:
    try:
        until(lambda: f"{walk.run} belongs to a newer claim" in woken.log, "the woken worker gives up")
    except AssertionError as error:
        tally.fault("woken workers that did not give up", [error])


def killed(site: Site, tally: Tally, rounds: int) -> list[float]:
    """`kill -9`; the times from the death to the next step."""
    gaps = []
    for number in range(rounds):
        walk = site.walk()
        walk.started(2)
        holder, other = site.holder_and_other(walk)
        unreaped = number % 2 == 1
        died = time.monotonic()
        holder.signal(signal.SIGKILL)
        if not unreaped:
            holder.wait()
        gap = walk.started_by(other.pid, site.lease + 10).started - died
        holder.wait()
        gaps.append(gap)
        tally.count("killed: rounds")
        tally.timed(f"killed: until it went on{' (seen by the lock alone)' if unreaped else ''}", gap)
        tally.fault("killed: went on too late", [f"{gap:.2f} s"] if gap > GOES_ON_WITHIN else [])
        walk.judge(tally, may_start_twice=1)
    return gaps


def alone(server: Server, client: Client, effects: EffectLog, tally: Tally, rounds: int) -> None:
    """`kill -9` of the only server; the time from its being ready again to the next step."""
    for _ in range(rounds):
        walk = Walk.begin(client, effects, count=STEPS, pause=PAUSE)
        walk.started(2)
        server.kill()
        begun = time.monotonic()
        server.start()
        ready = time.monotonic()
        gap = max(0.0, walk.started_by(server.pid, 30).started - ready)
        tally.count("alone: rounds")
        tally.timed("alone: restart until ready", ready - begun)
        tally.timed("alone: ready until it went on", gap)
        tally.fault("alone: went on too late", [f"{gap:.2f} s"] if gap > RESTARTED_GOES_ON_WITHIN else [])
        walk.judge(tally, may_start_twice=1)


def play_killed(trial: Trial) -> Tally:
    tally = Tally("kill -9: how long until somebody goes on")
    with _hosted(trial) as cluster, site(trial.directory, cluster, planted=trial.planted) as place:
        gaps = killed(place, tally, trial.rounds)
    typical = statistics.median(gaps)
    tally.fault("killed: typically too late", [f"{typical:.2f} s"] if typical > TYPICALLY_WITHIN else [])
    effects = EffectLog(trial.directory / "alone.jsonl")
    given = {"data_dir": trial.directory / "alone", "planted": trial.planted, "EFFECT_LOG": str(effects.path)}
    with Server(config=PROJECT, **given) as server, Client(server.url) as client:
        alone(server, client, effects, tally, trial.rounds // 2)
    return tally


def play_frozen(trial: Trial) -> Tally:
    tally = Tally("kill -STOP past the lease, then kill -CONT")
    with _hosted(trial) as cluster, site(trial.directory, cluster, planted=trial.planted) as place:
        frozen(place, tally, trial.rounds)
    return tally


def _hosted(trial: Trial) -> AbstractContextManager[Cluster]:
    return Cluster.embedded(trial.directory / "postgres")


GOALS = (
    Goal(
        "R2",
        "a killed worker's runs go on within a second",
        play_killed,
        rounds=20,
        at_least={"killed: rounds": 20, "alone: rounds": 10},
        controls=(Control("no-death", ("killed: went on too late",), rounds=2),),
    ),
    Goal(
        "R3",
        "a frozen worker that wakes up writes nothing",
        play_frozen,
        rounds=12,
        at_least={"frozen: rounds": 12},
        # A woken worker notices by itself that it was buried; the fence is for what it writes until then.
        controls=(Control("no-fence,no-reconcile", ("checkpoint forks", "wrong final states"), rounds=2),),
    ),
)
