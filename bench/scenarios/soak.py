"""Hours in twenty minutes: mixed load at a moderate rate, and what the process's memory does meanwhile.

Clients who wait, who stream and who leave their runs to the background, each on a conversation of some turns and then
on the next, at a pace that leaves the process time to spare. Its memory has to level off: the slope is that of a
straight line through what came after the first two minutes.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from bench import machine
from bench.client import Connection
from bench.figures import Figures, Window, latencies
from bench.scenarios.scenario import Case, Scenario
from bench.scenarios.wait import waited
from bench.site import Site, conversation, streamed
from bench.stage import Options, Stage

CLIENTS_OF_A_KIND = 4
PACE_SECONDS = 1.0
"""A client begins a turn this often: twelve runs a second in all."""
TURNS = 10
SAMPLE_SECONDS = 2.0
SETTLED_SECONDS = 120.0

Turn = Callable[[Connection, str], Awaitable[None]]


class Soak(Scenario):
    name = "soak"
    about = (
        "Twelve runs a second, waited for, streamed and in the background: the memory of the process that serves them"
    )
    servers = ("holdfast",)
    takes_minutes = True
    shown = ("runs", "p99_ms", "rss_start_mb", "rss_settled_mb", "rss_end_mb", "rss_max_mb", "slope_per_h_mb")

    def cases(self, options: Options) -> Sequence[Case]:
        seconds = options.soak_seconds
        return [Case(f"{seconds / 60:.0f} minutes", {"seconds": seconds, "settled": min(SETTLED_SECONDS, seconds / 2)})]

    def windows(self, stage: Stage) -> Iterator[Window]:
        """On a server of its own, which has done nothing yet."""
        for case in self.cases(stage.options):
            for name in self.playing(stage, case):
                with stage.fresh(name, f"soak_{name}") as server:
                    server.start()
                    with Memory(server.pid) as memory:
                        window = stage.window(self.name, case.name, server, case.terms)
                if window is not None:
                    window.figures.update(memory.figures(case.terms["settled"]))
                    yield window

    async def play(self, site: Site, terms: dict[str, Any], prepared: None) -> Figures:
        taken: list[float] = []
        began = time.perf_counter()
        end = began + terms["seconds"]
        kinds = CLIENTS_OF_A_KIND * (waited, _streamed, _left)
        await asyncio.gather(
            *(
                _talked(site, turn, began + PACE_SECONDS * place / len(kinds), end, taken)
                for place, turn in enumerate(kinds)
            )
        )
        return {"runs": len(taken), "seconds": time.perf_counter() - began} | latencies(taken)


class Memory:
    """Looks at a process's resident memory while the block lasts."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._samples: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory")

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def figures(self, settled: float) -> Figures:
        """Memory at the start, after so many seconds and at the end; its slope from there on."""
        times, sizes = zip(*self._samples, strict=True)
        late = [place for place, at in enumerate(times) if at >= times[0] + settled]
        line = statistics.linear_regression([times[place] for place in late], [sizes[place] for place in late])
        return {
            "rss_start_mb": sizes[0],
            "rss_settled_mb": sizes[late[0]],
            "rss_end_mb": sizes[-1],
            "rss_max_mb": max(sizes),
            "slope_per_h_mb": 3600 * line.slope,
        }

    def _look(self) -> None:
        while True:
            self._samples.append((time.monotonic(), machine.own_rss_mb(self._pid)))
            if self._over.wait(SAMPLE_SECONDS):
                return


async def _talked(site: Site, turn: Turn, due: float, end: float, taken: list[float]) -> None:
    """Turns of one client, one when it is due and the last is over, until the end."""
    async with site.connection() as connection:
        while due < end:
            thread = (await connection.ask("POST", "/threads", {})).json()["thread_id"]
            for _ in range(TURNS):
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                began = time.perf_counter()
                await turn(connection, thread)
                taken.append(time.perf_counter() - began)
                due += PACE_SECONDS
                if due >= end:
                    break


async def _streamed(connection: Connection, thread: str) -> None:
    await connection.follow("POST", f"/threads/{thread}/runs/stream", streamed())


async def _left(connection: Connection, thread: str) -> None:
    answer = await connection.ask("POST", f"/threads/{thread}/runs", conversation())
    await connection.ask("GET", f"/threads/{thread}/runs/{answer.json()['run_id']}/join")
