"""`wait` with one process of Holdfast and with two on the same machine, which Postgres and the client share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from bench.figures import Window
from bench.scenarios.scenario import COSTS, Case
from bench.scenarios.wait import Wait
from bench.servers import TWO_PROCESSES
from bench.stage import Options, Stage

CLIENTS = 32


class Processes(Wait):
    name = "processes"
    with_peers = False
    about = "Runs whose result is waited for, by one process and by two; `to one` is a window against the one before it"
    servers = ("holdfast", TWO_PROCESSES)
    shown = ("rate", "to_one", "p50_ms", "p99_ms", "server_cpu_percent", *COSTS)

    def cases(self, options: Options) -> Sequence[Case]:
        return [replace(self.case(CLIENTS, options), servers=self.servers)]

    def windows(self, stage: Stage) -> Iterator[Window]:
        one = 0.0
        for window in super().windows(stage):
            if window.server != TWO_PROCESSES:
                one = window.figures["rate"]
            elif one:
                window.figures["to_one"] = window.figures["rate"] / one
            yield window
