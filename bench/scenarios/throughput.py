"""Runs one after the other by a number of clients, each on a thread without history: what `wait` and `stream` share."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from bench.client import Connection
from bench.figures import Figures, latencies
from bench.scenarios.scenario import Case, Scenario
from bench.site import Site, loop
from bench.stage import Options

FIRST_GUESS = 40.0
"""Runs per second, before a server has shown what it can do."""
RESERVE = 1.5
WARM_UP = 4


class Throughput(Scenario):
    def cases(self, options: Options) -> Sequence[Case]:
        return [self.case(clients, options) for clients in options.clients]

    def case(self, clients: int, options: Options) -> Case:
        name = f"{clients} client{'s' if clients > 1 else ''}"
        return Case(name, {"clients": clients, "seconds": options.seconds})

    async def prepare(self, site: Site, terms: dict[str, Any]) -> list[str]:
        """Threads for a window, as many as the last one would have needed and half as many more; and a few runs."""
        rate = site.rates.get(self._key(terms), FIRST_GUESS)
        threads = await site.threads(terms["clients"] + int(RESERVE * rate * terms["seconds"]))
        await site.each(terms["clients"], await site.threads(min(WARM_UP, terms["clients"])), self._warmed)
        return threads

    async def _warmed(self, connection: Connection, thread: str) -> None:
        await self.run(connection, thread, [])

    async def play(self, site: Site, terms: dict[str, Any], prepared: list[str]) -> Figures:
        taken: list[float] = []
        done: list[Any] = []

        async def timed(connection: Connection, thread: str) -> None:
            began = time.perf_counter()
            await self.run(connection, thread, done)
            taken.append(time.perf_counter() - began)

        seconds = await loop(site, terms["clients"], terms["seconds"], prepared, timed)
        site.rates[self._key(terms)] = len(taken) / seconds
        return {"runs": len(taken), "seconds": seconds} | latencies(taken) | self.figures(done, seconds)

    def _key(self, terms: dict[str, Any]) -> str:
        return f"{self.name} {terms['clients']}"

    @abstractmethod
    async def run(self, connection: Connection, thread: str, done: list[Any]) -> None:
        """One run to its end; what is to be remembered of it goes into `done`."""

    def figures(self, done: list[Any], seconds: float) -> Figures:
        """What the runs that are `done` add."""
        return {}
