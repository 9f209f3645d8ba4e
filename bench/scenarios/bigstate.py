"""A state of 1 MB: turns that leave it as it is, turns that write it anew, and reading it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from bench.client import Connection
from bench.figures import Figures, latencies
from bench.scenarios.scenario import COSTS, Case, Scenario
from bench.site import Site
from bench.stage import Options

SIZE_BYTES = 1_000_000
TIMES = 10


class BigState(Scenario):
    name = "bigstate"
    about = "Runs on a thread whose state is 1 MB, which every answer carries; costs are for one"
    servers = ("holdfast", "handrolled")
    shown = ("p50_ms", "p99_ms", *COSTS)

    def cases(self, options: Options) -> Sequence[Case]:
        return [
            Case("the run leaves it", {"what": "keep"}),
            Case("the run writes it", {"what": "write"}),
            Case("GET /state", {"what": "read"}, ("holdfast",)),
        ]

    async def prepare(self, site: Site, terms: dict[str, Any]) -> str:
        thread = (await site.threads(1))[0]
        async with site.connection() as connection:
            await _sized(connection, thread, SIZE_BYTES)
        return thread

    async def play(self, site: Site, terms: dict[str, Any], prepared: str) -> Figures:
        taken = []
        began = time.perf_counter()
        async with site.connection() as connection:
            for number in range(TIMES):
                asked = time.perf_counter()
                if terms["what"] == "read":
                    await connection.ask("GET", f"/threads/{prepared}/state")
                else:
                    await _sized(connection, prepared, SIZE_BYTES + (number % 2 if terms["what"] == "write" else 0))
                taken.append(time.perf_counter() - asked)
        return {"runs": TIMES, "seconds": time.perf_counter() - began} | latencies(taken)


async def _sized(connection: Connection, thread: str, size: int) -> None:
    body = {"assistant_id": "state", "input": {"size": size}}
    await connection.ask("POST", f"/threads/{thread}/runs/wait", body)
