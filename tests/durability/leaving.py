"""A process is asked to leave while it executes a run: it leaves quickly, and the run goes on without a step twice.

    handed over  SIGTERM, and there is another worker: the run goes on there with the next step
    drained      Ctrl-C on the only server: it leaves at the next step, the run waits in the queue
    hurried      a second signal in the middle of a long step: it leaves at once, the step starts again later

Somebody follows the only server's run meanwhile. To that client the connection has to break: a body that ended cleanly
would say that the run was over. The database is not the server's own here, so that the queue can be looked at while no
server is up.
"""

from __future__ import annotations

import signal
import threading
import time

import httpx
import psycopg

from tests.durability import takeover
from tests.durability.client import Client
from tests.durability.effects import EffectLog
from tests.durability.goals import Control, Goal, Trial
from tests.durability.tally import Tally
from tests.durability.walk import PROJECT, Walk
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import until

PAUSE = 0.5
LONGER_PAUSE = 0.8
LONG_PAUSE = 4.0
EXITS_WITHIN = 2.0
TAKEN_UP_WITHIN = 3.0
GOES_ON_WITHIN = 2.0
"""Seconds, on top of the steps themselves."""


class Follower:
    """A client that reads a run's stream until the connection ends, in a thread of its own."""

    def __init__(self, url: str, walk: Walk) -> None:
        self._url = url
        self._path = f"/threads/{walk.thread}/runs/{walk.run}/stream"
        self.received = b""
        self.ended: str | None = None
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def join(self) -> str:
        """How the connection ended."""
        self._thread.join()
        return str(self.ended)

    def _read(self) -> None:
        try:
            with (
                Client(self._url) as client,
                client.http.stream("GET", self._path, headers={"last-event-id": "-1"}) as answer,
            ):
                for chunk in answer.iter_raw():
                    self.received += chunk
            self.ended = "cleanly"
        except httpx.TransportError as error:
            self.ended = f"broken: {error}"


def left_alone(tally: Tally, trial: Trial, cluster: Cluster) -> None:
    """Ctrl-C on the only server, drained and hurried by turns."""
    effects = EffectLog(trial.directory / "alone.jsonl")
    with cluster.database() as url:
        server = Server(config=PROJECT, database_url=url, planted=trial.planted, EFFECT_LOG=str(effects.path))
        with server, Client(server.url) as client:
            for _ in range(trial.rounds):
                walk = Walk.begin(client, effects, count=4, pause=PAUSE)
                walk.started(2)
                _leave(server, walk, url, tally, "drained", within=PAUSE + EXITS_WITHIN)
                _taken_up(walk, tally, "drained", within=3 * PAUSE + TAKEN_UP_WITHIN)
                walk.judge(tally, may_start_twice=0)
                walk = Walk.begin(client, effects, count=1, pause=LONG_PAUSE)
                walk.started(1)
                _leave(server, walk, url, tally, "hurried", within=EXITS_WITHIN)
                _taken_up(walk, tally, "hurried", within=LONG_PAUSE + TAKEN_UP_WITHIN)
                walk.judge(tally, may_start_twice=1)


def _leave(server: Server, walk: Walk, database_url: str, tally: Tally, how: str, *, within: float) -> None:
    follower = Follower(server.url, walk)
    until(lambda: follower.received, "the stream says something")
    asked = time.monotonic()
    server.signal(signal.SIGINT)
    if how == "hurried":
        server.signal(signal.SIGTERM)  # Another kind, because two pending signals of one kind are one.
    status = server.wait()
    took = time.monotonic() - asked
    tally.count(f"{how}: rounds")
    tally.timed(f"{how}: until the process was gone", took)
    tally.fault(f"{how}: too slow", [f"{took:.2f} s"] if took > within else [])
    tally.fault(f"{how}: wrong exit status", [status] if status else [])
    ended = follower.join()
    tally.fault(f"{how}: streams that did not break", [] if ended.startswith("broken") else [ended])
    with psycopg.connect(database_url) as conn:
        row = conn.execute("SELECT status FROM holdfast.runs WHERE run_id = %s", [walk.run]).fetchone()
    tally.fault(f"{how}: runs not in the queue", [] if row == ("pending",) else [f"{walk.run}: {row}"])
    server.start()


def _taken_up(walk: Walk, tally: Tally, how: str, *, within: float) -> None:
    began = time.monotonic()
    walk.client.settled(walk.thread)
    took = time.monotonic() - began
    tally.timed(f"{how}: after the restart until over", took)
    tally.fault(f"{how}: taken up too late", [f"{took:.2f} s"] if took > within else [])


def handed_over(site: takeover.Site, tally: Tally, rounds: int) -> None:
    """SIGTERM in the middle of a step."""
    for _ in range(rounds):
        walk = site.walk(pause=LONGER_PAUSE)
        in_flight = walk.started(2)
        holder, other = site.holder_and_other(walk)
        asked = time.monotonic()
        status = holder.stop()
        took = time.monotonic() - asked
        tally.count("handed over: rounds")
        tally.timed("handed over: until the process was gone", took)
        tally.fault("handed over: wrong exit status", [status] if status else [])
        tally.fault("handed over: too slow", [f"{took:.2f} s"] if took > LONGER_PAUSE + EXITS_WITHIN else [])
        gap = walk.started_by(other.pid, site.lease + 10).started - (in_flight.started + LONGER_PAUSE)
        tally.timed("handed over: end of the last step until the next one", gap)
        tally.fault("handed over: went on too late", [f"{gap:.2f} s"] if gap > GOES_ON_WITHIN else [])
        walk.judge(tally, may_start_twice=0)


def play(trial: Trial) -> Tally:
    tally = Tally("a process that leaves")
    with Cluster.embedded(trial.directory / "postgres") as cluster:
        with takeover.site(trial.directory, cluster, planted=trial.planted) as site:
            handed_over(site, tally, trial.rounds)
        left_alone(tally, trial, cluster)
    return tally


GOAL = Goal(
    "leaving",
    "a process that is asked to leave hands its runs back",
    play,
    rounds=5,
    at_least={"handed over: rounds": 5, "drained: rounds": 5, "hurried: rounds": 5},
    controls=(Control("no-drain", ("steps executed twice",), rounds=2),),
)
