"""What many who watch runs at another process cost, without and with a fan-out (docs/scaling.md).

    python -m bench.watchers                 # some minute; needs redis-server

One process executes runs of 100 tokens, one every 20 ms; another only answers, and has all that watch. Costs are for
one run with all its watchers: statements of both processes, CPU of each, of Postgres, and of Redis.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench import machine
from bench.client import Connection
from bench.cluster import Postgres
from bench.figures import share
from bench.ledger import Ledger
from bench.servers import Server, server
from bench.site import Site, streamed
from tests.support.redis import redis_server

TOKENS, PACE_SECONDS = 100, 0.02
ROUNDS = 3
HEAD = """| watchers of a run | fan-out | statements | Postgres, ms | executes, ms | answers, ms | gap P99, ms |
|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Pair:
    """A process that executes, one that only answers, and what they stand on."""

    executes: Server
    answers: Server
    postgres: Postgres
    ledger: Ledger
    database: str

    def cpu(self) -> list[float]:
        assert self.postgres.pid is not None
        return [1000 * machine.cpu_seconds(pid) for pid in (self.postgres.pid, self.executes.pid, self.answers.pid)]

    def statements(self) -> int:
        return self.ledger.read(self.database).statements


@contextmanager
def pair(postgres: Postgres, place: Path, name: str, **environment: str) -> Iterator[Pair]:
    database = postgres.fresh_database(f"watchers_{name}")
    with ExitStack() as stack:
        made = []
        for part in ("serve", "api"):
            one = server("holdfast", place / f"{name}-{part}", database)
            command = [part if word == "serve" else word for word in one.launch.command]
            one.launch = replace(one.launch, command=command, environment=one.launch.environment | environment)
            stack.callback(one.stop)
            one.start()
            made.append(one)
        ledger = Ledger(postgres.url)
        stack.callback(ledger.close)
        yield Pair(made[0], made[1], postgres, ledger, database)


async def watched(at: Pair, runs: int, watchers: int) -> tuple[list[float], list[float]]:
    """Statements, Postgres' CPU, that of the two processes for one run; and the gaps that watchers saw."""
    site, there = Site(at.executes.url), Site(at.answers.url)
    threads = await site.threads(runs)
    before = [float(at.statements()), *at.cpu()]
    gaps: list[float] = []

    async def watch(path: str) -> None:
        async with there.connection() as connection:
            events, _ = await connection.follow("GET", path, last_event_id="-1")
            gaps.extend(events.gaps)

    async def run(connection: Connection, thread: str) -> None:
        body = streamed(tokens=TOKENS, pace=PACE_SECONDS, stream_resumable=True)
        made = (await connection.ask("POST", f"/threads/{thread}/runs", body)).json()
        path = f"/threads/{thread}/runs/{made['run_id']}/stream"
        await asyncio.gather(*(watch(path) for _ in range(watchers)))

    await site.each(runs, threads, run)
    time.sleep(0.2)  # noqa: ASYNC251 - what ends after the last answer counts, too
    after = [float(at.statements()), *at.cpu()]
    return [(now - had) / runs for now, had in zip(after, before, strict=True)], gaps


def main(runs: int) -> None:
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(Postgres.embedded(place / "data"))
        redis = stack.enter_context(redis_server(place))
        pairs = {
            "no": stack.enter_context(pair(postgres, place, "without")),
            "yes": stack.enter_context(pair(postgres, place, "with", FANOUT_URL=redis)),
        }
        print(HEAD)
        for watchers in (1, 20):
            best: dict[str, tuple[list[float], list[float]]] = {}
            for _ in range(ROUNDS):
                for name, one in pairs.items():
                    costs, gaps = asyncio.run(watched(one, runs, watchers))
                    if name not in best or sum(costs[1:]) < sum(best[name][0][1:]):
                        best[name] = costs, gaps
            for name, (costs, gaps) in best.items():
                cells = " | ".join(f"{cost:.1f}" for cost in costs)
                print(f"| {watchers} | {name} | {cells} | {1000 * share(gaps, 0.99):.0f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    main(parser.parse_args().runs)
