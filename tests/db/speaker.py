"""Runs as far as their events go, and those who listen."""

from __future__ import annotations

import asyncio
from uuid import UUID

from holdfast.db.events import EventLog
from holdfast.db.queue import Claimed
from holdfast.db.runs import RunEnd
from holdfast.db.saves import Block
from holdfast.rules.run import RunStatus
from holdfast.wire import sse
from tests.db.stage import ANN, Process, outcome


class Speaker:
    """Executes a run as far as its events go; blocks are written when the test says so."""

    def __init__(self, process: Process, claim: Claimed) -> None:
        self._process = process
        self.claim = claim
        self._tape = process.events.open_tape(claim.run_id, claim.event_seq + 1)
        self.said: list[bytes] = []
        self._logged = 0

    def say(self, *words: str) -> None:
        for word in words:
            frame = sse.frame("values", f'"{word}"'.encode(), None)
            self.said.append(frame)
            self._tape.append(frame)

    async def log(self) -> None:
        if block := self._block():
            await self._process.stage.runs.append(self.claim, block)
            self._tape.trim(block.last_seq)
            self._process.events.logged(self.claim.thread_id, self.claim.run_id, block)

    async def end(self, result: bytes | None = b"{}") -> None:
        end = RunEnd(RunStatus.SUCCESS, outcome(), None, self._block(), self._tape.last)
        await self._process.stage.runs.end(self.claim, end)
        self._process.events.close_tape(self.claim.run_id, self.claim.thread_id, result, over=True)

    def _block(self) -> Block | None:
        frames = self.said[self._logged :]
        if not frames:
            return None
        start = self.claim.event_seq + 1 + self._logged
        block = Block(self.claim.fencing_token, start, start + len(frames) - 1, self._logged + 1, b"".join(frames))
        self._logged += len(frames)
        return block


async def heard(events: EventLog, run_id: UUID, after: int | None = 0) -> list[bytes]:
    """Everything that follows, to the end of the run."""
    async with asyncio.timeout(20):
        return [frame async for frames in events.follow(ANN, run_id, after) for frame in frames]
