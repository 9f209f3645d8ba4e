"""R1: two workers are killed at random moments, over and over, while clients keep asking for runs.

The API and the database live on, so that every answer to a client counts. The workers come from a fork server
(`forkserver.py`); many are killed while they start. A round is a kill.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tests.durability.client import Client
from tests.durability.effects import EffectLog
from tests.durability.forkserver import ForkServer
from tests.durability.goals import Control, Goal, Trial
from tests.durability.tally import Tally
from tests.durability.tours import FAULTS, Tours
from tests.durability.walk import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import until

CLIENTS = 4
STEPS, STEP_SECONDS = 8, 0.002
RUNS_PER_KILL = 3
SECONDS_BETWEEN_KILLS = 0.55
"""At most, unless the clients have not got on meanwhile."""
DOUBLED_AT_MOST = 0.02
SETTLED_WITHIN = 20.0


@dataclass
class _Storm:
    """Two workers, of which now and then one is killed and another one begins."""

    forks: ForkServer
    tours: Tours
    chance: random.Random
    tally: Tally
    asking: Sequence[Future[None]]
    """The clients; one whose thread is stuck gives up."""

    def blow(self, kills: int) -> None:
        """Ends with two fresh workers at work."""
        workers = [self.forks.start(), self.forks.start()]
        for _ in range(kills):
            time.sleep(self.chance.uniform(0, SECONDS_BETWEEN_KILLS))
            self._await_clients()
            self._kill(workers.pop(self.chance.randrange(2)))
            workers.append(self.forks.start())
        self._await_clients()

    def _await_clients(self) -> None:
        until(self._clients_got_on, "clients are served between the kills", 2 * SETTLED_WITHIN)

    def _clients_got_on(self) -> bool:
        served = self.tally.counted("runs acknowledged") >= RUNS_PER_KILL * self.tally.counted("kills")
        return served or all(client.done() for client in self.asking)

    def _kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.tours.killed[pid] = time.monotonic()
        self.tally.count("kills")


def play(trial: Trial) -> Tally:
    """`rounds` kills."""
    with Cluster.embedded(trial.directory / "postgres") as cluster, cluster.database() as url:
        return played(trial, url)


def played(trial: Trial, database_url: str, **options: str) -> Tally:
    """The same in a database that is there already."""
    tally = Tally("kill -9 of one of two workers, over and over", *FAULTS, "effects doubled (more than 2 %)")
    effects = EffectLog(trial.directory / "effects.jsonl")
    tours = Tours(effects, STEPS, STEP_SECONDS)
    environment = {"EFFECT_LOG": str(effects.path), **options}
    given: dict[str, Any] = {"config": PROJECT, "database_url": database_url, "planted": trial.planted}
    with ExitStack() as stack:
        api = stack.enter_context(Server(part="api", **given, **environment))
        forks = ForkServer(**given, log=trial.directory / "workers.log", environment=environment)
        stack.enter_context(forks)
        over = threading.Event()
        with ThreadPoolExecutor(CLIENTS) as pool:
            seeds = [trial.chance.random() for _ in range(CLIENTS)]
            asking = [pool.submit(_ask, api.url, tours, random.Random(seed), over, tally) for seed in seeds]
            try:
                _Storm(forks, tours, trial.chance, tally, asking).blow(trial.rounds)
            finally:
                over.set()
            for each in asking:
                each.result()
        with Client(api.url) as client:
            _settle(client, tours, tally)
            tours.judge(client, tally)
    doubled, effective = tally.counted("effects doubled"), tally.counted("effects by idempotency key")
    many = [f"{doubled} of {effective}"] if doubled > DOUBLED_AT_MOST * effective else []
    tally.fault("effects doubled (more than 2 %)", many)
    return tally


def _ask(url: str, tours: Tours, chance: random.Random, over: threading.Event, tally: Tally) -> None:
    """One client: threads of one to three runs, in the background or streamed, until the storm is over."""
    with Client(url, SETTLED_WITHIN) as client:
        while not over.is_set():
            thread = client.thread()
            for _ in range(chance.randint(1, 3)):
                how = chance.choice(("background", "stream"))
                if tours.begin(client, thread, how) is None:
                    tally.fault("runs lost", [f"thread {thread}: a request that the living API did not answer"])
                    continue
                tally.count(f"runs acknowledged ({how})")
                tally.count("runs acknowledged")
            if not client.settled(thread):
                return


def _settle(client: Client, tours: Tours, tally: Tally) -> None:
    """Wait until nothing is under way; one patience for all."""
    begun = time.monotonic()

    def active() -> list[str]:
        return [thread for thread in tours.runs if client.thread_row(thread)["status"] == "busy"]

    try:
        until(lambda: not active(), "everything has ended", SETTLED_WITHIN)
    except AssertionError:
        tally.count("threads still busy at the end", len(active()))
    tally.timed("after the last kill until everything had ended", time.monotonic() - begun)


GOAL = Goal(
    "R1",
    "nothing is lost however often workers are killed",
    play,
    rounds=1000,
    at_least={"kills": 1000, "runs acknowledged": 3000, "effects doubled": 10},
    controls=(
        Control("no-requeue", ("runs that did not succeed", "threads stuck busy"), rounds=20),
        Control("new-run-id", ("wrong final states",), rounds=40),
        Control("saves-late", ("committed effects repeated",), rounds=40),
    ),
)
