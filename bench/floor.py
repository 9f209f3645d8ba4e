"""The floor: the same graph in this process without any server, under four savers (`make bench-floor`).

    python -m bench.floor [--seconds 3] [--tasks 1 32]

What a server takes on top of this is the server's. `fenced` is Holdfast's saver, with the pool that Holdfast has.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid4

import psycopg
import uvloop
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.pregel import Pregel

from bench import machine
from bench.cluster import Postgres
from bench.peers import PLACE
from bench.project.graphs import agent
from bench.site import conversation
from holdfast.db.checkpoints import Fence, FencedSaver
from holdfast.db.migrate import migrate
from holdfast.db.pool import Database
from holdfast.settings import load_settings

TOKEN = 1
"""The fencing token of all threads."""
ROWS = """
INSERT INTO holdfast.threads (thread_id, owner, edit_token, created_at, updated_at, state_updated_at)
SELECT unnest(%s::uuid[]), 'local', %s, now(), now(), now()"""
MOST_RUNS = 4000

Graph = Pregel[Any, Any, Any, Any]
GraphOf = Callable[[UUID], Graph]
"""The graph for a thread."""


@dataclass(frozen=True)
class Measured:
    """What some seconds of runs gave."""

    runs: int
    events: int
    seconds: float
    cpu_ms: float
    postgres_cpu_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--tasks", nargs="+", type=int, default=[1, 32])
    asked = parser.parse_args()
    PLACE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PLACE, prefix="floor-") as scratch:
        Path(scratch).chmod(0o755)
        with Postgres.embedded(Path(scratch)) as postgres:
            uvloop.run(_measure(postgres, asked.seconds, asked.tasks))


async def _measure(postgres: Postgres, seconds: float, tasks: list[int]) -> None:
    print("| saver | tasks | how | runs/s | events/s | CPU ms a run | Postgres CPU ms a run |\n" + "|---" * 7 + "|")
    threads = [uuid4() for _ in range(2 * len(tasks) * MOST_RUNS)]
    savers: dict[str, AbstractAsyncContextManager[GraphOf]] = {
        "none": _none(),
        "memory": _memory(),
        "stock Postgres": _stock(postgres.fresh_database("floor_stock")),
        "fenced": _fenced(postgres.fresh_database("floor_fenced"), threads),
    }
    for name, opened in savers.items():
        async with opened as graph_of:
            left = list(threads)
            for count in tasks:
                for how, run in (("ainvoke", _invoked), ("astream", _streamed)):
                    await _runs(postgres, graph_of, run, left, count, 0.0)
                    found = await _runs(postgres, graph_of, run, left, count, seconds)
                    rates = f"{found.runs / found.seconds:.0f} | {found.events / found.seconds:,.0f}"
                    print(f"| {name} | {count} | {how} | {rates} | {found.cpu_ms:.1f} | {found.postgres_cpu_ms:.1f} |")


async def _runs(
    postgres: Postgres,
    graph_of: GraphOf,
    run: Callable[[Graph, RunnableConfig], Any],
    threads: list[UUID],
    tasks: int,
    seconds: float,
) -> Measured:
    """Some tasks that run one thread after the other."""
    counts: list[int] = []
    assert postgres.pid is not None
    cpu, database_cpu = time.process_time(), machine.cpu_seconds(postgres.pid)
    began = time.perf_counter()

    async def task() -> None:
        while not counts or time.perf_counter() - began < seconds:
            thread = threads.pop()
            counts.append(await run(graph_of(thread), {"configurable": {"thread_id": str(thread)}}))

    await asyncio.gather(*(task() for _ in range(tasks)))
    taken = time.perf_counter() - began
    database_cpu = machine.cpu_seconds(postgres.pid) - database_cpu
    cost = 1000 * (time.process_time() - cpu) / len(counts)
    return Measured(len(counts), sum(counts), taken, cost, 1000 * database_cpu / len(counts))


async def _invoked(graph: Graph, config: RunnableConfig) -> int:
    await graph.ainvoke(conversation()["input"], config, durability=_durability(graph))
    return 0


async def _streamed(graph: Graph, config: RunnableConfig) -> int:
    stream = graph.astream(conversation()["input"], config, stream_mode="messages", durability=_durability(graph))
    return len([chunk async for chunk in stream])


def _saving(saver: BaseCheckpointSaver[str] | None) -> Graph:
    graph = copy.copy(agent)
    graph.checkpointer = saver
    return graph


def _durability(graph: Graph) -> Literal["sync"] | None:
    """Holdfast's default, where anything is saved at all."""
    return "sync" if graph.checkpointer else None


@asynccontextmanager
async def _none() -> AsyncIterator[GraphOf]:
    shared = _saving(None)
    yield lambda _: shared


@asynccontextmanager
async def _memory() -> AsyncIterator[GraphOf]:
    shared = _saving(InMemorySaver())
    yield lambda _: shared


@asynccontextmanager
async def _stock(url: str) -> AsyncIterator[GraphOf]:
    async with AsyncPostgresSaver.from_conn_string(url) as saver:
        await saver.setup()
        shared = _saving(saver)
        yield lambda _: shared


@asynccontextmanager
async def _fenced(url: str, threads: list[UUID]) -> AsyncIterator[GraphOf]:
    """A copy of the graph for each run, as the server makes it.

    The fence is that of a state update, which needs a thread only; a run's costs the same.
    """
    await migrate(url)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(ROWS, [threads, TOKEN])
    database = Database(url, size=load_settings().pool_size)
    await database.open()
    try:
        yield lambda thread: _saving(FencedSaver(database, Fence("edit", thread, TOKEN)))
    finally:
        await database.close()


if __name__ == "__main__":
    main()
