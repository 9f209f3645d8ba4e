"""`POST /threads`."""

from __future__ import annotations

from typing import Any

from bench.client import Connection
from bench.scenarios.scenario import COSTS
from bench.scenarios.throughput import Throughput
from bench.site import Site


class Creation(Throughput):
    name = "threads"
    about = "Threads created; costs are for one thread"
    shown = ("rate", "p50_ms", "p99_ms", *COSTS)
    servers = ("holdfast", "official", "aegra")

    async def prepare(self, site: Site, terms: dict[str, Any]) -> list[str]:
        # As many as a window could need: none of these has to exist.
        return [""] * 100_000

    async def run(self, connection: Connection, thread: str, done: list[Any]) -> None:
        await connection.ask("POST", "/threads", {})
