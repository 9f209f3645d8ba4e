"""R5: twenty posts at once on each of five threads; what is accepted is carried out once, in the order of admission.

A round has three parts: the posts queue up; they queue up while the only server is killed and started again; they ask
for `reject`, of which exactly one may be accepted.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.durability.client import WAIT_SECONDS, Client
from tests.durability.effects import EffectLog
from tests.durability.goals import Control, Goal, Trial
from tests.durability.tally import Tally
from tests.durability.tours import FAULTS, Tours
from tests.durability.walk import PROJECT
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import until

THREADS, POSTS = 5, 20
STEPS, STEP_SECONDS = 2, 0.005
LONG_SECONDS = 600.0
"""A run that ends only when it is cancelled: nobody may be accepted after it by mistake."""


@dataclass
class _Round:
    server: Server
    client: Client
    trial: Trial
    tally: Tally
    effects: EffectLog

    def queued(self) -> None:
        tours = self._tours()
        self._at_once(list(tours.runs), lambda client, thread: tours.begin(client, thread))
        acknowledged = sum(map(len, tours.runs.values()))
        self.tally.count("posts acknowledged", acknowledged)
        unanswered = THREADS * POSTS - acknowledged
        self.tally.fault("posts that a living server did not answer", [unanswered] if unanswered else [])
        self._judge(tours)

    def killed(self) -> None:
        tours = self._tours()
        killer = threading.Thread(target=self._kill, args=(tours,))
        killer.start()
        self._at_once(list(tours.runs), lambda client, thread: tours.begin(client, thread))
        killer.join()
        self.server.start()
        self.tally.count("kills")
        self.tally.count("posts acknowledged by a server that was killed", sum(map(len, tours.runs.values())))
        self._judge(tours)

    def rejected(self) -> None:
        threads = [self.client.thread() for _ in range(THREADS)]
        given = {"count": 1, "pause": LONG_SECONDS, "done": []}
        body = {"assistant_id": "walk", "input": given, "multitask_strategy": "reject"}
        answers = Counter[tuple[str, int]]()

        def post(client: Client, thread: str) -> None:
            answers[thread, client.http.post(f"/threads/{thread}/runs", json=body).status_code] += 1

        self._at_once(threads, post)
        for thread in threads:
            accepted, refused = answers[thread, 200], answers[thread, 409]
            exact = (accepted, refused) == (1, POSTS - 1)
            self.tally.fault("reject: not exactly one accepted", [] if exact else [dict(answers)])
            self.tally.count("posts rejected", refused)
            for run in self.client.statuses(thread):
                self.client.http.post(f"/threads/{thread}/runs/{run}/cancel").raise_for_status()
            self.tally.fault("threads stuck busy", [] if self.client.settled(thread) else [thread])

    def _tours(self) -> Tours:
        tours = Tours(self.effects, STEPS, STEP_SECONDS)
        for _ in range(THREADS):
            tours.runs[self.client.thread()]
        return tours

    def _at_once(self, threads: list[str], post: Callable[[Client, str], Any]) -> None:
        barrier = threading.Barrier(len(threads) * POSTS)

        def one(thread: str) -> None:
            with Client(self.server.url) as client:
                barrier.wait(WAIT_SECONDS)
                post(client, thread)

        with ThreadPoolExecutor(len(threads) * POSTS) as pool:
            list(pool.map(one, threads * POSTS))

    def _kill(self, tours: Tours) -> None:
        pid, enough = self.server.pid, self.trial.chance.randrange(THREADS * POSTS)
        until(lambda: sum(map(len, tours.runs.values())) >= enough, "posts are acknowledged", WAIT_SECONDS)
        self.server.kill()
        tours.killed[pid] = time.monotonic()

    def _judge(self, tours: Tours) -> None:
        stuck = [thread for thread in tours.runs if not self.client.settled(thread)]
        self.tally.fault("threads stuck busy", stuck)
        tours.judge(self.client, self.tally)


def play(trial: Trial) -> Tally:
    with Cluster.embedded(trial.directory / "postgres") as cluster, cluster.database() as url:
        return played(trial, url)


def played(trial: Trial, database_url: str, **options: str) -> Tally:
    """The same in a database that is there already."""
    tally = Tally("twenty posts at once on each of five threads", *FAULTS)
    effects = EffectLog(trial.directory / "effects.jsonl")
    served = trial.server(config=PROJECT, database_url=database_url, EFFECT_LOG=str(effects.path), **options)
    with served as server, Client(server.url) as client:
        for _ in range(trial.rounds):
            part = _Round(server, client, trial, tally, effects)
            part.queued()
            part.killed()
            part.rejected()
            tally.count("rounds")
    return tally


GOAL = Goal(
    "R5",
    "posts at once are served once each, in order",
    play,
    rounds=15,
    at_least={
        "posts acknowledged": 15 * THREADS * POSTS,
        "posts acknowledged by a server that was killed": 150,
        "posts rejected": 15 * THREADS * (POSTS - 1),
    },
    controls=(
        Control("no-order", ("runs out of order",), rounds=1),
        Control("no-reject", ("reject: not exactly one accepted",), rounds=1),
        Control("new-run-id", ("wrong final states",), rounds=4),
    ),
    for_peers=True,
)
