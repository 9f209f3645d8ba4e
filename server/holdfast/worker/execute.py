"""One run, from claim to end.

Theory of operation. `Execution.run` opens the graph with a saver that is fenced by the run's claim, finds out what to
hand to it (`beginning.py`), streams the graph into the journal, and ends the run in one transaction. The graph runs in
a task of its own: whoever wants it to stop gives a `StopReason`, the task is cancelled, and the reason, not the
cancellation, says how the run ends.

    graph finished           success       its state becomes the thread's
    user code raised         error         likewise, with the error beside it
    INTERRUPT                interrupted   checkpoints stay
    ROLLBACK                 (row deleted) checkpoints of this run go
    TIMEOUT                  timeout       as an error
    DRAIN, GraphDrained      pending       handed back; goes on elsewhere from its last checkpoint
    LEASE_LOST, FenceLost    -             somebody else's run now: nothing more is written
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl
from structlog.contextvars import bind_contextvars

from holdfast.db.bell import Bell
from holdfast.db.cancelling import cancel_error
from holdfast.db.events import EventLog
from holdfast.db.pool import Database
from holdfast.db.queue import Claimed, Queue
from holdfast.db.revisions import Revisions
from holdfast.db.runs import RunEnd, Runs
from holdfast.db.savers import saver_for
from holdfast.db.saves import Saves
from holdfast.db.threads import Outcome
from holdfast.db.trees import Stores
from holdfast.errors import (
    Conflict,
    DatabaseError,
    DatabaseUnavailable,
    FenceLost,
    GraphChanged,
    StateLost,
    Unsaveable,
    UnserializableValue,
)
from holdfast.rules.admission import ASKS
from holdfast.rules.caller import User
from holdfast.rules.recovery import Dispatch
from holdfast.rules.run import FAILED, RunStatus, StopReason
from holdfast.rules.trace import trace_of
from holdfast.telemetry.metrics import Metrics
from holdfast.telemetry.traces import Traced, TracedRun, Traces
from holdfast.wire import codec
from holdfast.wire.modes import Event, Modes
from holdfast.wire.runs import RunKwargs
from holdfast.worker import exits
from holdfast.worker.beginning import Beginning, LateAnswer, latest
from holdfast.worker.graphs import Graph, Graphs
from holdfast.worker.journal import Journal
from holdfast.worker.outcome import finished_outcome, outcome_of, result_json
from holdfast.worker.tokens import Tokens
from holdfast.worker.webhooks import Courier

logger = logging.getLogger(__name__)

ALONE_SECONDS = 5.0
"""How long a suspect that gets on keeps its process: short runs end there, and long ones do not keep others waiting."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every execution works with."""

    database: Database
    queue: Queue
    runs: Runs
    events: EventLog
    bell: Bell
    graphs: Graphs
    stores: Stores
    revisions: Revisions
    saves: Saves
    crash_budget: int
    run_timeout: float
    repairs: bool = True
    """Tool calls without an answer are answered before new input is applied."""
    courier: Courier | None = None
    metrics: Metrics = field(default_factory=Metrics)
    traces: Traces = field(default_factory=Traces)


class QuestionPending(Conflict):
    """New input that is not to disturb a question finds one when its turn comes."""


