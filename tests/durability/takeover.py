"""Two workers on one database: one of them freezes, dies, leaves or is blocked, and the other does what is right.

    python -m tests.durability.takeover [--rounds 10] [--seed S]

    frozen    `kill -STOP` past the lease, the other one takes over, `kill -CONT`: the late writes are refused
    killed    `kill -9`: the other one goes on within 2 s
    leaving   SIGTERM: the run is handed over at the next step, nothing is started twice, exit status 0
    blocking  a node blocks the event loop for longer than the lease: nobody takes its run away

`--rounds` is for `killed`; the others have three rounds at most. Every other killed worker stays a zombie for a
while: its process then seems to exist, and only its session lock tells that it is dead, as it does between two hosts.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.durability.client import Client
from tests.durability.effects import EffectLog
from tests.durability.tally import Tally, finish, rounds_and_seed, say
from tests.durability.walk import PROJECT, Walk
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import until

ROUNDS = 10
OTHER_ROUNDS = 3
LEASE_SECONDS = 5.0
PAUSE = 0.4
STEPS = 4
GOES_ON_WITHIN = 2.0
EXITS_WITHIN = 2.0
"""Seconds that a worker may take to leave, on top of the step that it is in."""


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
def site(directory: Path, cluster: Cluster, lease: float = LEASE_SECONDS) -> Iterator[Site]:
    """An API and two workers, all gone afterwards."""
    effects = EffectLog(directory / "effects.jsonl")
    with cluster.database() as url:
        given: dict[str, Any] = {
            "config": PROJECT,
            "database_url": url,
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
            tally.timed("frozen: until taken over", taken.started - stopped)
            if number % 2:
                site.client.settled(walk.thread)
        finally:
            holder.signal(signal.SIGCONT)
        tally.count("frozen: rounds")
        _gives_up(holder, walk, tally)
        walk.judge(tally, may_start_twice=1)
        late = [each for each in walk.executions() if each.pid == holder.pid and each.started > stopped]
        tally.fault("steps started by a worker that had lost its run", late)


def _gives_up(woken: Server, walk: Walk, tally: Tally) -> None:
    try:
        until(lambda: f"{walk.run} belongs to a newer claim" in woken.log, "the woken worker gives up")
    except AssertionError as error:
        tally.fault("woken workers that did not give up", [error])


def killed(site: Site, tally: Tally, rounds: int) -> None:
    """`kill -9`; the time from the death to the next step."""
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
        tally.count("killed: rounds")
        tally.timed(f"killed: until it went on{' (seen by the lock alone)' if unreaped else ''}", gap)
        tally.fault("killed: went on too late", [f"{gap:.2f} s"] if gap > GOES_ON_WITHIN else [])
        walk.judge(tally, may_start_twice=1)


def leaving(site: Site, tally: Tally, rounds: int) -> None:
    """SIGTERM in the middle of a step."""
    for _ in range(rounds):
        walk = site.walk(pause=2 * PAUSE)
        in_flight = walk.started(2)
        holder, other = site.holder_and_other(walk)
        asked = time.monotonic()
        status = holder.stop()
        took = time.monotonic() - asked
        tally.count("leaving: rounds")
        tally.timed("leaving: until the process was gone", took)
        tally.fault("leaving: wrong exit status", [status] if status else [])
        tally.fault("leaving: too slow", [f"{took:.2f} s"] if took > 2 * PAUSE + EXITS_WITHIN else [])
        gap = walk.started_by(other.pid, site.lease + 10).started - (in_flight.started + 2 * PAUSE)
        tally.timed("leaving: end of the last step until the next one", gap)
        tally.fault("leaving: went on too late", [f"{gap:.2f} s"] if gap > GOES_ON_WITHIN else [])
        walk.judge(tally, may_start_twice=0)


def blocking(site: Site, tally: Tally, rounds: int) -> None:
    """A node that blocks the event loop for longer than the lease."""
    for _ in range(rounds):
        walk = site.walk("blocking", count=1, pause=1.6 * site.lease)
        walk.started(1)
        holder, _ = site.holder_and_other(walk)
        site.client.settled(walk.thread)
        pids = {each.pid for each in walk.executions()}
        tally.count("blocking: rounds")
        tally.fault("blocking: taken away", [f"{pids}"] if pids != {holder.pid} else [])
        walk.judge(tally, may_start_twice=0)


def tried(parts: dict[Callable[[Site, Tally, int], None], int], site: Site) -> Tally:
    """Play the parts, each so many rounds."""
    tally = Tally("one of two workers " + ", ".join(part.__name__ for part in parts))
    for part, rounds in parts.items():
        part(site, tally, rounds)
    return tally


def main() -> None:
    rounds, _ = rounds_and_seed(__doc__, rounds=ROUNDS)
    few = min(rounds, OTHER_ROUNDS)
    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-takeover-", ignore_cleanup_errors=True) as directory,
        Cluster.embedded(Path(directory) / "postgres") as cluster,
        site(Path(directory), cluster) as place,
    ):
        tally = tried({frozen: few, killed: rounds, leaving: few, blocking: 1}, place)
    say(f"took {time.monotonic() - begun:.0f} s")
    finish(tally)


if __name__ == "__main__":
    main()
