"""What a scenario is: cases, what the client does in each, and which figures the report shows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.figures import Figures, Window
from bench.peers import PEERS
from bench.site import Site
from bench.stage import Options, Stage

OBSERVED = ("holdfast-silent", "holdfast-otlp", "holdfast-langfuse", "holdfast-hole")
"""This tree telling less or more than it does by default; played where they are named."""
EVERY = ("holdfast", *OBSERVED, "handrolled", "official", "aegra")
OURS = ("holdfast", "handrolled")
COSTS = ("server_cpu_ms", "postgres_cpu_ms", "client_cpu_ms", "statements", "commits", "wal_kb", "rss_mb")


LONG_SECONDS = 10.0
"""A window that took so long is long enough by itself: every client finishes at least one run."""


@dataclass(frozen=True)
class Case:
    """One row of the report for each server. `terms` go to the client; `servers` narrows the scenario's."""

    name: str
    terms: dict[str, Any] = field(default_factory=dict)
    servers: tuple[str, ...] = EVERY


class Scenario(ABC):
    """Played once in the harness, which measures, and many times in the client process, which asks."""

    name: str
    about: str
    servers: tuple[str, ...] = EVERY
    shown: tuple[str, ...]
    """The columns of the report; everything else is in the raw figures."""
    repeats: bool = True
    """Whether there are several windows."""

    with_peers: bool = False
    """Whether peers play it where it is not named."""
    takes_minutes: bool = False
    """Played only where it is named, or everything is asked for."""

    @abstractmethod
    def cases(self, options: Options) -> Sequence[Case]:
        """What is measured, in this order."""

    async def prepare(self, site: Site, terms: dict[str, Any]) -> Any:
        """What has to be there; not measured."""
        return None

    @abstractmethod
    async def play(self, site: Site, terms: dict[str, Any], prepared: Any) -> Figures:
        """What is measured; `runs` and `seconds` are among the figures."""

    def playing(self, stage: Stage, case: Case) -> list[str]:
        """The servers of a case."""
        possible = [name for name in self.servers if name in case.servers]
        if not (self.with_peers or stage.options.everywhere):
            possible = [name for name in possible if name not in PEERS]
        return stage.names(possible)

    def windows(self, stage: Stage) -> Iterator[Window]:
        """Case by case the servers take turns, several times, so that a noisy phase of the machine hits all."""
        for case in self.cases(stage.options):
            names = self.playing(stage, case)
            for _ in range(stage.options.windows if self.repeats else 1):
                for name in list(names):
                    with stage.awake(name) as server:
                        window = stage.window(self.name, case.name, server, case.terms)
                    if window is None or window.figures["seconds"] > LONG_SECONDS:
                        names.remove(name)
                    if window is not None:
                        yield window
