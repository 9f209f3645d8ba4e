"""The worker: claims runs while it has free slots, and keeps what it claimed alive.

Theory of operation. The loop sleeps on one event. Whatever may mean work sets it: an admission in this process, a
ring from another one, a finished run, a dead worker, a timer that came due. It then claims as many runs as it has
free slots, and sleeps again; a slow poll covers lost rings. Requests of this process take a shortcut: they reserve a
slot, claim their run in the very transaction that admits it, and hand it over (`reserve`, `start`, `release`). They
overtake nobody: there is no slot for them from the moment that a run was queued until a look at the queue has found
nothing. Where `serve` is several processes (`worker/siblings.py`), one that executes more than another has no slot for
them either, and leaves the others a moment before it looks at the queue itself.

A heartbeat thread (`db/liveness.py`) keeps the lease. When it reports that the lease was lost, everything that the
database no longer attributes to this worker is stopped; when it reports dead workers, their runs return to the queue.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from uuid import UUID

from holdfast.db.bell import Bell
from holdfast.db.queue import Claimed, Queue
from holdfast.errors import DatabaseError
from holdfast.rules.recovery import SUSPECT_AFTER
from holdfast.rules.run import StopReason
from holdfast.worker.execute import Execution, Workshop
from holdfast.worker.siblings import ABSENT, Board

logger = logging.getLogger(__name__)

PAUSE_AFTER_ERROR = 0.5
ADRIFT_SECONDS = 1.0
"""How long a run may be attributed to this worker and executed nowhere, while nothing is being claimed."""
LOST_ANSWER_SECONDS = 30.0
"""The same while something is: a commit whose answer was lost may take so long to be looked up."""
STUCK_SECONDS = 30.0
"""Longer than any wait for the database or for work: a loop that did not turn for so long looks for nothing."""
YIELD_SECONDS = 0.005
"""How long a process that is ahead of its siblings leaves the queue to them; then it takes one run."""
LAST_SECONDS = 5.0
"""How long a stopping worker waits for steps that were told to stop at once."""


class Worker:
    """Executes runs in this process, at most `slots` at a time."""

    def __init__(
        self,
        worker_id: UUID,
        shop: Workshop,
        *,
        slots: int,
        suspect_found: Callable[[], None] = lambda: None,
        board: Board | None = None,
    ) -> None:
        """`suspect_found`: called when a run has to go on in a process of its own; `board`: where siblings look."""
        self.worker_id = worker_id
        self._board = board
        self._suspect_found = suspect_found
        self._shop = shop
        self._queue: Queue = shop.queue
        self._bell: Bell = shop.bell
        self._slots = slots
        self._reserved = 0
        self._calls, self._answered = 1, 0
        self._executions: dict[UUID, Execution] = {}
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._adrift: dict[UUID, float] = {}
        self._claiming = False
        self._draining = False
        self._taking_over = False
        self._turned = time.monotonic()
        self._has_lease: Callable[[], bool] = lambda: False
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._bell.on("run", lambda _: self.wake())
        self._bell.on("cancel", self._cancel_heard)
        self._side_tasks: set[asyncio.Task[None]] = set()
        self._tell()

    @property
    def active(self) -> int:
        """How many runs are being executed here."""
        return len(self._executions)

    def leased(self, has_lease: Callable[[], bool]) -> None:
        """From now on others know of this worker, as long as `has_lease` says so."""
        self._has_lease = has_lease

    def is_alive(self) -> bool:
        """Whether others see this worker alive, and it looks for work."""
        return self._has_lease() and time.monotonic() - self._turned < STUCK_SECONDS

    def reserve(self) -> UUID | None:
        """A slot for a run that is about to be admitted: the id to claim it for, or None if it has to queue."""
        if self._room < 1:
            self._calls += 1
        if self._draining or self._answered < self._calls:
            return None
        self._reserved += 1
        self._tell()
        return self.worker_id

    def release(self) -> None:
        """Give a reserved slot back unused."""
        self._reserved -= 1
        self._tell()
        self._wake.set()

    def start(self, claim: Claimed) -> None:
        """Execute a run claimed in a reserved slot."""
        self._reserved -= 1
        self._launch(claim)

    def wake(self) -> None:
        """There may be something to claim."""
        self._calls += 1
        self._wake.set()

    def look_for_cancels(self) -> None:
        """Somebody asked a run of this worker to stop."""
        self._spawn(self._apply_cancels(), "cancels")

    def dead_workers(self, dead: Sequence[UUID]) -> None:
        """Take over what these workers held; one takeover at a time, since the dead are reported again and again."""
        if not self._taking_over:
            self._taking_over = True
            self._spawn(self._take_over(dead), "take-over")

    def check_claims(self) -> None:
        """The database was away, or somebody judged this worker dead: find out what is its own."""
        self._spawn(self.reconcile(), "reconcile")

    async def run(self) -> None:
        """Claim and execute until drained."""
        while not self._draining:
            self._turned = time.monotonic()
            self._wake.clear()
            if self._room < 1 <= self._free:
                await asyncio.sleep(YIELD_SECONDS)
            try:
                claimed = await self._claim()
                due = None if claimed or self._free < 1 else await self._queue.next_due()
            except DatabaseError as error:
                logger.warning("cannot claim: %s", error)
                await asyncio.sleep(PAUSE_AFTER_ERROR)
                continue
            if not claimed:
                await self._sleep(due)

    async def run_suspect(self, run_id: UUID) -> None:
        """Claim a run that has taken workers down, if it may start, and execute it until it has got on."""
        if claim := await self._queue.claim_suspect(self.worker_id, run_id):
            self._launch(claim, alone=True)
        await self._idle.wait()

    async def drain(self, grace: float) -> None:
        """Stop claiming; runs stop at their next superstep boundary and go back to the queue, late ones at once."""
        self._draining = True
        self._tell()
        self._wake.set()
        for execution in list(self._executions.values()):
            execution.drain()
        if await self._idle_within(grace):
            return
        for execution in list(self._executions.values()):
            execution.stop(StopReason.DRAIN)
        if not await self._idle_within(LAST_SECONDS):
            logger.warning("%d runs do not stop; they are taken over once this process is gone", self.active)

    async def reconcile(self) -> None:
        """Make the runs executed here and the runs that the database attributes to this worker the same.

        A run that was just admitted, claimed or ended is adrift for a moment, and for longer if the answer was lost.
        """
        # What is claimed while the database answers is not in its answer, and is no less ours.
        executions = list(self._executions.items())
        held = await self._queue.held(self.worker_id)
        for run_id, execution in executions:
            if held.get(run_id) != execution.claim.fencing_token:
                execution.stop(StopReason.LEASE_LOST)
        now = time.monotonic()
        self._adrift = {run_id: self._adrift.get(run_id, now) for run_id in held.keys() - self._executions.keys()}
        patience = LOST_ANSWER_SECONDS if self._reserved or self._claiming else ADRIFT_SECONDS
        lost = sorted(run_id for run_id, since in self._adrift.items() if now - since >= patience)
        if lost:
            logger.warning("%d claimed runs are executed nowhere; returning them to the queue", len(lost))
            await self._queue.requeue_lost(self.worker_id, lost)
            self.wake()
        elif self._adrift:
            asyncio.get_running_loop().call_later(ADRIFT_SECONDS, self.check_claims)

    async def _idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    @property
    def _free(self) -> int:
        return self._slots - self._load

    @property
    def _load(self) -> int:
        return len(self._executions) + self._reserved

    @property
    def _room(self) -> int:
        """How many of the free slots are to be filled before the siblings have had a turn."""
        return self._free if self._board is None else min(self._free, self._board.room(self._load))

    def _tell(self) -> None:
        if self._board is not None:
            self._board.say(ABSENT if self._draining else self._load)

    async def _claim(self) -> bool:
        """Claim what fits; whether another look may find more."""
        calls = self._calls
        if self._free < 1:
            return False
        self._claiming = True
        try:
            claimed = await self._queue.claim(self.worker_id, limit=max(self._room, 1))
        finally:
            self._claiming = False
        if not claimed:
            self._answered = calls
        for claim in claimed:
            self._launch(claim)
        return bool(claimed)

    async def _sleep(self, due: float | None) -> None:
        seconds = self._bell.poll_seconds if due is None else min(self._bell.poll_seconds, max(due, 0.001))
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            self.look_for_cancels()

    def _launch(self, claim: Claimed, *, alone: bool = False) -> None:
        execution = Execution(claim, self._shop, alone=alone)
        self._executions[claim.run_id] = execution
        self._idle.clear()
        self._tell()
        if self._draining:
            execution.drain()
        # A context of its own: a run is not part of the request that brought it, nor of whatever woke the worker.
        task = Context().run(asyncio.create_task, execution.run(), name=f"run-{claim.run_id}")
        self._tasks[claim.run_id] = task
        task.add_done_callback(lambda done: self._ended(claim, execution, done))

    def _ended(self, claim: Claimed, execution: Execution, task: asyncio.Task[None]) -> None:
        if self._executions.get(claim.run_id) is execution:
            del self._executions[claim.run_id]
            del self._tasks[claim.run_id]
        self._tell()
        if not self._executions:
            self._idle.set()
        if self._answered < self._calls or not execution.left_quiet:
            self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("run %s: the execution itself failed", claim.run_id, exc_info=error)

    def _cancel_heard(self, about: str | None) -> None:
        if about is None or UUID(about) in self._executions:
            self.look_for_cancels()

    async def _apply_cancels(self) -> None:
        if not self._executions:
            return
        for run_id, action in (await self._queue.cancelled_here(self.worker_id)).items():
            if execution := self._executions.get(run_id):
                execution.stop(StopReason(action))

    async def adopt_orphans(self) -> None:
        """Take over runs whose worker is gone without a trace: it left while they were being claimed."""
        if taken := await self._queue.requeue_dead(()):
            logger.warning("%d runs had lost their worker; they return to the queue", len(taken))
            self._shop.metrics.taken_over.inc(len(taken))
            self._requeued(taken)

    async def _take_over(self, dead: Sequence[UUID]) -> None:
        try:
            taken = await self._queue.requeue_dead(dead)
        finally:
            self._taking_over = False
        logger.warning("%d workers died; %d runs return to the queue", len(dead), len(taken))
        self._shop.metrics.taken_over.inc(len(taken))
        if taken:
            self._requeued(taken)

    def _requeued(self, crashes: Mapping[UUID, int]) -> None:
        self.wake()
        self._bell.ring("run")
        if max(crashes.values()) >= SUSPECT_AFTER:
            self._suspect_found()

    def _spawn(self, work: object, name: str) -> None:
        assert asyncio.iscoroutine(work)
        task = Context().run(asyncio.create_task, _logged(work), name=f"worker-{name}")
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)


async def _logged(work: object) -> None:
    try:
        await work  # type: ignore[misc]
    except DatabaseError as error:
        # The next beat, ring or poll brings the same work again.
        logger.warning("postponed: %s", error)
