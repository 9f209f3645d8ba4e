"""Whether a long queue slows what is due: bursts of background runs with nothing else waiting, and behind 10,000 runs.

Those 10,000 wait on a few threads for a run that takes long, so nobody may start them: every claim has to pass over
them. A burst is larger than the server's slots; most of it goes through the queue.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from bench.client import Connection
from bench.figures import Figures, Window
from bench.scenarios.background import burst
from bench.scenarios.scenario import Case, Scenario
from bench.site import Site, conversation
from bench.stage import Options, Stage

QUEUED = 10_000
BLOCKED_THREADS = 4
LONG_SECONDS = 3600.0
BURST = 200
BURSTS = 5
CLIENTS = 16


class Queued(Scenario):
    name = "queued"
    about = "200 background runs with an empty queue, and with 10,000 queued runs before them that may not start yet"
    servers = ("holdfast",)
    takes_minutes = True
    shown = ("empty_ms", "full_ms", "full_to_empty", "filled_s")

    def cases(self, options: Options) -> Sequence[Case]:
        return [Case(f"{QUEUED:,} queued runs", {"queued": QUEUED})]

    def windows(self, stage: Stage) -> Iterator[Window]:
        """On a server of its own: nobody wants to serve the others with this queue."""
        for case in self.cases(stage.options):
            for name in self.playing(stage, case):
                with stage.fresh(name, f"queued_{name}") as server:
                    server.start()
                    window = stage.window(self.name, case.name, server, case.terms)
                if window is not None:
                    yield window

    async def play(self, site: Site, terms: dict[str, Any], prepared: None) -> Figures:
        began = time.perf_counter()
        await _bursts(site, 1)
        empty = await _bursts(site, BURSTS)
        filling = time.perf_counter()
        await _fill(site, terms["queued"])
        filled = time.perf_counter() - filling
        full = await _bursts(site, BURSTS)
        return {
            "runs": 2 * BURSTS * BURST,
            "seconds": time.perf_counter() - began,
            "empty_ms": 1000 * empty,
            "full_ms": 1000 * full,
            "full_to_empty": full / empty,
            "filled_s": filled,
        }


async def _bursts(site: Site, count: int) -> float:
    """The median of some bursts, in seconds."""
    taken = []
    for _ in range(count):
        threads = await site.threads(BURST)
        began = time.perf_counter()
        await burst(site, threads)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


async def _fill(site: Site, count: int) -> None:
    threads = await site.threads(BLOCKED_THREADS)

    async def block(connection: Connection, thread: str) -> None:
        await connection.ask("POST", f"/threads/{thread}/runs", conversation(tokens=1, pace=LONG_SECONDS))

    async def queue(connection: Connection, number: int) -> None:
        thread = threads[number % BLOCKED_THREADS]
        await connection.ask("POST", f"/threads/{thread}/runs", conversation(multitask_strategy="enqueue"))

    await site.each(CLIENTS, threads, block)
    await site.each(CLIENTS, range(count), queue)
