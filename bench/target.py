"""The targets of production (`make load`): short runs come at a fixed rate through a rolling restart.

Two replicas behind nginx, as deploy/nginx.conf sets it up, on one Postgres with the shipped settings. The graph is the
benchmark's (agent, tools, agent) and its model takes 300 ms, twice in a run. Arrivals do not wait for answers: a run's
time counts from the moment when it was due, so that a server that stands still is not asked less.

Half-way through, the replicas are restarted one after the other. A request without an answer (a broken connection, a
502) is sent again with its Idempotency-Key, as a careful client does, and counted: both shares are told, of requests
that needed it and of those that got no answer at all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from bench import machine, servers
from bench.client import Connection, Refused
from bench.cluster import Postgres
from bench.figures import Figures, latencies, share
from bench.peers import PLACE
from bench.servers import Server
from bench.site import conversation
from tests.support.nginx import binary, nginx

MODEL_SECONDS = 0.3
REPLICAS = 2
GIVEN_UP_SECONDS = 10.0
PAUSE_SECONDS = 0.05
WARM_SECONDS = 3.0
SETTLE_SECONDS = 3.0
"""More than nginx's `fail_timeout`: until then it sends nothing to a replica that was away."""


@dataclass
class Outcome:
    """What came of the requests: the seconds of each that was answered, and how many had to be sent again."""

    seconds: list[float] = field(default_factory=list)
    again: int = 0
    unanswered: int = 0

    def figures(self, took: float) -> Figures:
        asked = len(self.seconds) + self.unanswered
        return {
            "runs": asked,
            "runs_per_second": len(self.seconds) / took,
            **latencies(self.seconds),
            "p95_ms": 1000 * share(self.seconds, 0.95),
            "again_percent": 100 * self.again / asked,
            "unanswered_percent": 100 * self.unanswered / asked,
        }


class Clients:
    """Send runs when they are due, over as many connections as that takes."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[Connection] = []

    async def come(self, rate: float, seconds: float) -> Outcome:
        """Runs at `rate` a second, evenly."""
        outcome = Outcome()
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                due = began + number / rate
                await asyncio.sleep(due - asyncio.get_running_loop().time())
                group.create_task(self._one(due, outcome))
        for connection in self._idle:
            await connection.close()
        return outcome

    async def _one(self, due: float, outcome: Outcome) -> None:
        loop = asyncio.get_running_loop()
        path = f"/threads/{uuid4()}/runs/wait"
        body = conversation(tokens=10, pace=MODEL_SECONDS / 10, if_not_exists="create")
        key, tries = str(uuid4()), 0
        while loop.time() - due < GIVEN_UP_SECONDS:
            tries += 1
            with suppress(Refused, OSError, asyncio.IncompleteReadError):
                connection = self._idle.pop() if self._idle else Connection(self._url)
                await connection.ask("POST", path, body, idempotency_key=key)
                self._idle.append(connection)
                outcome.seconds.append(loop.time() - due)
                outcome.again += tries > 1
                return
            await asyncio.sleep(PAUSE_SECONDS)
        outcome.again += 1
        outcome.unanswered += 1


@contextmanager
def replicas(postgres: Postgres, place: Path) -> Iterator[Sequence[Server]]:
    """Started, on one database."""
    database = postgres.fresh_database("target")
    with ExitStack() as stack:
        made = [servers.server("holdfast", place / f"replica-{number}", database) for number in range(REPLICAS)]
        for replica in made:
            replica.start()
            stack.callback(replica.stop)
        yield made


def restart(running: Sequence[Server]) -> None:
    """One after the other, each when the one before is back and asked again."""
    for replica in running:
        replica.stop()
        replica.start()
        time.sleep(SETTLE_SECONDS)


def play(url: str, rate: float, seconds: float, half_way: Callable[[], None]) -> Figures:
    """The figures of so many seconds; `half_way` happens beside them."""
    asyncio.run(Clients(url).come(rate, WARM_SECONDS))
    beside = threading.Timer(seconds / 2, half_way)
    beside.start()
    began = time.perf_counter()
    outcome = asyncio.run(Clients(url).come(rate, seconds))
    beside.join()
    return outcome.figures(time.perf_counter() - began)


def main() -> None:
    words = argparse.ArgumentParser(prog="make load", description=__doc__)
    words.add_argument("--rate", type=float, default=100.0, help="runs a second")
    words.add_argument("--seconds", type=float, default=60.0)
    words.add_argument("--no-restart", action="store_true", help="leave the replicas alone")
    asked = words.parse_args()
    if binary() is None:
        raise SystemExit("nginx is not installed: apt-get install nginx-light")
    PLACE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="holdfast-target-") as directory:
        place = Path(directory)
        with Postgres.embedded(place / "data") as postgres, replicas(postgres, place) as running:
            with nginx([int(replica.url.rpartition(":")[2]) for replica in running]) as url:
                half_way = (lambda: None) if asked.no_restart else (lambda: restart(running))
                figures = play(url, asked.rate, asked.seconds, half_way)
            figures |= {"noise_" + name: value for name, value in machine.noise(place).items()}
    report = json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=2)
    (PLACE / "target.json").write_text(report)
    print(report)


if __name__ == "__main__":
    main()
