"""Time to the first event and to the first message, on a server that has nothing else to do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from bench.client import Connection, Events
from bench.figures import Figures, latencies
from bench.scenarios.scenario import Case
from bench.scenarios.stream import Stream
from bench.site import streamed
from bench.stage import Options

PAUSE_SECONDS = 0.1
FEW_TOKENS = 5


class First(Stream):
    """One client, and a pause before each run."""

    name = "first"
    with_peers = False
    about = "What an idle server takes to its first event, and to the model's first message"
    shown = ("first_event_p50_ms", "first_message_p50_ms", "first_message_p99_ms")

    def cases(self, options: Options) -> Sequence[Case]:
        return [self.case(1, options)]

    async def run(self, connection: Connection, thread: str, done: list[Any]) -> None:
        await asyncio.sleep(PAUSE_SECONDS)
        body = streamed(tokens=FEW_TOKENS)
        events, _ = await connection.follow("POST", f"/threads/{thread}/runs/stream", body)
        done.append(events)

    def figures(self, done: list[Events], seconds: float) -> Figures:
        first = latencies((events.first or 0.0 for events in done), "first_event_")
        return first | latencies((events.first_message or 0.0 for events in done), "first_message_")
