"""`POST /threads/{id}/runs/stream`: the same runs, their 200 tokens streamed as fast as the server can."""

from __future__ import annotations

from typing import Any

from bench.client import Connection, Events, Refused
from bench.figures import Figures, share
from bench.scenarios.scenario import COSTS
from bench.scenarios.throughput import Throughput
from bench.site import streamed

TOKENS = 200


class Stream(Throughput):
    name = "stream"
    with_peers = True
    about = "Runs that stream 200 tokens without a pause; costs are for one run"
    shown: tuple[str, ...] = ("events_per_s", "rate", "p50_ms", "p99_ms", "first_message_p50_ms", *COSTS)
    pace = 0.0

    async def run(self, connection: Connection, thread: str, done: list[Any]) -> None:
        body = streamed(tokens=TOKENS, pace=self.pace)
        events, _ = await connection.follow("POST", f"/threads/{thread}/runs/stream", body)
        if events.messages < TOKENS:
            raise Refused(f"a stream of {events.messages} message events, of {TOKENS} tokens")
        done.append(events)

    def figures(self, done: list[Events], seconds: float) -> Figures:
        return {
            "events_per_s": sum(events.count for events in done) / seconds,
            "kb_per_run": sum(events.size for events in done) / 1024 / len(done),
            "first_message_p50_ms": 1000 * share([events.first_message or 0.0 for events in done], 0.5),
        }
