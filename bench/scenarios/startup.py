"""Process start to the first answer, and what the process takes while nobody asks it anything."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from bench import machine
from bench.figures import Figures, Window
from bench.peers import Unavailable
from bench.scenarios.scenario import Case, Scenario
from bench.servers import Server
from bench.site import Site
from bench.stage import Options, Stage

SETTLE_SECONDS = 2.0
IDLE_SECONDS = 10.0


class StartUp(Scenario):
    name = "startup"
    about = "Process start to the first `/ok`, on an empty database and on the same again; then ten idle seconds"
    shown = ("empty_s", "again_s", "idle_rss_mb", "idle_cpu_percent")
    repeats = False

    def cases(self, options: Options) -> Sequence[Case]:
        return [
            Case("with its own Postgres", {"embedded": True}, ("holdfast",)),
            Case("with a given Postgres", {"embedded": False}),
        ]

    def windows(self, stage: Stage) -> Iterator[Window]:
        for case in self.cases(stage.options):
            for name in self.playing(stage, case):
                with stage.fresh(name, f"startup_{name}", embedded=case.terms["embedded"]) as server:
                    noise = [machine.noise(stage.place)]
                    try:
                        figures = _started(server)
                    except Unavailable as reason:
                        stage.skip(name, str(reason))
                        continue
                    noise.append(machine.noise(stage.place))
                yield Window(self.name, case.name, name, figures, noise)

    async def play(self, site: Site, terms: dict[str, Any], prepared: Any) -> Figures:
        """The client has no part in this."""
        return {}


def _started(server: Server) -> Figures:
    empty = server.start()
    server.stop()
    again = server.start()
    time.sleep(SETTLE_SECONDS)
    before = machine.own_cpu_seconds(server.pid)
    time.sleep(IDLE_SECONDS)
    return {
        "empty_s": empty,
        "again_s": again,
        "idle_rss_mb": machine.own_rss_mb(server.pid),
        "idle_cpu_percent": 100 * (machine.own_cpu_seconds(server.pid) - before) / IDLE_SECONDS,
    }
