"""What an episode runs on: a Postgres that can be killed, a proxy before it, the processes of Holdfast, their doors.

    clients -> processes -> [PgBouncer] -> proxy -> Postgres (unix socket)

Every process is supervised, as in production: one that ended without being told to is started again.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.db.cluster import PidFile
from holdfast.db.embedded import EmbeddedPostgres
from tests.db.pgbouncer import binary, pgbouncer
from tests.durability.chaos.observations import read
from tests.durability.chaos.schedule import HOLDER, Episode, Shape
from tests.durability.walk import PROJECT
from tests.support.postgres import Cluster
from tests.support.proxy import Proxy
from tests.support.server import Server

UP_SECONDS = 180.0
AGAIN_SECONDS = 0.3
HOLDER_SECONDS = 10.0
"""How long a fault waits for a process that executes something."""
LOOKS_EVERY = 0.05
PORTS = (20_000, 32_000)


class Postgres:
    """One cluster for all episodes. A context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._embedded = EmbeddedPostgres(directory)
        self.cluster = Cluster("")

    def __enter__(self) -> Postgres:
        self.cluster = Cluster(self._embedded.start_sync())
        return self

    def __exit__(self, *_: object) -> None:
        self._embedded.stop_sync()

    def die(self) -> None:
        """Stop as `pg_ctl -m immediate` does: no checkpoint, every connection cut."""
        found = PidFile.read(self._directory / "postgres")
        if found is not None:
            with suppress(ProcessLookupError):
                os.kill(found.pid, signal.SIGQUIT)

    def rise(self) -> None:
        """Start again, through recovery; nothing if it is up."""
        self._embedded.start_sync()


class Process:
    """One process of Holdfast; what is done to it is done one after the other."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.busy = asyncio.Lock()
        self.unasked = 0
        """How often it ended, or did not come up, without being told to."""

    def up(self) -> None:
        """Have it run and ready, however often that takes."""
        deadline = time.monotonic() + UP_SECONDS
        while not self.server.is_up:
            try:
                self.server.start()
            except AssertionError:
                self.unasked += 1
                if self.server.is_up:
                    self.server.kill()
                if time.monotonic() > deadline:
                    raise
                time.sleep(AGAIN_SECONDS)


@dataclass
class Site:
    """Everything that a fault can be done to."""

    postgres: Postgres
    proxy: Proxy
    processes: list[Process]
    database_url: str
    effects: Path
    without: list[str] = field(default_factory=list)
    """What of the shape this machine does not have."""

    @property
    def doors(self) -> list[str]:
        return [process.server.url for process in self.processes if process.server.part != "worker"]

    async def process(self, target: int) -> Process:
        """The process that a fault means; for HOLDER, the first that is seen to execute something, or the last one."""
        if target != HOLDER:
            return self.processes[target]
        until = time.monotonic() + HOLDER_SECONDS
        while time.monotonic() < until:
            if holding := self._holding():
                return holding[-1]
            await asyncio.sleep(LOOKS_EVERY)
        return self.processes[-1]

    def _holding(self) -> list[Process]:
        started: dict[str, int] = {}
        for line in read(self.effects):
            if line["event"] == "started":
                started[line["execution"]] = line["pid"]
            elif line["event"] == "finished":
                started.pop(line["execution"], None)
        up = {process.server.pid: process for process in self.processes if process.server.is_up}
        return [up[pid] for pid in started.values() if pid in up]

    async def supervise(self) -> None:
        """Start again what ended by itself, for ever."""
        while True:
            for process in self.processes:
                if not process.busy.locked() and not process.server.is_up:
                    process.unasked += 1
                    async with process.busy:
                        await asyncio.to_thread(process.up)
            await asyncio.sleep(AGAIN_SECONDS)


@contextmanager
def site(episode: Episode, postgres: Postgres, directory: Path) -> Iterator[Site]:
    """The shape of an episode, up and ready; all gone afterwards."""
    shape = episode.shape
    with ExitStack() as stack:
        url = stack.enter_context(postgres.cluster.database())
        stack.callback(postgres.rise)
        proxy = stack.enter_context(Proxy(url))
        without = ["PgBouncer"] if shape.link == "pgbouncer" and binary() is None else []
        pooled = shape.link == "pgbouncer" and not without
        seen = stack.enter_context(pgbouncer(proxy.url)) if pooled else proxy.url
        effects = directory / "effects.jsonl"
        processes = [Process(_server(episode, number, seen, effects)) for number in range(len(shape.parts))]
        for process in processes:
            stack.callback(process.server.__exit__)
        with ThreadPoolExecutor() as pool:
            list(pool.map(Process.up, processes))
        place = Site(postgres, proxy, processes, url, effects, without)
        stack.callback(proxy.heal)
        stack.callback(_wake, processes)
        yield place


def _server(episode: Episode, number: int, database_url: str, effects: Path) -> Server:
    shape: Shape = episode.shape
    planted = [episode.planted] if episode.planted else []
    planted += ["fast-clock"] if shape.skewed == number else []
    return Server(
        part=shape.parts[number],
        config=PROJECT,
        port=_port(),
        database_url=database_url,
        planted=",".join(planted),
        EFFECT_LOG=str(effects),
        **dict(shape.settings),
    )


def _port() -> int:
    """A port that outgoing connections are not given: it is to be free again whenever its process comes back."""
    while True:
        port = random.SystemRandom().randrange(*PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _wake(processes: list[Process]) -> None:
    for process in processes:
        if process.server.is_up:
            process.server.signal(signal.SIGCONT)
