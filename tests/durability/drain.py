"""Ctrl-C on a single `holdfast serve` that executes a run: it leaves quickly, and a restart takes the run up again.

    python -m tests.durability.drain [--rounds 5] [--seed S]

    drained   one Ctrl-C: the process leaves at the next step, the run waits in the queue, nothing is started twice
    hurried   a second signal in the middle of a long step: the process leaves at once, the step starts again later

Somebody follows the run's stream meanwhile. To that client the connection has to break: a body that ended cleanly
would say that the run was over. The database is not the server's own here, so that the queue can be looked at while no
server is up.
"""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from pathlib import Path

import httpx
import psycopg

from tests.durability.client import Client
from tests.durability.effects import EffectLog
from tests.durability.tally import Tally, finish, rounds_and_seed, say
from tests.durability.walk import PROJECT, Walk
from tests.support.postgres import Cluster
from tests.support.server import Server
from tests.support.talk import until

ROUNDS = 5
PAUSE = 0.5
LONG_PAUSE = 4.0
EXITS_WITHIN = 2.0
TAKEN_UP_WITHIN = 3.0
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


def run_rounds(drained: int, hurried: int, directory: Path, cluster: Cluster) -> Tally:
    """So many rounds of either kind, all with one server."""
    tally = Tally("Ctrl-C on the only server")
    effects = EffectLog(directory / "effects.jsonl")
    with cluster.database() as url:
        server = Server(config=PROJECT, database_url=url, EFFECT_LOG=str(effects.path))
        with server, Client(server.url) as client:
            for _ in range(drained):
                walk = Walk.begin(client, effects, count=4, pause=PAUSE)
                walk.started(2)
                _leave(server, walk, url, tally, "drained", within=PAUSE + EXITS_WITHIN)
                _taken_up(walk, tally, "drained", within=3 * PAUSE + TAKEN_UP_WITHIN)
                walk.judge(tally, may_start_twice=0)
            for _ in range(hurried):
                walk = Walk.begin(client, effects, count=1, pause=LONG_PAUSE)
                walk.started(1)
                _leave(server, walk, url, tally, "hurried", within=EXITS_WITHIN)
                _taken_up(walk, tally, "hurried", within=LONG_PAUSE + TAKEN_UP_WITHIN)
                walk.judge(tally, may_start_twice=1)
    return tally


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


def main() -> None:
    rounds, _ = rounds_and_seed(__doc__, rounds=ROUNDS)
    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-drain-", ignore_cleanup_errors=True) as directory,
        Cluster.embedded(Path(directory) / "postgres") as cluster,
    ):
        tally = run_rounds(rounds, rounds, Path(directory), cluster)
    say(f"took {time.monotonic() - begun:.0f} s")
    finish(tally)


if __name__ == "__main__":
    main()
