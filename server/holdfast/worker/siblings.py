"""How busy each process of one `serve` is, so that none piles up runs while another idles.

Theory of operation. The processes share a page of memory (a file that the supervisor made): each writes how many runs
it executes to its own place and reads the others'. A connection stays with the process that accepted it, so one
client's requests all come to one process; this is how it knows that the run at hand is better left to the queue. What
is read may be old by a moment, or by much where a process is frozen: it decides who claims first, never who may claim.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import sys
import tempfile
from typing import BinaryIO

ABSENT = -1
"""The load of a process that claims nothing: not there yet, draining or dead."""
BYTES = 4

ALONE = 1_000_000
"""The room of a process without any other: only its slots bound what it takes."""
HEAD_START = 4
"""So many runs more than the idlest has any process: short runs are over before another process has heard of them."""


SINK_SECONDS = 0.1
"""A process whose short runs come and go looks idle now and then, and is not. By the load of the moment so many runs of
32 clients were handed over that each cost 1.9 statements more than with one process (24.8); by this one it is 0.7."""


def blank(processes: int) -> BinaryIO:
    """The page's file, nobody there yet."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    for number in range(processes):
        erase(file.fileno(), number)
    return file


def erase(descriptor: int, number: int) -> None:
    """Say for a process that has died that it is gone."""
    os.pwrite(descriptor, _bytes(ABSENT), BYTES * number)


class Board:
    """The page, as the process `number` sees it."""

    def __init__(self, descriptor: int, number: int) -> None:
        self._loads = memoryview(mmap.mmap(descriptor, os.fstat(descriptor).st_size)).cast("i")
        self.number = number
        self._load = 0
        self._sinking: asyncio.TimerHandle | None = None

    def say(self, load: int) -> None:
        """So many runs are executed here, or ABSENT. Fewer than before is written late, more at once."""
        self._load = load
        if load == ABSENT or load >= self._loads[self.number]:
            self._loads[self.number] = load
        elif self._sinking is None:
            self._sinking = asyncio.get_running_loop().call_later(SINK_SECONDS, self._sink)

    def room(self, load: int) -> int:
        """How many more runs a process with that load takes before the others have a turn; may be negative.

        The idlest may have half as many: the kernel deals connections out by their hash and not evenly, and to hand a
        short run over costs more than a process gains by it that has something to do.
        """
        others = [other for number, other in enumerate(self._loads) if number != self.number and other != ABSENT]
        least = min(others, default=None)
        return ALONE if least is None else least + max(HEAD_START, least) - load

    def _sink(self) -> None:
        self._sinking = None
        self._loads[self.number] = self._load


def _bytes(load: int) -> bytes:
    return load.to_bytes(BYTES, sys.byteorder, signed=True)
