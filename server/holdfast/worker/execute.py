"""One run, from claim to end.

Theory of operation. `Execution.run` opens the graph with a saver that is fenced by the run's claim, decides what to
dispatch (`rules/recovery.py` when the run was claimed before), streams the graph into the journal, and ends the run
in one transaction. The graph runs in a task of its own: whoever wants it to stop gives a `StopReason`, the task is
cancelled, and the reason, not the cancellation, says how the run ends.

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
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl
from langgraph.types import StateSnapshot

from holdfast.db.bell import Bell
from holdfast.db.cancelling import cancel_error
from holdfast.db.checkpoints import FencedSaver
from holdfast.db.events import EventLog
from holdfast.db.pool import Database
from holdfast.db.revisions import Revisions
from holdfast.db.runs import Claimed, RunEnd, Runs
from holdfast.db.threads import Outcome
from holdfast.db.trees import Stores
from holdfast.errors import Conflict, DatabaseError, DatabaseUnavailable, FenceLost, GraphChanged, Unsaveable
from holdfast.rules.admission import ASKS
from holdfast.rules.caller import User, identity
from holdfast.rules.recovery import Dispatch, Standing, recovery, still_pending
from holdfast.rules.run import FAILED, RunStatus, StopReason
from holdfast.wire import codec
from holdfast.wire.modes import Modes
from holdfast.wire.runs import RunKwargs
from holdfast.worker import exits
from holdfast.worker.dangling import REPAIR, answer_dangling_calls
from holdfast.worker.graphs import Graph, Graphs
from holdfast.worker.journal import Journal
from holdfast.worker.outcome import finished_outcome, has_open_tasks, outcome_of, pending_ids, result_json
from holdfast.worker.revisions import (
    check_readable,
    check_waiting,
    fingerprint_of,
    revision_of,
    saver_of,
    waiting_nodes,
    written_under,
)
from holdfast.worker.webhooks import Courier

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every execution works with."""

    database: Database
    runs: Runs
    events: EventLog
    bell: Bell
    graphs: Graphs
    stores: Stores
    revisions: Revisions
    crash_budget: int
    run_timeout: float
    repairs: bool = True
    """Tool calls without an answer are answered before new input is applied."""
    courier: Courier | None = None


class LateAnswer(Conflict):
    """The question that a queued answer was for went away before its turn came."""


class QuestionPending(Conflict):
    """New input that is not to disturb a question finds one when its turn comes."""


