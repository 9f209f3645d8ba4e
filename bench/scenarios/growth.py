"""One conversation, turn after turn: what the last turns take against the first, and what the database keeps of each.

A turn appends a question of 1 kB and an answer of 200 tokens. `list` keeps its messages with add_messages, which every
checkpoint stores anew; by element it is the same graph, where the project says `checkpointer.storage`; `delta` keeps
them in a DeltaChannel.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from secrets import token_urlsafe
from typing import Any

from bench.figures import Figures, Window
from bench.ledger import live_bytes
from bench.scenarios.scenario import OURS, Case, Scenario
from bench.site import Site, streamed
from bench.stage import Options, Stage

QUESTION_BYTES = 1024
EDGE = 10
"""So many turns are the first ones, and the last ones."""
WARM_UP = 5
VALUES = ("public.checkpoint_blobs", "holdfast.elements")
"""Where Holdfast keeps channel values."""


class Growth(Scenario):
    name = "growth"
    about = "One conversation: late turns against early ones (medians of ten), and what is kept of it"
    servers = OURS
    shown = ("first_ms", "last_ms", "last_to_first", "kept_mb", "values_mb", "kept_kb_per_turn", "late_kb_per_turn")
    repeats = False

    def cases(self, options: Options) -> Sequence[Case]:
        linear = {"delta": "delta", "list by element": "elements"}
        many = [(f"2,000 turns, {name}", graph, 2000) for name, graph in linear.items()] if options.full else []
        few = [(f"200 turns, {name}", graph, 200) for name, graph in linear.items()]
        return [
            Case("200 turns, list", {"graph": "agent", "turns": 200}),
            *(Case(name, {"graph": graph, "turns": turns}, ("holdfast",)) for name, graph, turns in [*few, *many]),
        ]

    def windows(self, stage: Stage) -> Iterator[Window]:
        """The conversation is played in quarters, so that what the last one added is known."""
        for case in self.cases(stage.options):
            for name in self.playing(stage, case):
                with stage.awake(name) as server:
                    sizes = [live_bytes(str(server.database))]
                    quarters = []
                    terms = {
                        **case.terms,
                        "turns": case.terms["turns"] // 4,
                        "conversation": f"{case.name} {time.time()}",
                    }
                    for _ in range(4):
                        window = stage.window(self.name, case.name, server, terms)
                        if window is None:
                            break
                        quarters.append(window)
                        sizes.append(live_bytes(str(server.database)))
                if len(quarters) == 4:
                    yield _summed(quarters, sizes, case.terms["turns"])

    async def prepare(self, site: Site, terms: dict[str, Any]) -> str:
        if terms["conversation"] not in site.conversations:
            site.conversations[terms["conversation"]] = (await site.threads(1))[0]
        return site.conversations[terms["conversation"]]

    async def play(self, site: Site, terms: dict[str, Any], prepared: str) -> Figures:
        taken = []
        began = time.perf_counter()
        async with site.connection() as connection:
            for _ in range(terms["turns"]):
                turn = time.perf_counter()
                body = streamed(_question(), graph=terms["graph"])
                await connection.follow("POST", f"/threads/{prepared}/runs/stream", body)
                taken.append(time.perf_counter() - turn)
        first, last = taken[WARM_UP : WARM_UP + EDGE], taken[-EDGE:]
        return {
            "runs": len(taken),
            "seconds": time.perf_counter() - began,
            "first_ms": 1000 * statistics.median(first),
            "last_ms": 1000 * statistics.median(last),
        }


def _question() -> str:
    """Words that cannot be compressed away."""
    return token_urlsafe(QUESTION_BYTES)[:QUESTION_BYTES]


def _summed(quarters: list[Window], sizes: list[dict[str, int]], turns: int) -> Window:
    first, last = quarters[0].figures["first_ms"], quarters[-1].figures["last_ms"]
    totals = [sum(size.values()) for size in sizes]
    tables = {
        f"{table}_kb": (size - sizes[0].get(table, 0)) / 1024
        for table, size in sizes[-1].items()
        if size != sizes[0].get(table, 0)
    }
    figures = {
        "first_ms": first,
        "last_ms": last,
        "last_to_first": last / first,
        "kept_mb": (totals[-1] - totals[0]) / 2**20,
        "values_mb": sum(tables.get(f"{table}_kb", 0.0) for table in VALUES) / 1024,
        "kept_kb_per_turn": (totals[-1] - totals[0]) / 1024 / turns,
        "late_kb_per_turn": (totals[-1] - totals[-2]) / 1024 / (turns // 4),
        "rss_mb": quarters[-1].figures["rss_mb"],
    }
    final = quarters[-1]
    noise = [reading for quarter in quarters for reading in quarter.noise]
    return Window(final.scenario, final.case, final.server, figures | tables, noise)
