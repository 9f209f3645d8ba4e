"""`serve` in several processes: this one starts them, watches them, and executes nothing itself.

Theory of operation. The supervisor has what there is once: the embedded Postgres, the migration, the address. Each
process is a whole `serve` on that database (`holdfast sibling`), with a socket of its own at the address, a place on
the board where all see how busy each is, and a tether (`process.py`). A signal to the supervisor goes down the tethers,
and Postgres is stopped when all have gone. A process that dies is started again after a pause that doubles with every
life that was short; what it executed is taken over by the others meanwhile, as any dead worker's runs are. A process
that does not come up ends everything while the server starts; later it is tried again for as long as another serves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from tempfile import TemporaryDirectory

from holdfast.db.migrate import migrate
from holdfast.foundation import laid
from holdfast.process import Tasks, first, shared_door, signals
from holdfast.project import load_project
from holdfast.settings import Settings
from holdfast.telemetry.logs import configure_logging
from holdfast.telemetry.metrics import DIRECTORY, forget
from holdfast.worker import siblings

logger = logging.getLogger(__name__)

# -P: what lies in the working directory is not to be taken for a module of ours.
COMMAND = (sys.executable, "-P", "-m", "holdfast", "sibling")

STEADY_SECONDS = 10.0
"""A life that was longer is followed by no pause."""
PAUSE_SECONDS = 0.1
TRIES = 5
"""So often the pause doubles; and so many short lives are enough when nobody serves."""


async def supervise(settings: Settings, announce: Callable[[str, str, str | None], None]) -> None:
    """Serve in `settings.processes` processes until a signal comes; `announce` as in `app.run`, when all are ready.

    Raises:
        SystemExit: status 1: the processes cannot be had, or did not end as they should.
    """
    project = load_project(settings.config)
    configure_logging(settings, project.environment(), sys.stdout)
    auth = project.sections.auth.path
    settings.check_door(has_custom_auth=auth is not None)
    project.check_sharing(alone=False)
    async with AsyncExitStack() as stack:
        door = stack.enter_context(shared_door(settings))
        failed = asyncio.Event()
        tasks = Tasks(failed)
        url, listen_url = await laid(settings, stack, tasks, lambda: None)
        await migrate(listen_url or url, vector_dims=project.vector_dims)
        board = stack.enter_context(siblings.blank(settings.processes))
        figures = stack.enter_context(TemporaryDirectory(prefix="holdfast-figures-"))
        environment = {**_environment(settings, url, listen_url), DIRECTORY: figures}
        shared = Shared(environment, door.fileno(), board.fileno())
        crew = Crew(shared, settings.processes, failed)
        stop = signals()
        for number in range(settings.processes):
            tasks.start(f"process-{number}", crew.keep(number), may_end=True)
        tasks.start("announcement", _announced(crew, lambda base: announce(base, url, auth)), may_end=True)
        stack.push_async_callback(tasks.stop)
        await first(stop, failed)
        crew.leave()
        tasks.start("further-signals", _passed_on(stop, crew))
        await crew.gone.wait()
        if failed.is_set():
            raise SystemExit(1)


@dataclass(frozen=True, slots=True)
class Shared:
    """What all processes are given: their environment, and the descriptors of the address and of the board."""

    environment: Mapping[str, str]
    door: int
    board: int


class Crew:
    """The processes, by their numbers. `failed` is set when it cannot go on, or when one ends as it should not."""

    def __init__(self, shared: Shared, count: int, failed: asyncio.Event) -> None:
        self.ready = asyncio.Event()
        """All are there, for the first time."""
        self.gone = asyncio.Event()
        """All have ended, for good."""
        self.url = ""
        self._shared = shared
        self._count = count
        self._failed = failed
        self._leaving = asyncio.Event()
        self._kept = count
        self._serving: set[int] = set()
        self._tethers: dict[int, asyncio.StreamWriter] = {}

    async def keep(self, number: int) -> None:
        """Keep one process there, until all shall leave."""
        setbacks = 0
        try:
            while not self._leaving.is_set() and not self._failed.is_set():
                began = time.monotonic()
                problem = await self._life(number)
                setbacks = 0 if time.monotonic() - began > STEADY_SECONDS else min(setbacks + 1, TRIES)
                await self._ended(number, problem, setbacks)
        finally:
            self._kept -= 1
            if self._kept == 0:
                self.gone.set()

    def leave(self) -> None:
        """Tell all to drain and leave."""
        self._leaving.set()
        self.hurry()

    def hurry(self) -> None:
        """Tell all that another signal came."""
        for tether in self._tethers.values():
            tether.write(b".")

    async def _life(self, number: int) -> str | None:
        """Start a process and see it end; what was wrong with that."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await self._started(number, theirs.fileno())
            reader, self._tethers[number] = await asyncio.open_unix_connection(sock=ours)
        except OSError as error:
            ours.close()
            return f"cannot be started: {error}"
        if self._leaving.is_set():
            self._tethers[number].write(b".")
        greeting = asyncio.create_task(self._greeted(number, reader), name=f"greeting-{number}")
        status = await process.wait()
        greeting.cancel()
        self._tethers.pop(number).close()
        siblings.erase(self._shared.board, number)
        forget(process.pid, self._shared.environment[DIRECTORY])
        return f"ended with status {status}" if status or not self._leaving.is_set() else None

    async def _started(self, number: int, tether: int) -> Process:
        shared = self._shared
        arguments = [str(argument) for argument in (tether, shared.door, shared.board, number)]
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *arguments, stdin=DEVNULL, env=shared.environment, pass_fds=(tether, shared.door, shared.board)
        )
        logger.info("process %d has pid %d", number, process.pid)
        return process

    async def _greeted(self, number: int, reader: asyncio.StreamReader) -> None:
        if url := (await reader.readline()).decode().strip():
            self.url = url
            self._serving.add(number)
            if len(self._serving) == self._count:
                self.ready.set()

    async def _ended(self, number: int, problem: str | None, setbacks: int) -> None:
        """Pause before the next life, if there is to be one."""
        had_served = number in self._serving
        self._serving.discard(number)
        if problem is None or self._failed.is_set():
            return
        if self._leaving.is_set():
            if had_served:
                logger.error("process %d %s", number, problem)
                self._failed.set()
        elif not self.ready.is_set() or (setbacks == TRIES and not self._serving and not had_served):
            logger.critical("process %d %s; the server cannot go on", number, problem)
            self._failed.set()
        else:
            pause = PAUSE_SECONDS * (2**setbacks - 1)
            logger.error("process %d %s; it starts again in %.1f s", number, problem, pause)
            try:
                async with asyncio.timeout(pause):
                    await self._leaving.wait()
            except TimeoutError:
                return


async def _announced(crew: Crew, announce: Callable[[str], None]) -> None:
    await crew.ready.wait()
    announce(crew.url)


async def _passed_on(stop: asyncio.Queue[None], crew: Crew) -> None:
    while True:
        await stop.get()
        crew.hurry()


def _environment(settings: Settings, url: str, listen_url: str | None) -> dict[str, str]:
    """What the processes find in theirs, so that they have the same settings wherever those came from."""
    given = {
        "HOLDFAST_CONFIG": str(settings.config),
        "HOST": settings.host,
        "PORT": str(settings.port),
        "HOLDFAST_DATA_DIR": str(settings.data_dir),
        "DATABASE_URL": url,
    }
    if settings.database_url is None and listen_url is not None:
        given["DATABASE_DIRECT_URL"] = listen_url
    return {**os.environ, **given}
