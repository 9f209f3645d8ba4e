"""Coming back to a resumable stream: from its start, and from the middle of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from bench.client import Connection, Events, Refused
from bench.figures import Figures, latencies
from bench.scenarios.scenario import Case, Scenario
from bench.site import Site, loop, streamed
from bench.stage import Options

CLIENTS = 8
RUNS = 8
TIMES = 400


class Rejoin(Scenario):
    name = "rejoin"
    about = "Resumable streams of 200 tokens that have ended, read again by eight clients; costs are for one reading"
    servers = ("holdfast",)
    shown = ("rate", "p50_ms", "p99_ms", "events", "events_per_s", "server_cpu_ms", "postgres_cpu_ms", "statements")

    def cases(self, options: Options) -> Sequence[Case]:
        terms = {"seconds": options.seconds}
        return [
            Case("from the start", {**terms, "middle": False}),
            Case("from the middle", {**terms, "middle": True}),
        ]

    async def prepare(self, site: Site, terms: dict[str, Any]) -> list[tuple[str, str]]:
        """Paths of ended runs' streams, and the id of the event after which each is to be read."""
        paths: list[tuple[str, str]] = []

        async def run(connection: Connection, thread: str) -> None:
            body = streamed(stream_resumable=True)
            path = f"/threads/{thread}/runs/stream"
            events, headers = await connection.follow("POST", path, body, events=Events(keep_ids=True))
            last = events.ids[len(events.ids) // 2] if terms["middle"] else "-1"
            paths.append((f"{headers['content-location']}/stream", last))

        await site.each(CLIENTS, await site.threads(RUNS), run)
        return paths

    async def play(self, site: Site, terms: dict[str, Any], prepared: list[tuple[str, str]]) -> Figures:
        taken: list[float] = []
        counts: list[int] = []

        async def read(connection: Connection, stream: tuple[str, str]) -> None:
            began = time.perf_counter()
            events, _ = await connection.follow("GET", stream[0], last_event_id=stream[1])
            taken.append(time.perf_counter() - began)
            if not events.messages:
                raise Refused("a stream without messages")
            counts.append(events.count)

        seconds = await loop(site, CLIENTS, terms["seconds"], prepared * TIMES, read)
        figures = {"runs": len(taken), "seconds": seconds, "events_per_s": sum(counts) / seconds}
        return figures | {"events": sum(counts) / len(counts)} | latencies(taken)
