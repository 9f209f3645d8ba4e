"""A run's journal: frames go to live followers at once, and to the log in blocks.

A frame gets its number when it is emitted and is on the tape immediately. The log gets a block when enough bytes have
gathered or a moment has passed, whichever comes first; one append is under way at a time, and what gathers meanwhile
is the next block. The last block is not written here: it travels in the transaction that ends the run.

A run that is not logged has followers in this process only, and says nothing while there are none. Its thread's
followers are told in one block at its end that it began, and why it failed if it did; a stateless run's thread has no
followers, and goes with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from holdfast.db.events import ATTEMPT_GAP, EventLog
from holdfast.db.queue import Claimed
from holdfast.db.runs import Runs
from holdfast.db.saves import Block
from holdfast.errors import HoldfastError
from holdfast.telemetry.metrics import Metrics
from holdfast.wire import sse

FLUSH_SECONDS = 0.05
FLUSH_BYTES = 64 * 1024
FULL_BYTES = 8 * 2**20
"""With this much unwritten, the graph has to wait for the database."""
TOLD_OF_EVERY_RUN = frozenset({"metadata", "error"})
"""Events of a run that its thread's log has even if the run is not logged."""


class Journal:
    """Numbers, publishes and logs the frames of one claimed run."""

    def __init__(
        self, run: Claimed, *, runs: Runs, events: EventLog, metrics: Metrics, on_failure: Callable[[], None]
    ) -> None:
        self._run = run
        self._metrics = metrics
        self._runs = runs
        self._events = events
        self._on_failure = on_failure
        self._stamp_ms = int(run.claimed_at * 1000)
        first = run.event_seq + 1 + (ATTEMPT_GAP if run.attempt > 1 else 0)
        self._tape = events.open_tape(run.run_id, first)
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._block_starts = first
        self._in_run = 1
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None

    @property
    def last_seq(self) -> int:
        return self._tape.last

    async def resume_numbering(self) -> None:
        """A later attempt goes on counting within the run where the log stops."""
        if self._run.attempt > 1:
            self._in_run = await self._events.next_in_run(self._run.run_id)

    @property
    def is_heard(self) -> bool:
        """Whether anybody hears now, or can read later, what the run says."""
        return self._run.logged or self._events.is_followed(self._run.run_id)

    def emit(self, event: str, data: bytes) -> None:
        """Say one thing; returns at once."""
        event_id = sse.event_id(self._stamp_ms, self._tape.last + 1) if self._run.resumable else None
        frame = sse.frame(event, data, event_id)
        self._tape.append(frame)
        if not self._run.logged:
            self._tape.trim(self._tape.last)
            if event in TOLD_OF_EVERY_RUN and not self._run.ephemeral:
                self._buffer.append(frame)
            return
        self._buffer.append(frame)
        self._buffered += len(frame)
        if self._flushing is not None:
            return
        if self._buffered >= FLUSH_BYTES:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)

    @property
    def is_full(self) -> bool:
        """Whether the database is too far behind."""
        return self._buffered >= FULL_BYTES

    async def room(self) -> None:
        """Wait while the database is too far behind."""
        while self.is_full and self._flushing is not None:
            await asyncio.wait([self._flushing])

    async def close(self) -> Block | None:
        """Stop writing; what is left becomes the block that ends the run."""
        if self._flushing is not None:
            await asyncio.wait([self._flushing])
        if self._timer is not None:
            self._timer.cancel()
        return self._take_block()

    def _flush(self) -> None:
        if self._timer is not None:
            # Many bytes came before the moment was over: it must not start a second append beside this one.
            self._timer.cancel()
            self._timer = None
        self._flushing = asyncio.create_task(self._write(), name=f"journal-{self._run.run_id}")

    async def _write(self) -> None:
        try:
            while (block := self._take_block()) is not None:
                await self._runs.append(self._run, block)
                self._tape.trim(block.last_seq)
                self._events.logged(self._run.thread_id, self._run.run_id, block)
                if self._buffered < FLUSH_BYTES:
                    break
        except HoldfastError:
            self._on_failure()
            return
        self._flushing = None
        if self._buffer:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)

    def _take_block(self) -> Block | None:
        if not self._buffer:
            return None
        frames, self._buffer, self._buffered = self._buffer, [], 0
        token, last = self._run.fencing_token, self._block_starts + len(frames) - 1
        block = Block(token, self._block_starts, last, self._in_run, b"".join(frames))
        self._metrics.written(len(frames), len(block.frames))
        self._block_starts += len(frames)
        self._in_run += len(frames)
        return block