class Execution:
    """One claimed run being executed."""

    def __init__(self, run: Claimed, shop: Workshop) -> None:
        self.claim = run
        self._shop = shop
        self._kwargs = RunKwargs.load(run.kwargs)
        self._control = RunControl()
        self._reason: StopReason | None = StopReason(run.cancel) if run.cancel else None
        self._graph_task: asyncio.Task[Outcome] | None = None
        self._modes = Modes(self._kwargs.stream_mode, subgraphs=self._kwargs.subgraphs)
        self._saver = FencedSaver(shop.database, run.fence)
        self._wrote_here = False
        self._last_checkpoint: Mapping[str, Any] | None = None
        # A second attempt goes on with what the first one read.
        self._read = frozenset(self._kwargs.answers or {}) if run.attempt > 1 else frozenset[str]()
        self._journal = Journal(
            run,
            runs=shop.runs,
            events=shop.events,
            on_failure=lambda: self.stop(StopReason.LEASE_LOST),
        )

    def drain(self) -> None:
        """Stop at the next superstep boundary and hand the run back."""
        self._control.request_drain("the server is shutting down")

    def stop(self, reason: StopReason) -> None:
        """Stop now; the first reason counts, unless the run turns out not to be ours any more."""
        if self._reason is None or reason is StopReason.LEASE_LOST:
            self._reason = reason
        if self._graph_task is not None:
            self._graph_task.cancel()

    async def run(self) -> None:
        """Execute to the end; raises nothing that belongs to the run."""
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

    async def _recorded(self, end: RunEnd) -> RunEnd:
        """Record the end; a state that the thread row cannot hold costs the run its result, not the thread its life."""
        try:
            await self._shop.runs.end(self.claim, end)
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
        self._graph_task = exits.task(self._drive(), name=f"graph-{self.claim.run_id}")
        done, _ = await asyncio.wait([self._graph_task], timeout=self._shop.run_timeout)
        if not done:
            self.stop(StopReason.TIMEOUT)
            await asyncio.wait([self._graph_task])
        if self._graph_task.cancelled():
            return asyncio.CancelledError()
        return self._graph_task.exception() or self._graph_task.result()

    async def _end_of(self, performed: Outcome | BaseException) -> RunEnd | None:
        """How the run ends; None if it goes on elsewhere or is no longer ours."""
        if isinstance(performed, FenceLost) or self._reason is StopReason.LEASE_LOST:
            await self._journal.close()
            raise FenceLost(f"run {self.claim.run_id}")
        if isinstance(performed, GraphChanged):
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

    async def _undone(self, changed: GraphChanged) -> RunEnd:
        body = codec.error_body(changed)
        logger.warning("run %s does not go on: %s", self.claim.run_id, changed)
        self._journal.emit("error", codec.dumps(body))
        return replace(await self._with_last_block(RunStatus.ERROR, None, body), apart=not self._wrote_here)

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
        unread = frozenset(self._kwargs.answers or {}) - self._read
        return RunEnd(
            status,
            outcome,
            error,
            block,
            self._journal.last_seq,
            keep_interrupted=keep,
            values=values,
            unread=unread,
        )

    def _tell(self) -> None:
        if self.claim.webhook is not None and self._shop.courier is not None:
            self._shop.courier.wake()

    async def _hand_back(self) -> None:
        block = await self._journal.close()
        if block is not None and self.claim.logged:
            await self._shop.runs.append(self.claim, block)
        if await self._shop.runs.hand_back(self.claim):
            logger.info("run %s was handed back", self.claim.run_id)
            self._shop.bell.ring("run", self.claim.run_id)

    async def _given_up(self) -> None:
        try:
            await self._hand_back()
        except (DatabaseError, FenceLost):
            logger.warning("run %s stays claimed until it is reconciled", self.claim.run_id, exc_info=True)

    async def _left_behind(self, error: Mapping[str, str], *, failed: bool) -> Outcome | None:
        """The thread's state after a run that broke off; None where it cannot be read."""
        await self._saver.quiet()
        try:
            async with self._graph() as graph:
                snapshot = await graph.aget_state(_latest(self.claim))
            return outcome_of(snapshot, error=error, failed=failed)
        except FenceLost:
            raise
        except Exception:
            logger.warning("run %s: the state it left cannot be read", self.claim.run_id, exc_info=True)
            return None

    async def _drive(self) -> Outcome:
        config = self._config()
        async with self._graph(config) as graph:
            dispatch, given = await self._dispatch(graph, config)
            if dispatch is not Dispatch.SETTLE:
                async for event, data in self._stream(graph, given, config):
                    self._journal.emit(event, codec.dumps(data))
                    await self._journal.room()
            # A graph that ran through has just shown its last state; one that stopped is read with what it asks.
            return finished_outcome(self._last_checkpoint) or outcome_of(await graph.aget_state(_latest(self.claim)))

    async def _stream(self, graph: Graph, given: Any, config: RunnableConfig) -> AsyncIterator[tuple[str, Any]]:
        modes = self._modes
        options: dict[str, Any] = {
            "context": _context(graph, self._kwargs.context),
            "stream_mode": [*modes.graph_modes, *({"checkpoints"} - set(modes.graph_modes))],
            "interrupt_before": self._kwargs.interrupt_before,
            "interrupt_after": self._kwargs.interrupt_after,
            "durability": self._kwargs.durability,
            "control": self._control,
            "subgraphs": modes.graph_subgraphs,
        }
        if modes.uses_events:
            async for item in graph.astream_events(given, config, version="v2", **options):
                for event in modes.langchain_event(item):
                    yield event
            return
        async for part in graph.astream(given, config, **options):
            *ns, mode, chunk = part
            if mode == "checkpoints" and not (ns and ns[0]):
                self._last_checkpoint = chunk
            for event in modes.events(tuple(ns[0]) if ns else (), mode, chunk):
                yield event

    async def _dispatch(self, graph: Graph, config: RunnableConfig) -> tuple[Dispatch, Any]:
        """What to hand to the graph. A first attempt with an input needs no look at a thread that rests in peace."""
        answers = self._kwargs.answers
        changed = self._changed(graph)
        if self.claim.attempt == 1 and self._is_input and not (self._may_dangle or changed):
            return Dispatch.ORIGINAL, self._kwargs.as_input(None)
        snapshot = await graph.aget_state(_latest(self.claim))
        open_answers = still_pending(answers, pending_ids(snapshot)) if answers is not None else None
        dispatch = Dispatch.ORIGINAL
        if self.claim.attempt > 1:
            dispatch = recovery(await self._standing(graph, snapshot), is_command=self._kwargs.command is not None)
        await self._check_revision(graph, snapshot, goes_on=not self._begins(dispatch, snapshot))
        if self.claim.attempt == 1:
            self._read = frozenset(open_answers or {})
            if answers and not open_answers:
                raise LateAnswer("The question was answered or dropped before this answer's turn came.")
        if dispatch is Dispatch.ANSWERS:
            return dispatch, RunKwargs.answers_only(open_answers or {})
        if self._begins(dispatch, snapshot):
            await self._repair(graph, snapshot, config)
        return dispatch, self._kwargs.as_input(open_answers)

    @property
    def _is_input(self) -> bool:
        return self._kwargs.command is None and self._kwargs.input is not None

    @property
    def _may_dangle(self) -> bool:
        return self._shop.repairs and (self.claim.torn or self._kwargs.checkpoint is not None)

    def _begins(self, dispatch: Dispatch, snapshot: StateSnapshot) -> bool:
        """Whether the run's input is still to be applied, so that what is pending is left behind."""
        return self._is_input and dispatch is Dispatch.ORIGINAL and not self._wrote(snapshot)

    def _wrote(self, snapshot: StateSnapshot) -> bool:
        return (snapshot.metadata or {}).get("run_id") == str(self.claim.run_id)

    def _changed(self, graph: Graph) -> bool:
        """Whether another revision of the graph wrote the thread's state."""
        return self.claim.graph_revision not in (None, fingerprint_of(graph))

    async def _check_revision(self, graph: Graph, snapshot: StateSnapshot, *, goes_on: bool) -> None:
        self._wrote_here = self._wrote(snapshot)
        then = await written_under(self._shop.revisions, self.claim.graph_id, graph, snapshot.metadata)
        if then is None:
            return
        if goes_on:
            waiting = waiting_nodes(await saver_of(graph).aget_tuple(snapshot.config))
            check_waiting(self.claim.graph_id, then, revision_of(graph), waiting)
        check_readable(self.claim.graph_id, then, revision_of(graph))

    async def _repair(self, graph: Graph, snapshot: StateSnapshot, config: RunnableConfig) -> None:
        """Answer dangling tool calls where the input is to be applied."""
        start = self._start()
        at = {**_latest(self.claim)["configurable"], **start} if start else snapshot.config["configurable"]
        if not self._shop.repairs or not at.get("checkpoint_id"):
            return
        labels = {
            "graph_id": self.claim.graph_id,
            "assistant_id": str(self.claim.assistant_id),
            "repair": REPAIR,
            "repaired_for": str(self.claim.run_id),
        }
        repaired = await answer_dangling_calls(graph, {"configurable": at}, labels, self._kwargs.input)
        if start and repaired is not None:
            config["configurable"] |= repaired["configurable"]

    async def _standing(self, graph: Graph, snapshot: StateSnapshot) -> Standing:
        return Standing(
            written_by_this_run=self._wrote(snapshot),
            open_tasks=has_open_tasks(snapshot),
            at_breakpoint=await self._at_breakpoint(graph, snapshot),
            command_saved=self.claim.command_saved,
        )

    async def _at_breakpoint(self, graph: Graph, snapshot: StateSnapshot) -> bool:
        if not snapshot.next:
            return False
        if _names(self._kwargs.interrupt_before, snapshot.next):
            return True
        source = (snapshot.metadata or {}).get("source")
        if not self._kwargs.interrupt_after or source != "loop" or snapshot.parent_config is None:
            return False
        parent = await graph.aget_state(snapshot.parent_config)
        return _names(self._kwargs.interrupt_after, parent.next)

    def _graph(self, config: RunnableConfig | None = None) -> Any:
        return self._shop.graphs.open(
            self.claim.graph_id,
            config or self._config(),
            checkpointer=self._saver,
            store=self._shop.stores.of(self.claim.owner),
            context=self._kwargs.context,
            user=self._user,
        )

    @property
    def _user(self) -> User | None:
        return None if self._kwargs.user is None else User(self._kwargs.user)

    def _config(self) -> RunnableConfig:
        """The run's config as the graph sees it; identity comes last, so that no request can forge it."""
        given = self._kwargs.config
        ids = {
            "run_id": str(self.claim.run_id),
            "thread_id": str(self.claim.thread_id),
            "graph_id": self.claim.graph_id,
            "assistant_id": str(self.claim.assistant_id),
        }
        configurable = {
            **given.get("configurable", {}),
            **ids,
            **identity(self.claim.owner, self._user),
            "checkpoint_ns": "",
            **self._start(),
        }
        metadata = {**self.claim.metadata, **ids, "run_attempt": self.claim.attempt}
        config: RunnableConfig = {
            "configurable": configurable,
            "metadata": metadata,
            "run_id": self.claim.run_id,
        }
        if limit := given.get("recursion_limit"):
            config["recursion_limit"] = limit
        if tags := given.get("tags"):
            config["tags"] = tags
        return config

    def _start(self) -> dict[str, Any]:
        """Where a fork begins; a later attempt goes on from what the first one made of it."""
        if self._kwargs.checkpoint is None or self.claim.attempt > 1:
            return {}
        return dict(self._kwargs.checkpoint)


def _result(end: RunEnd) -> bytes | None:
    if end.outcome is None:
        return None
    return result_json(end.outcome, end.error if end.status in FAILED else None)


def _latest(run: Claimed) -> RunnableConfig:
    return {"configurable": {"thread_id": str(run.thread_id), "checkpoint_ns": ""}}


def _names(breakpoints: Any, nodes: tuple[str, ...]) -> bool:
    return bool(breakpoints) and (breakpoints == "*" or not set(breakpoints).isdisjoint(nodes))


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
