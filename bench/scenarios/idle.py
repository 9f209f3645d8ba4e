"""Streams on which nothing happens: what they cost while they are open."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from bench.client import Connection, Events
from bench.figures import Figures
from bench.scenarios.scenario import Case, Scenario
from bench.site import Site
from bench.stage import Options

STREAMS = 200
SECONDS = 10.0
OPENING_SECONDS = 2.0


class Idle(Scenario):
    name = "idle"
    about = "Thread streams that are open while nothing happens; costs are for these ten seconds"
    servers = ("holdfast", "official")
    shown = ("streams", "server_cpu_percent", "rss_mb", "heartbeats", "statements")
    repeats = False

    def cases(self, options: Options) -> Sequence[Case]:
        return [Case("no stream", {"streams": 0}), Case(f"{STREAMS} streams", {"streams": STREAMS})]

    async def prepare(self, site: Site, terms: dict[str, Any]) -> tuple[list[asyncio.Task[None]], list[Events]]:
        seen = [Events() for _ in range(terms["streams"])]
        threads = await site.threads(len(seen))
        opened = [asyncio.create_task(_read(site, *each)) for each in zip(threads, seen, strict=True)]
        await asyncio.sleep(OPENING_SECONDS)
        return opened, seen

    async def play(self, site: Site, terms: dict[str, Any], prepared: Any) -> Figures:
        opened, seen = prepared
        await asyncio.sleep(SECONDS)
        lost = sum(task.done() for task in opened)
        for task in opened:
            task.cancel()
        await asyncio.gather(*opened, return_exceptions=True)
        heartbeats = sum(events.heartbeats for events in seen)
        return {"runs": 1, "seconds": SECONDS, "streams": len(seen) - lost, "heartbeats": heartbeats}


async def _read(site: Site, thread: str, events: Events) -> None:
    connection = Connection(site.url)
    with suppress(asyncio.CancelledError):
        await connection.follow("GET", f"/threads/{thread}/stream", events=events)
