"""`POST /threads/{id}/runs/wait`: agent, tools, agent; three supersteps, five checkpoints, an answer of 200 tokens."""

from __future__ import annotations

from typing import Any

from bench.client import Connection, Refused
from bench.scenarios.scenario import COSTS
from bench.scenarios.throughput import Throughput
from bench.site import conversation

LAST_WORD = b"done."


class Wait(Throughput):
    name = "wait"
    with_peers = True
    about = "Runs whose result is waited for; costs are for one run"
    shown: tuple[str, ...] = ("rate", "p50_ms", "p99_ms", *COSTS)

    async def run(self, connection: Connection, thread: str, done: list[Any]) -> None:
        await waited(connection, thread)


async def waited(connection: Connection, thread: str) -> None:
    """One run; its result has to come."""
    answer = await connection.ask("POST", f"/threads/{thread}/runs/wait", conversation())
    if LAST_WORD not in answer.body:
        raise Refused(f"a run without its result: {answer.body[:300].decode(errors='replace')}")
