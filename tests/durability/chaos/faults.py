"""Doing what the schedule says goes wrong, and healing all of it in the end."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import psycopg

from tests.durability.chaos.observations import Log
from tests.durability.chaos.schedule import Fault
from tests.durability.chaos.site import Process, Site

DELAY = 0.05
"""What a slow network adds to every piece, in seconds."""
STORM_PAUSE = 0.4


class Faults:
    """Plays the faults of an episode, each of them a task of its own."""

    def __init__(self, site: Site, log: Log) -> None:
        self._site = site
        self._log = log
        self._postgres = asyncio.Lock()
        self._of_processes: dict[str, Callable[[Process, float], Awaitable[None]]] = {
            "kill": _kill,
            "freeze": _freeze,
            "leave": _leave,
        }
        self._of_the_database: dict[str, Callable[[Fault], Awaitable[None]]] = {
            "restart": self._restart,
            "terminate": self._terminate,
            "stall": self._stall,
            "cut": self._cut,
            "delay": self._delay,
            "exhaust": self._exhaust,
        }

    async def play(self, fault: Fault, begin: float) -> None:
        """Wait for its time, do it, undo it, and log when that was and which processes felt it."""
        await asyncio.sleep(begin + fault.at - time.monotonic())
        if fault.kind in self._of_processes:
            process = await self._site.process(fault.target)
            async with process.busy:
                began, pids = time.monotonic(), [process.server.pid]
                await self._of_processes[fault.kind](process, fault.seconds)
        else:
            began, pids = time.monotonic(), [each.server.pid for each in self._site.processes if each.server.is_up]
            await self._of_the_database[fault.kind](fault)
        self._log.write("fault", kind=fault.kind, began=began, ended=time.monotonic(), pids=pids)

    async def heal(self) -> None:
        """Everything up and reachable again."""
        self._site.proxy.heal()
        async with self._postgres:
            await asyncio.to_thread(self._site.postgres.rise)
        await asyncio.gather(*(self._up(process) for process in self._site.processes))

    async def _up(self, process: Process) -> None:
        async with process.busy:
            await asyncio.to_thread(process.up)

    async def _restart(self, fault: Fault) -> None:
        async with self._postgres:
            self._site.postgres.die()
            await asyncio.sleep(fault.seconds)
            await asyncio.to_thread(self._site.postgres.rise)

    async def _terminate(self, fault: Fault) -> None:
        until = time.monotonic() + fault.seconds
        while time.monotonic() < until:
            with suppress(psycopg.Error):
                await asyncio.to_thread(_terminate_all, self._site.database_url)
            await asyncio.sleep(STORM_PAUSE)

    async def _stall(self, fault: Fault) -> None:
        self._site.proxy.stall(*(() if fault.way == "both" else (fault.way,)))
        await self._healed_after(fault.seconds)

    async def _cut(self, fault: Fault) -> None:
        self._site.proxy.cut(refuse=True)
        await self._healed_after(fault.seconds)

    async def _delay(self, fault: Fault) -> None:
        self._site.proxy.delay(DELAY)
        await self._healed_after(fault.seconds)

    async def _healed_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._site.proxy.heal()

    async def _exhaust(self, fault: Fault) -> None:
        held = await asyncio.to_thread(_all_connections, self._site.database_url)
        await asyncio.sleep(fault.seconds)
        for connection in held:
            connection.close()


async def _kill(process: Process, seconds: float) -> None:
    if process.server.is_up:
        process.server.kill()
    await asyncio.sleep(seconds)
    await asyncio.to_thread(process.up)


async def _freeze(process: Process, seconds: float) -> None:
    process.server.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        process.server.signal(signal.SIGCONT)


async def _leave(process: Process, seconds: float) -> None:
    await asyncio.to_thread(process.server.stop)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(process.up)


def _terminate_all(url: str) -> None:
    with psycopg.connect(url, autocommit=True, connect_timeout=2) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def _all_connections(url: str) -> list[psycopg.Connection]:
    held: list[psycopg.Connection] = []
    with suppress(psycopg.OperationalError):
        while True:
            held.append(psycopg.connect(url, connect_timeout=2))
    return held
