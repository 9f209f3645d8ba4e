"""Suspects are executed one after the other, each in a process of its own (`rules/recovery.py` says who is one).

The process is `holdfast isolated RUN_ID`: a worker that claims this suspect alone and leaves once it has got on for
some seconds, or is over. It finds the project and the database in its environment. When the process that started it
dies, it goes on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping
from uuid import UUID

from holdfast.db.queue import Queue
from holdfast.errors import DatabaseError
from holdfast.telemetry.metrics import DIRECTORY, forget

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "holdfast", "isolated")
POLL_SECONDS = 2.0
"""A takeover wakes; the poll finds suspects of workers that have gone since."""
START_SECONDS = 5.0
"""So long nobody else starts a process for the same suspect. If the first comes up later, one of them finds nothing."""
PAUSE_SECONDS = 1.0
LAST_SECONDS = 10.0


class Isolation:
    """Looks after suspects."""

    def __init__(self, queue: Queue, environment: Mapping[str, str]) -> None:
        self._queue = queue
        self._environment = {**os.environ, **environment}
        self._wake = asyncio.Event()
        self._process: Process | None = None

    def wake(self) -> None:
        """There is a suspect."""
        self._wake.set()

    async def run(self) -> None:
        """Execute suspects until cancelled."""
        while True:
            try:
                while suspect := await self._queue.reserve_suspect(seconds=START_SECONDS):
                    await self._execute(suspect)
            except (DatabaseError, OSError) as error:
                logger.warning("suspects have to wait: %s", error)
            await self._sleep()

    async def close(self) -> None:
        """Let the process hand its run back, and end it."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            self._wake.clear()

    async def _execute(self, suspect: UUID) -> None:
        command = (*COMMAND, str(suspect))
        self._process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, env=self._environment)
        status = await self._process.wait()
        if figures := self._environment.get(DIRECTORY):
            forget(self._process.pid, figures)
        if status:
            logger.warning("the process of run %s ended with status %d", suspect, status)
            await asyncio.sleep(PAUSE_SECONDS)
