"""R13: a run whose node ends its process is given up, and its neighbours hardly notice.

An API and three workers that are started again when they die, as a supervisor would; neighbours walk all the time. A
round is one poisonous run of every kind. Each must end in an error: after the crash budget, or at once for
`sys.exit()`, which is no crash. The process may be the neighbours' twice at most; from then on the run has one of its
own. How much a neighbour lost is the time from the crash to its next step.

Between two crashes a neighbour finishes a step here. One that does not is a suspect too: it goes on alone, with the
delay of a process's start, and is not charged with a third crash. That is judged as well (no neighbour may fail), but
not how long it takes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from holdfast.rules.recovery import SUSPECT_AFTER
from tests.durability.client import ACTIVE, Client
from tests.durability.effects import EffectLog, Execution
from tests.durability.forkserver import ForkServer
from tests.durability.goals import Control, Goal, Trial
from tests.durability.tally import Tally
from tests.durability.walk import PROJECT, Walk
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import start, until

WORKERS, NEIGHBOURS = 3, 6
STEPS, STEP_SECONDS = 20, 0.3
LOST_AT_MOST = 1.0
BUDGET = 5
KINDS = ("_exit", "abort", "kill", "sys.exit")
NO_CRASH = "sys.exit"
ENDS_WITHIN = 240.0
LOOK_SECONDS = 0.02


@contextmanager
def _crew(forks: ForkServer) -> Iterator[None]:
    """Three workers; whichever dies is replaced."""
    over = threading.Event()

    def supervise() -> None:
        workers = [forks.start() for _ in range(WORKERS)]
        while not over.wait(LOOK_SECONDS):
            workers = [pid if _lives(pid) else forks.start() for pid in workers]

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    try:
        yield
    finally:
        over.set()
        supervisor.join()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@dataclass
class _Poisoned:
    """One poisonous run among its neighbours."""

    client: Client
    effects: EffectLog
    tally: Tally
    how: str
    budget: int

    @property
    def starts(self) -> int:
        """How often the poisonous node has to be started."""
        return 1 if self.how == NO_CRASH else self.budget

    def play(self) -> None:
        neighbours = [self._neighbour() for _ in range(NEIGHBOURS)]
        thread = self.client.thread()
        for walk in neighbours:
            walk.started(1)
        run = start(self.client.http, thread, "poison", input={"how": self.how, "done": []})
        begun = time.monotonic()
        until(lambda: self._is_over(thread, run), f"{self.how}: the run ends", ENDS_WITHIN)
        self.tally.timed(f"{self.how}: until given up", time.monotonic() - begun)
        self._judge(thread, run)
        for walk in neighbours:
            walk.judge(self.tally, may_start_twice=STEPS)
            self._judge_neighbour(walk, self._crashes(thread))
        self.tally.count("poisonous runs")

    def _neighbour(self) -> Walk:
        return Walk.begin(self.client, self.effects, count=STEPS, pause=STEP_SECONDS)

    def _crashes(self, thread: str) -> list[Execution]:
        return [each for each in self.effects.of(thread) if each.call == "fatal" and each.finished is None]

    def _is_over(self, thread: str, run: str) -> bool:
        """Or will never be."""
        over = self.client.run_status(thread, run) not in ACTIVE
        return over or len(self._crashes(thread)) > self.starts + 1

    def _judge(self, thread: str, run: str) -> None:
        status, crashes = self.client.run_status(thread, run), len(self._crashes(thread))
        self.tally.count("crashes", crashes)
        as_told = status == "error" and crashes == self.starts
        found = [] if as_told else [f"{self.how}: {status} after {crashes} starts"]
        self.tally.fault("poisonous runs that did not end as they must", found)
        if status in ACTIVE:
            self.client.http.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": False})
            return
        again = start(self.client.http, thread, "poison", input={"how": "none", "done": []})
        usable = self.client.settled(thread) and self.client.run_status(thread, again) == "success"
        self.tally.fault("threads that were not usable afterwards", [] if usable else [thread])

    def _judge_neighbour(self, walk: Walk, crashes: list[Execution]) -> None:
        died = {each.pid: each.started for each in crashes}
        of_suspect = {each.pid for each in crashes[SUSPECT_AFTER:]}
        before: dict[int, str] = {}
        """The step with which a worker took up what another one had been cut off in."""
        for cut, following in pairwise(walk.executions()):
            if cut.finished is not None or cut.pid not in died:
                continue
            lost = following.started - died[cut.pid]
            self.tally.count("steps of neighbours cut off")
            self.tally.fault("neighbours hurt by a suspect", [cut] if cut.pid in of_suspect else [])
            twice = following.call == before.get(cut.pid)
            before = {**before, following.pid: following.call}
            if twice:
                self.tally.timed("lost by a neighbour that became a suspect", lost)
                continue
            self.tally.timed("lost by a neighbour with a crash", lost)
            self.tally.fault("neighbours that went on too late", [f"{lost:.2f} s"] if lost > LOST_AT_MOST else [])


def play(trial: Trial) -> Tally:
    with Cluster.embedded(trial.directory / "postgres") as cluster, cluster.database() as url:
        return played(trial, url, KINDS)


def played(trial: Trial, database_url: str, kinds: tuple[str, ...], budget: int = BUDGET) -> Tally:
    """These kinds in a database that is there already."""
    tally = Tally("a node that ends its process", "neighbours hurt by a suspect", "neighbours that went on too late")
    effects = EffectLog(trial.directory / "effects.jsonl")
    environment = {"EFFECT_LOG": str(effects.path), "HOLDFAST_CRASH_BUDGET": str(budget)}
    given: dict[str, Any] = {"config": PROJECT, "database_url": database_url, "planted": trial.planted}
    with ExitStack() as stack:
        api = stack.enter_context(Server(part="api", **given, **environment))
        forks = ForkServer(**given, log=trial.directory / "workers.log", environment=environment)
        stack.enter_context(_crew(stack.enter_context(forks)))
        client = stack.enter_context(Client(api.url))
        for _ in range(trial.rounds):
            for how in kinds:
                _Poisoned(client, effects, tally, how, budget).play()
    return tally


GOAL = Goal(
    "R13",
    "a poisonous run is given up, and its neighbours go on",
    play,
    rounds=4,
    at_least={"poisonous runs": 16, "crashes": 64, "steps of neighbours cut off": 10},
    controls=(
        Control("no-budget", ("poisonous runs that did not end as they must",), rounds=1),
        Control("no-containment", ("poisonous runs that did not end as they must",), rounds=1),
    ),
)
