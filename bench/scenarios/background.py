"""500 runs that nobody waits for: all created, then all joined."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from bench.client import Connection
from bench.figures import Figures
from bench.scenarios.scenario import COSTS, Case, Scenario
from bench.site import Site, conversation
from bench.stage import Options

RUNS = 500
CLIENTS = 32


class Background(Scenario):
    name = "background"
    about = "500 background runs, from the first request to the last result; costs are for one run"
    servers = ("holdfast", "official", "aegra")
    shown = ("seconds", "created_s", "rate", *COSTS)
    repeats = False

    def cases(self, options: Options) -> Sequence[Case]:
        return [Case(f"{RUNS} runs", {"count": RUNS})]

    async def prepare(self, site: Site, terms: dict[str, Any]) -> list[str]:
        return await site.threads(terms["count"])

    async def play(self, site: Site, terms: dict[str, Any], prepared: list[str]) -> Figures:
        began = time.perf_counter()
        created = await burst(site, prepared)
        return {"runs": len(prepared), "seconds": time.perf_counter() - began, "created_s": created}


async def burst(site: Site, threads: list[str]) -> float:
    """A background run on each of the threads, all of them to their ends; the seconds until all were created."""
    began = time.perf_counter()
    runs: list[tuple[str, str]] = []

    async def create(connection: Connection, thread: str) -> None:
        answer = await connection.ask("POST", f"/threads/{thread}/runs", conversation())
        runs.append((thread, str(answer.json()["run_id"])))

    async def join(connection: Connection, run: tuple[str, str]) -> None:
        await connection.ask("GET", f"/threads/{run[0]}/runs/{run[1]}/join")

    await site.each(CLIENTS, threads, create)
    created = time.perf_counter() - began
    await site.each(CLIENTS, runs, join)
    return created
