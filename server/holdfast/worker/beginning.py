"""How a claimed run begins, or goes on: the config and the input that its graph is handed.

A first attempt with an input on a thread that rests in peace needs no look at the thread. In every other case the
latest state says what is right: `rules/recovery.py` for a run that was claimed before, the questions that are still
open for an answer, the graph's revision for whatever goes on with work that another one left, and tool calls without an
answer, which are answered before new input is applied (`dangling.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.types import StateSnapshot

from holdfast.db.foreign import ForeignSaver
from holdfast.db.queue import Claimed
from holdfast.db.revisions import Revisions
from holdfast.errors import Conflict
from holdfast.rules.caller import User, identity
from holdfast.rules.recovery import Dispatch, Standing, recovery, still_pending
from holdfast.wire.runs import RunKwargs
from holdfast.worker.dangling import REPAIR, answer_dangling_calls
from holdfast.worker.graphs import Graph
from holdfast.worker.outcome import has_open_tasks, pending_ids
from holdfast.worker.revisions import (
    check_readable,
    check_there,
    check_waiting,
    fingerprint_of,
    revision_of,
    saver_of,
    waiting_nodes,
    written_under,
)


class LateAnswer(Conflict):
    """The question that a queued answer was for went away before its turn came."""


class Beginning:
    """What one attempt of a run starts with. `repairs`: tool calls without an answer are answered first."""

    def __init__(self, claim: Claimed, kwargs: RunKwargs, revisions: Revisions, *, repairs: bool) -> None:
        self._claim = claim
        self._kwargs = kwargs
        self._revisions = revisions
        self._repairs = repairs
        self.wrote_here = False
        """Whether the thread's latest checkpoint was this run's own when it was looked at."""
        # A second attempt goes on with what the first one read.
        self.read = frozenset(kwargs.answers or {}) if claim.attempt > 1 else frozenset[str]()
        """The questions that the run's answers have met."""

    def config(self) -> RunnableConfig:
        """The run's config as the graph sees it; identity comes last, so that no request can forge it."""
        given = self._kwargs.config
        ids = {
            "run_id": str(self._claim.run_id),
            "thread_id": str(self._claim.thread_id),
            "graph_id": self._claim.graph_id,
            "assistant_id": str(self._claim.assistant_id),
        }
        configurable = {
            **given.get("configurable", {}),
            **ids,
            **identity(self._claim.owner, None if self._kwargs.user is None else User(self._kwargs.user)),
            "checkpoint_ns": "",
        }
        metadata = {**self._claim.metadata, **ids, "run_attempt": self._claim.attempt}
        config: RunnableConfig = {"configurable": configurable, "metadata": metadata, "run_id": self._claim.run_id}
        if limit := given.get("recursion_limit"):
            config["recursion_limit"] = limit
        if tags := given.get("tags"):
            config["tags"] = tags
        return config

    async def given(self, graph: Graph, config: RunnableConfig) -> tuple[Dispatch, Any]:
        """What to hand to the graph; where a fork has still to begin, `config` is made to say at which checkpoint.

        Raises:
            LateAnswer: none of the run's answers has a question any more.
            GraphChanged: the thread's state belongs to a revision of the graph that this one cannot go on from.
            StateLost: the thread had a state, and it is gone.
        """
        if self._claim.attempt == 1 and self._is_input and not (self._may_dangle or self._changed(graph)):
            config["configurable"] |= self._fork
            return Dispatch.ORIGINAL, self._kwargs.as_input(None)
        snapshot = await graph.aget_state(latest(self._claim))
        self.check_state(graph, snapshot)
        answers = self._kwargs.answers
        open_answers = still_pending(answers, pending_ids(snapshot)) if answers is not None else None
        dispatch = Dispatch.ORIGINAL
        if self._claim.attempt > 1:
            dispatch = recovery(await self._standing(graph, snapshot), is_command=self._kwargs.command is not None)
        begins = dispatch is Dispatch.ORIGINAL and not self._wrote(snapshot)
        await self._check_revision(graph, snapshot, goes_on=not (begins and self._is_input))
        if self._claim.attempt == 1:
            self.read = frozenset(open_answers or {})
            if answers and not open_answers:
                raise LateAnswer("The question was answered or dropped before this answer's turn came.")
        if dispatch is Dispatch.ANSWERS:
            return dispatch, RunKwargs.answers_only(open_answers or {})
        if begins:
            config["configurable"] |= self._fork
            if self._is_input:
                await self._repair(graph, snapshot, config)
        return dispatch, self._kwargs.as_input(open_answers)

    def check_state(self, graph: Graph, snapshot: StateSnapshot) -> None:
        """
        Raises:
            StateLost: the thread has values, and the checkpointer has no checkpoint that they could be of.
        """
        if isinstance(saver_of(graph), ForeignSaver) and self._claim.value_digests:
            check_there(snapshot)

    @property
    def _fork(self) -> dict[str, Any]:
        """The older checkpoint at which the request wants to begin."""
        return dict(self._kwargs.checkpoint or {})

    @property
    def _is_input(self) -> bool:
        return self._kwargs.command is None and self._kwargs.input is not None

    @property
    def _may_dangle(self) -> bool:
        return self._repairs and (self._claim.torn or self._kwargs.checkpoint is not None)

    def _wrote(self, snapshot: StateSnapshot) -> bool:
        return (snapshot.metadata or {}).get("run_id") == str(self._claim.run_id)

    def _changed(self, graph: Graph) -> bool:
        """Whether another revision of the graph may have written the thread's state. The claim knows of checkpoints in
        Postgres only."""
        return isinstance(saver_of(graph), ForeignSaver) or self._claim.graph_revision not in (
            None,
            fingerprint_of(graph),
        )

    async def _check_revision(self, graph: Graph, snapshot: StateSnapshot, *, goes_on: bool) -> None:
        self.wrote_here = self._wrote(snapshot)
        then = await written_under(self._revisions, self._claim.graph_id, graph, snapshot.metadata)
        if then is None:
            return
        if goes_on:
            waiting = waiting_nodes(await saver_of(graph).aget_tuple(snapshot.config))
            check_waiting(self._claim.graph_id, then, revision_of(graph), waiting)
        check_readable(self._claim.graph_id, then, revision_of(graph))

    async def _repair(self, graph: Graph, snapshot: StateSnapshot, config: RunnableConfig) -> None:
        """Answer dangling tool calls where the input is to be applied."""
        at: Mapping[str, Any] = snapshot.config["configurable"]
        if self._fork:
            at = {**latest(self._claim)["configurable"], **self._fork}
        if not self._repairs or not at.get("checkpoint_id"):
            return
        labels = {
            "graph_id": self._claim.graph_id,
            "assistant_id": str(self._claim.assistant_id),
            "repair": REPAIR,
            "repaired_for": str(self._claim.run_id),
        }
        repaired = await answer_dangling_calls(graph, {"configurable": dict(at)}, labels, self._kwargs.input)
        if self._fork and repaired is not None:
            config["configurable"] |= repaired["configurable"]

    async def _standing(self, graph: Graph, snapshot: StateSnapshot) -> Standing:
        return Standing(
            written_by_this_run=self._wrote(snapshot),
            open_tasks=has_open_tasks(snapshot),
            at_breakpoint=await self._at_breakpoint(graph, snapshot),
            command_saved=self._claim.command_saved and await self._has_command(graph, snapshot),
        )

    async def _has_command(self, graph: Graph, snapshot: StateSnapshot) -> bool:
        """What the run's row says of its command was committed with it in Postgres, and before it elsewhere."""
        saver = saver_of(graph)
        return not isinstance(saver, ForeignSaver) or await saver.has_command(snapshot.config)

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


def latest(run: Claimed) -> RunnableConfig:
    """The config that names the thread's latest checkpoint."""
    return {"configurable": {"thread_id": str(run.thread_id), "checkpoint_ns": ""}}


def _names(breakpoints: Any, nodes: tuple[str, ...]) -> bool:
    return bool(breakpoints) and (breakpoints == "*" or not set(breakpoints).isdisjoint(nodes))
