"""What 1, 10, 100 and 1,000 nodes carry, and what breaks first (docs/scaling.md).

    python -m bench.capacity                 # the table
    python -m bench.capacity --bell          # measures what hearing a ring costs, first
    python -m bench.capacity --fanout        # nobody rings for events

A model, not a measurement: what a run costs was measured on one machine (`make bench`), what many nodes share is added
up from that, and compared with what one Postgres is given credit for. It says nothing of locks that many wait for.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from bench.cluster import Postgres

DAY_SECONDS = 86_400
NODES = (1, 10, 100, 1_000)
RINGS = 5_000


@dataclass(frozen=True)
class Run:
    """A run that streams 200 tokens at 32 at once: `make bench`, scenario `stream`."""

    server_cpu_ms: float = 7.1
    postgres_cpu_ms: float = 1.5
    wal_kb: float = 35.5
    kept_kb: float = 22.8
    """What a turn of a conversation leaves behind (scenario `growth`)."""
    seconds: float = 5.0
    """How long a model takes, which costs nothing but a slot and a stream."""


@dataclass(frozen=True)
class Node:
    """A process with a core of its own, filled to `busy`."""

    busy: float = 0.7
    connections: int = 28
    rings_per_second: float = 100.0
    """A process gathers its rings for 5 ms; busy ones ring about so often."""
    ring_ms: float = 0.008
    """What one costs each of the others: hearing it takes 0.002 ms (`--bell`), finding whom it concerns 0.006."""


@dataclass(frozen=True)
class OnePostgres:
    """What a large machine with local NVMe is given credit for."""

    cores: float = 64 * 0.7
    wal_mb_per_second: float = 500.0
    connections: int = 500
    """Without a pooler."""


@dataclass(frozen=True)
class Load:
    """What so many nodes do to what they share."""

    nodes: int
    runs_per_second: float
    at_once: float
    postgres_cores: float
    wal_mb_per_second: float
    kept_gb_per_day: float
    connections: int
    hearing: float
    """The part of a process's core that goes into hearing the others' rings."""


def load(nodes: int, run: Run, node: Node) -> Load:
    """What `nodes` carry when all of them are as busy as they should be."""
    hearing = (nodes - 1) * node.rings_per_second * node.ring_ms / 1000
    rate = nodes * max(0.0, node.busy - hearing) * 1000 / run.server_cpu_ms
    return Load(
        nodes,
        rate,
        rate * run.seconds,
        rate * run.postgres_cpu_ms / 1000,
        rate * run.wal_kb / 1000,
        rate * run.kept_kb * DAY_SECONDS / 1e6,
        nodes * node.connections,
        hearing,
    )


def broken(seen: Load, node: Node, limit: OnePostgres) -> list[str]:
    """What does not hold with that load, the worst first."""
    shares = {
        "the bell": seen.hearing / node.busy,
        "WAL": seen.wal_mb_per_second / limit.wal_mb_per_second,
        "Postgres' CPU": seen.postgres_cores / limit.cores,
        "connections (a pooler)": seen.connections / limit.connections,
    }
    return [f"{name} {share:.1f} x" for name, share in sorted(shares.items(), key=lambda one: -one[1]) if share > 1]


def table(run: Run, node: Node) -> str:
    """Markdown, a row for each number of nodes."""
    head = "| nodes | runs/s | at once | Postgres, cores | WAL, MB/s | kept, GB/day | connections | hearing | breaks |"
    lines = [head, "|" + "---|" * 9]
    for nodes in NODES:
        one = load(nodes, run, node)
        cells = [
            f"{nodes:,}",
            f"{one.runs_per_second:,.0f}",
            f"{one.at_once:,.0f}",
            f"{one.postgres_cores:.1f}",
            f"{one.wal_mb_per_second:,.1f}",
            f"{one.kept_gb_per_day:,.0f}",
            f"{one.connections:,}",
            f"{one.hearing:.0%}",
            ", ".join(broken(one, node, OnePostgres())) or "nothing",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


async def _hearing_ms(url: str) -> float:
    """CPU of a process for each notification that it hears, in milliseconds."""
    async with (
        await psycopg.AsyncConnection.connect(url, autocommit=True) as ear,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as mouth,
    ):
        await ear.execute("LISTEN bell")
        before = resource.getrusage(resource.RUSAGE_SELF)
        # A transaction for each: what comes together is heard together, and costs next to nothing.
        ringing = f"DO $$ BEGIN FOR i IN 1..{RINGS} LOOP PERFORM pg_notify('bell', i::text); COMMIT; END LOOP; END $$"
        rung = asyncio.create_task(mouth.execute(ringing))
        async for _ in ear.notifies(stop_after=RINGS):
            pass
        await rung
        after = resource.getrusage(resource.RUSAGE_SELF)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / RINGS


def main() -> None:
    words = argparse.ArgumentParser(prog="python -m bench.capacity", description=__doc__)
    words.add_argument("--bell", action="store_true", help="measure what hearing a ring costs")
    words.add_argument("--fanout", action="store_true", help="with FANOUT_URL: blocks of events are not rung for")
    asked = words.parse_args()
    node = Node(rings_per_second=0.0) if asked.fanout else Node()
    if asked.bell:
        with tempfile.TemporaryDirectory() as place, Postgres.embedded(Path(place) / "data") as postgres:
            node = replace(node, ring_ms=asyncio.run(_hearing_ms(postgres.url)))
        print(f"hearing a ring: {node.ring_ms:.3f} ms\n")
    print(table(Run(), node))


if __name__ == "__main__":
    main()
