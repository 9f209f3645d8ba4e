"""Where scenarios are played: the servers, of which one is awake at a time, the client, and what is counted."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine, servers
from bench.cluster import Postgres
from bench.figures import Figures, Window
from bench.ledger import Ledger
from bench.load import Failed, Load
from bench.peers import PLACE, Unavailable
from bench.servers import Server

WAKING_SECONDS = 0.7
"""What a server that was stopped gets to catch up: its timers are all due at once."""


@dataclass(frozen=True)
class Options:
    """What the command line narrows.

    `seconds` is the length of a window, `soak_seconds` that of the scenario `soak`; `full` adds what takes long; with
    `everywhere` every server plays what it can.
    """

    servers: tuple[str, ...]
    seconds: float
    windows: int
    clients: tuple[int, ...]
    full: bool
    everywhere: bool
    soak_seconds: float


class Stage:
    """Open from the first scenario to the last."""

    def __init__(self, options: Options, postgres: Postgres, place: Path, stack: ExitStack) -> None:
        self.options = options
        self.postgres = postgres
        self.place = place
        self.ledger = Ledger(postgres.url)
        self.load = Load()
        self.skipped: dict[str, str] = {}
        self._servers: dict[str, Server] = {}
        stack.callback(self.ledger.close)
        stack.callback(self.load.close)
        stack.callback(self._stop)

    def names(self, possible: Sequence[str]) -> list[str]:
        """Which of these servers are asked for and can be had; those start here, for all scenarios to come."""
        for name in [name for name in possible if name in self.options.servers and name not in self._servers]:
            if name in self.skipped:
                continue
            try:
                server = self._made(name, name)
                server.start()
            except Unavailable as reason:
                self.skip(name, str(reason))
            else:
                self._servers[name] = server
                server.freeze()
        return [name for name in possible if name in self._servers and name in self.options.servers]

    def _stop(self) -> None:
        for server in self._servers.values():
            server.stop()

    def is_used(self, name: str) -> bool:
        return name in self._servers

    def skip(self, name: str, reason: str) -> None:
        self.skipped[name] = reason
        print(f"skipped: {reason}", flush=True)

    def _made(self, name: str, label: str, *, embedded: bool = False) -> Server:
        alone = embedded or name in servers.WITHOUT_DATABASE
        database = None if alone else self.postgres.fresh_database(f"bench_{label}")
        return servers.server(name, self.place / label, database)

    @contextmanager
    def awake(self, name: str) -> Iterator[Server]:
        """A server's turn; all others are stopped."""
        server = self._servers[name]
        server.thaw()
        time.sleep(WAKING_SECONDS)
        try:
            yield server
        finally:
            server.freeze()

    @contextmanager
    def fresh(self, name: str, label: str, *, embedded: bool = False) -> Iterator[Server]:
        """A server beside the others, on a database of its own, not started yet; gone afterwards."""
        server = self._made(name, label, embedded=embedded)
        try:
            yield server
        finally:
            server.stop()

    def window(self, scenario: str, case: str, server: Server, terms: dict[str, Any]) -> Window | None:
        """Let the client play once, and count; None if that failed, which is said.

        The client's figures have to say `runs` and `seconds`.
        """
        noise = [machine.noise(self.place)]
        try:
            self.load.prepare(scenario, server.url, terms)
            figures = self._counted(server)
        except Failed as failed:
            print(f"{scenario}, {case}, {server.name}: {failed}", flush=True)
            return None
        noise.append(machine.noise(self.place))
        return Window(scenario, case, server.name, figures, noise)

    def _counted(self, server: Server) -> Figures:
        """The client's figures, and what the play cost each run."""
        processes = {"server": server.pid, "client": self.load.pid}
        if server.database and self.postgres.pid:
            processes["postgres"] = self.postgres.pid
        counts = self.ledger.read(server.database) if server.database else None
        cpu = {name: machine.cpu_seconds(pid) for name, pid in processes.items()}
        played = self.load.play()
        used = {name: machine.cpu_seconds(pid) - cpu[name] for name, pid in processes.items()}
        runs, seconds = played["runs"], played["seconds"]
        figures = {"rate": runs / seconds} | played
        figures |= {f"{name}_cpu_ms": 1000 * spent / runs for name, spent in used.items()}
        figures["server_cpu_percent"] = 100 * used["server"] / seconds
        if counts and server.database:
            figures |= self.ledger.read(server.database).since(counts, runs=runs)
            del figures["transactions"]  # they are reported late: see the scenario `cost`
        return figures | {"rss_mb": machine.rss_mb(server.pid)}


@contextmanager
def stage(options: Options, database_url: str | None) -> Iterator[Stage]:
    """Everything that a benchmark needs, in a directory of its own under `.bench`."""
    PLACE.mkdir(exist_ok=True)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=PLACE, prefix="run-")))
        place.chmod(0o755)  # Postgres runs as somebody else where we are root
        if database_url:
            postgres = Postgres(database_url, None)
        else:
            postgres = stack.enter_context(Postgres.embedded(place / "cluster"))
        yield Stage(options, postgres, place, stack)
