"""What a run asks of the database, transactions that only read included.

Sessions report those late, when they have been idle for ten seconds, so this waits; and it watches the idle server
first, whose heartbeats are no part of a run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from bench.figures import Figures, Window
from bench.load import Failed
from bench.scenarios.scenario import Case, Scenario
from bench.scenarios.wait import waited
from bench.servers import Server
from bench.site import Site
from bench.stage import Options, Stage

CLIENTS = 32
RUNS = 320
REPORTED_SECONDS = 11.0


class Cost(Scenario):
    name = "cost"
    about = "What one of 320 `wait` runs by 32 clients asks of the database, less what the idle server asks anyway"
    servers = ("holdfast", "handrolled", "aegra")
    shown = ("statements", "transactions", "commits", "wal_kb")

    def cases(self, options: Options) -> Sequence[Case]:
        return [Case(f"{CLIENTS} clients", {"clients": CLIENTS, "count": RUNS})]

    def windows(self, stage: Stage) -> Iterator[Window]:
        for case in self.cases(stage.options):
            for name in self.playing(stage, case):
                with stage.awake(name) as server:
                    try:
                        yield Window(self.name, case.name, name, self._counted(stage, server, case))
                    except Failed as failed:
                        print(f"{self.name}, {name}: {failed}", flush=True)

    def _counted(self, stage: Stage, server: Server, case: Case) -> Figures:
        database = str(server.database)
        stage.load.prepare(self.name, server.url, case.terms)
        time.sleep(REPORTED_SECONDS)
        before = stage.ledger.read(database)
        time.sleep(REPORTED_SECONDS)
        idle = stage.ledger.read(database)
        played = stage.load.play()
        time.sleep(REPORTED_SECONDS)
        over = stage.ledger.read(database)
        runs, share = played["runs"], 1 + played["seconds"] / REPORTED_SECONDS
        quiet, busy = idle.since(before, runs=runs), over.since(idle, runs=runs)
        return played | {name: busy[name] - share * quiet[name] for name in busy}

    async def prepare(self, site: Site, terms: dict[str, Any]) -> list[str]:
        return await site.threads(terms["count"])

    async def play(self, site: Site, terms: dict[str, Any], prepared: list[str]) -> Figures:
        began = time.perf_counter()
        await site.each(terms["clients"], prepared, waited)
        return {"runs": len(prepared), "seconds": time.perf_counter() - began}