class Execution:
    """One claimed run being executed."""

    def __init__(self, run: Claimed, shop: Workshop, *, alone: bool = False) -> None:
        """`alone`: it is a suspect in a process of its own, and goes back among others when it gets on."""
        self.claim = run
        self._alone_until = time.monotonic() + ALONE_SECONDS if alone else math.inf
        self._shop = shop
        self._kwargs = RunKwargs.load(run.kwargs)
        self._control = RunControl()
        self._reason: StopReason | None = StopReason(run.cancel) if run.cancel else None
        self._graph_task: asyncio.Task[Outcome] | None = None
        self._modes = Modes(self._kwargs.stream_mode, subgraphs=self._kwargs.subgraphs)
        new_thread = run.thread_id if run.is_new else None
        self._saver = saver_for(shop.database, run.fence, shop.saves, new_thread=new_thread)
        self._beginning = Beginning(run, self._kwargs, shop.revisions, repairs=shop.repairs)
        self._last_checkpoint: Mapping[str, Any] | None = None
        self._unsayable: UnserializableValue | None = None
        self._traced = Traced()
        self.left_quiet = False
        """Whether it has ended, and is known to leave nothing behind that could start now."""
        self._journal = Journal(
            run,
            runs=shop.runs,
            events=shop.events,
            metrics=shop.metrics,
            on_failure=_weakly(self._lose),
        )

    def drain(self) -> None:
        """Stop at the next superstep boundary and hand the run back."""
        self._control.request_drain("it goes on elsewhere")

    def stop(self, reason: StopReason) -> None:
        """Stop now; the first reason counts, unless the run turns out not to be ours any more."""
        if self._reason is None or reason is StopReason.LEASE_LOST:
            self._reason = reason
        if self._graph_task is not None:
            self._graph_task.cancel()

    def _lose(self) -> None:
        self.stop(StopReason.LEASE_LOST)

    async def run(self) -> None:
        """Execute to the end; raises nothing that belongs to the run."""
        bind_contextvars(**self._ids)
        claim = self.claim
        waited = claim.claimed_at - claim.created_at.timestamp() if claim.created_at else 0.0
        with (
            self._shop.metrics.executing(claim.graph_id, attempt=claim.attempt, waited=waited),
            self._shop.traces.executing(_traced(claim)) as self._traced,
        ):
            await self._run()

    async def _run(self) -> None:
        result: bytes | None = None
        over = False
        try:
            await self._journal.resume_numbering()
            metadata = {"run_id": str(self.claim.run_id), "attempt": self.claim.attempt}
            self._journal.emit("metadata", codec.dumps(metadata))
            end = await self._end_of(await self._perform())
            if end is not None:
                end = await self._recorded(end)
                over = True
                self._tell()
                self._shop.metrics.ended(self.claim.graph_id, end.status, self.claim.claimed_at)
                self._traced.ended(end.status)
                result = _result(end)
        except FenceLost:
            logger.warning("run %s belongs to a newer claim; this attempt ends", self.claim.run_id)
        except DatabaseUnavailable as error:
            logger.warning("run %s could not be ended: %s", self.claim.run_id, error)
            await self._given_up()
        except DatabaseError:
            # Not handed back: it would fail again at once, and for ever. The crash budget ends that.
            logger.exception("run %s could not be ended; it stays claimed until it is reconciled", self.claim.run_id)
        finally:
            self._shop.events.close_tape(self.claim.run_id, self.claim.thread_id, result, over=over)

    @property
    def _ids(self) -> dict[str, str]:
        """What is on every line that is logged meanwhile, by whomever."""
        run = self.claim
        request_id = self._kwargs.config.get("configurable", {}).get("langgraph_request_id")
        return {
            "run_id": str(run.run_id),
            "thread_id": str(run.thread_id),
            "assistant_id": str(run.assistant_id),
            "graph_id": run.graph_id,
            "user": run.owner,
            "trace_id": trace_of(run.run_id, run.trace_id),
            **({"request_id": str(request_id)} if request_id else {}),
        }

    async def _recorded(self, end: RunEnd) -> RunEnd:
        """Record the end; a state that the thread row cannot hold costs the run its result, not the thread its life."""
        try:
            self.left_quiet = await self._shop.runs.end(self.claim, end)
        except Unsaveable as unsaveable:
            logger.warning("run %s: its final state cannot be kept", self.claim.run_id, exc_info=unsaveable)
            error = {"error": "Unsaveable", "message": f"The final state cannot be stored: {unsaveable}"}
            end = RunEnd(RunStatus.ERROR, None, error, end.block, end.event_seq)
            await self._shop.runs.end(self.claim, end)
        return end

    async def _perform(self) -> Outcome | BaseException:
        """The graph's outcome, or what ended it."""
        if self._reason is not None:
            return asyncio.CancelledError()
        if self.claim.crashes >= self._shop.crash_budget:
            return RuntimeError(
                f"The run was given up after it ended its worker {self.claim.crashes} times without getting on"
                " (crash budget)."
            )
        if self.claim.asks and self._kwargs.on_pending_interrupt == "reject":
            return QuestionPending(f"{ASKS} One was asked before this input's turn came.")
        task = self._graph_task = exits.task(self._drive(), name=f"graph-{self.claim.run_id}")
        done, _ = await asyncio.wait([task], timeout=self._shop.run_timeout)
        if not done:
            self.stop(StopReason.TIMEOUT)
            await asyncio.wait([task])
        # The run's callbacks, in the task's context, know this execution: a circle would keep all that the run has
        # made, a large state too, until the garbage collector comes by.
        self._graph_task = None
        if task.cancelled():
            return asyncio.CancelledError()
        return task.exception() or task.result()

    async def _end_of(self, performed: Outcome | BaseException) -> RunEnd | None:
        """How the run ends; None if it goes on elsewhere or is no longer ours."""
        if isinstance(performed, FenceLost) or self._reason is StopReason.LEASE_LOST:
            await self._journal.close()
            raise FenceLost(f"run {self.claim.run_id}")
        if isinstance(performed, GraphChanged | StateLost):
            return await self._undone(performed)
        drained = isinstance(performed, GraphDrained) or self._reason is StopReason.DRAIN
        if drained and isinstance(performed, BaseException):
            await self._hand_back()
            return None
        if isinstance(performed, DatabaseUnavailable) and self._reason is None:
            raise performed
        if isinstance(performed, Outcome):
            return await self._with_last_block(RunStatus.SUCCESS, performed, None)
        if self._reason is StopReason.ROLLBACK:
            return await self._rolled_back()
        return await self._broken_off(performed)

    async def _broken_off(self, error: BaseException) -> RunEnd:
        status, body = RunStatus.ERROR, codec.error_body(error)
        if self._reason is StopReason.INTERRUPT:
            status, body = RunStatus.INTERRUPTED, dict(cancel_error("interrupt"))
        elif self._reason is StopReason.TIMEOUT:
            status = RunStatus.TIMEOUT
            body = {"error": "TimeoutError", "message": f"The run took longer than {self._shop.run_timeout:g} s"}
        if status is not RunStatus.INTERRUPTED:
            logger.warning("run %s failed", self.claim.run_id, exc_info=error)
            self._journal.emit("error", codec.dumps(body))
        if isinstance(error, QuestionPending):
            return replace(await self._with_last_block(status, None, body), apart=True)
        failed = status is not RunStatus.INTERRUPTED and not isinstance(error, LateAnswer)
        return await self._with_last_block(status, await self._left_behind(body, failed=failed), body)

    async def _undone(self, changed: GraphChanged | StateLost) -> RunEnd:
        body = codec.error_body(changed)
        logger.warning("run %s does not go on: %s", self.claim.run_id, changed)
        self._journal.emit("error", codec.dumps(body))
        return replace(await self._with_last_block(RunStatus.ERROR, None, body), apart=not self._beginning.wrote_here)

    async def _rolled_back(self) -> RunEnd:
        # No last block: the run's log goes with its row, and the thread's keeps only that it ended.
        await self._journal.close()
        last = self._journal.last_seq
        return RunEnd(RunStatus.INTERRUPTED, None, cancel_error("rollback"), event_seq=last, rollback=True)

    async def _with_last_block(
        self, status: RunStatus, outcome: Outcome | None, error: Mapping[str, str] | None
    ) -> RunEnd:
        block = await self._journal.close()
        values = result_json(outcome, None) if outcome is not None and self.claim.webhook is not None else None
        keep = self._kwargs.on_completion == "keep_interrupted"
        unread = frozenset(self._kwargs.answers or {}) - self._beginning.read
        return RunEnd(
            status,
            outcome,
            error,
            block,
            self._journal.last_seq,
            keep_interrupted=keep,
            values=values,
            unread=unread,
            is_plain=self.claim.attempt == 1 and self._kwargs.command is None and not self._saver.progress.has_borrowed,
        )

    def _tell(self) -> None:
        if self.claim.webhook is not None and self._shop.courier is not None:
            self._shop.courier.wake()

    async def _hand_back(self) -> None:
        block = await self._journal.close()
        if block is not None and self.claim.logged:
            await self._shop.runs.append(self.claim, block)
        if await self._shop.queue.hand_back(self.claim):
            self._shop.metrics.handed_back.inc()
            logger.info("run %s was handed back", self.claim.run_id)
            self._shop.bell.ring("run", self.claim.run_id)

    async def _given_up(self) -> None:
        try:
            await self._hand_back()
        except (DatabaseError, FenceLost):
            logger.warning("run %s stays claimed until it is reconciled", self.claim.run_id, exc_info=True)

    async def _left_behind(self, error: Mapping[str, str], *, failed: bool) -> Outcome | None:
        """The thread's state after a run that broke off; None where it cannot be read."""
        await self._saver.seal()
        try:
            async with self._graph() as graph:
                snapshot = await graph.aget_state(latest(self.claim))
                self._beginning.check_state(graph, snapshot)
            return outcome_of(snapshot, error=error, failed=failed)
        except FenceLost:
            raise
        except Exception:
            logger.warning("run %s: the state it left cannot be read", self.claim.run_id, exc_info=True)
            return None

    async def _drive(self) -> Outcome:
        config = self._beginning.config()
        async with self._graph(config) as graph:
            dispatch, given = await self._beginning.given(graph, config)
            if dispatch is not Dispatch.SETTLE:
                async for events in self._stream(graph, given, config):
                    self._say(events)
                    if self._journal.is_full:
                        await self._journal.room()
                if self._unsayable is not None:
                    raise self._unsayable
                await self._saver.save_held()
            # A graph that ran through has just shown its last state; one that stopped is read with what it asks.
            return finished_outcome(self._last_checkpoint) or outcome_of(await graph.aget_state(latest(self.claim)))

    def _say(self, events: Iterable[Event]) -> None:
        for event, data in events:
            if self._journal.is_heard:
                self._journal.emit(event, codec.dumps(data))

    def _say_message(self, message: tuple[Any, Any]) -> None:
        """Called by the model's callbacks, who would swallow what is raised here; a thread may outlive the graph."""
        if self._graph_task is None or self._graph_task.done():
            return
        try:
            self._say(self._modes.events((), "messages", message))
        except UnserializableValue as error:
            self._unsayable = error

    async def _stream(self, graph: Graph, given: Any, config: RunnableConfig) -> AsyncIterator[Iterator[Event]]:
        modes = self._modes
        asked = [*modes.graph_modes, *({"checkpoints"} - set(modes.graph_modes))]
        handlers = [*self._traced.handlers]
        if "messages" in asked and not (modes.graph_subgraphs or modes.uses_events):
            asked.remove("messages")
            handlers.append(Tokens(self._say_message))
        if handlers:
            config = {**config, "callbacks": handlers}
        options: dict[str, Any] = {
            "context": _context(graph, self._kwargs.context),
            "stream_mode": asked,
            "interrupt_before": self._kwargs.interrupt_before,
            "interrupt_after": self._kwargs.interrupt_after,
            "durability": self._kwargs.durability,
            "control": self._control,
            "subgraphs": modes.graph_subgraphs,
        }
        if modes.uses_events:
            async for item in graph.astream_events(given, config, version="v2", **options):
                yield modes.langchain_event(item)
                self._go_back()
            return
        async for part in graph.astream(given, config, **options):
            *ns, mode, chunk = part
            if mode == "checkpoints":
                self._go_back()
                if not (ns and ns[0]):
                    self._last_checkpoint = chunk
            yield modes.events(tuple(ns[0]) if ns else (), mode, chunk)

    def _go_back(self) -> None:
        """A suspect that has got on goes back among the others."""
        if time.monotonic() > self._alone_until and self._saver.progress.steps_saved:
            self.drain()

    def _graph(self, config: RunnableConfig | None = None) -> Any:
        return self._shop.graphs.open(
            self.claim.graph_id,
            config or self._beginning.config(),
            checkpointer=self._saver,
            store=self._shop.stores.of(self.claim.owner),
            context=self._kwargs.context,
            user=self._user,
        )

    @property
    def _user(self) -> User | None:
        return None if self._kwargs.user is None else User(self._kwargs.user)


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """Calls the method while its object is there, and does not keep it."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        if (there := reference()) is not None:
            there()

    return call


def _traced(run: Claimed) -> TracedRun:
    return TracedRun(
        run_id=str(run.run_id),
        thread_id=str(run.thread_id),
        assistant_id=str(run.assistant_id),
        graph_id=run.graph_id,
        owner=run.owner,
        attempt=run.attempt,
        trace_id=trace_of(run.run_id, run.trace_id),
    )


def _result(end: RunEnd) -> bytes | None:
    if end.outcome is None:
        return None
    return result_json(end.outcome, end.error if end.status in FAILED else None)


def _context(graph: Graph, given: Mapping[str, Any] | None) -> Any:
    """The run's context without keys that the graph's schema does not know."""
    schema = graph.context_schema
    if given is None or schema is None:
        return None
    known = getattr(schema, "__annotations__", None)
    if known is None:
        return dict(given)
    names = {name for base in schema.__mro__ for name in getattr(base, "__annotations__", {})}
    return {key: value for key, value in given.items() if key in names}
