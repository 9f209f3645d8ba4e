"""What is wrong with threads, and mending it: for `holdfast doctor` and `POST /threads/{thread_id}/repair`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph.types import StateSnapshot

from holdfast.db.checkpoints import Fence
from holdfast.db.healing import STUCK, Healing
from holdfast.db.pool import Database
from holdfast.db.revisions import Revisions
from holdfast.db.savers import saver_for
from holdfast.db.threads import Threads
from holdfast.db.trees import Stores
from holdfast.errors import Conflict, DatabaseError, FenceLost, GraphChanged, UnknownGraph, Unreadable
from holdfast.rules.caller import Caller
from holdfast.wire import codec
from holdfast.worker.dangling import REPAIR, answer_dangling_calls, repairing_updates
from holdfast.worker.graphs import Graph, Graphs
from holdfast.worker.outcome import outcome_of
from holdfast.worker.revisions import (
    check_readable,
    check_waiting,
    revision_of,
    saver_of,
    waiting_nodes,
    written_under,
)

logger = logging.getLogger(__name__)

UNREADABLE, CHANGED, DANGLING = "unreadable_state", "graph_changed", REPAIR


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a thread; `kind` is one of `STUCK`, or what the constants above say."""

    thread_id: UUID
    kind: str
    text: str
    graph_id: str | None = None

    @property
    def view(self) -> dict[str, str]:
        return {"kind": self.kind, "detail": self.text}


class Checkup:
    """Looks at threads, and mends what can be mended without losing anything."""

    def __init__(self, database: Database, threads: Threads, graphs: Graphs, stores: Stores) -> None:
        self._database = database
        self._threads = threads
        self._graphs = graphs
        self._stores = stores
        self._healing = Healing(database)
        self._revisions = Revisions(database)

    async def stuck(self) -> list[Finding]:
        """Rows that do not agree, on all threads."""
        return [
            Finding(thread_id, kind, text)
            for kind, text in STUCK.items()
            for thread_id in await self._healing.find(kind)
        ]

    async def unstick(self) -> int:
        """Mend them; on how many threads something was mended."""
        return len({thread_id for mended in (await self._healing.heal_all()).values() for thread_id in mended})

    async def states(self, caller: Caller, *, live_only: bool, limit: int | None) -> tuple[int, list[Finding]]:
        """How many threads were looked at, and what is wrong with their states.

        Args:
            caller: whose store a graph is opened with; no row is asked for in their name.
            live_only: threads that wait for something, or on which something is active.
        """
        rows = await self._healing.resting(live_only=live_only, limit=limit)
        found = [await self._examine(caller, row["thread_id"], row["graph_id"]) for row in rows]
        return len(rows), [finding for finding in found if finding is not None]

    async def mark(self, finding: Finding) -> bool:
        """Let a thread say that its state cannot be read; whether it did not say so before."""
        error = codec.error_body(Unreadable(finding.text))
        return finding.kind == UNREADABLE and await self._healing.mark_unreadable(finding.thread_id, error)

    async def repair(self, caller: Caller, thread_id: UUID, *, dry_run: bool) -> dict[str, Any]:
        """What is wrong with one thread, and what of it was mended.

        Raises:
            Missing: no such thread of this caller.
            Conflict: the thread is busy.
        """
        standing = await self._threads.standing(caller, thread_id)
        kinds = [kind for kind in STUCK if await self._healing.find(kind, thread_id)]
        findings = [Finding(thread_id, kind, STUCK[kind]) for kind in kinds]
        if standing["status"] == "busy" and "busy_without_runs" not in kinds:
            raise Conflict("Thread is busy: it can be repaired when its runs have ended.")
        repaired = [] if dry_run else [kind for kind in kinds if await self._healing.heal(kind, [thread_id])]
        if "resting_with_runs" not in kinds and (graph_id := standing["metadata"].get("graph_id")):
            finding = await self._examine(caller, thread_id, graph_id)
            if finding is None and not standing["interrupts"]:
                finding = await self._dangling(caller, thread_id, graph_id)
            if finding is not None:
                findings.append(finding)
                if not dry_run and await self._mend(caller, standing, finding):
                    repaired.append(finding.kind)
        views = [finding.view for finding in findings]
        return {"thread_id": str(thread_id), "findings": views, "repaired": repaired, "dry_run": dry_run}

    async def _mend(self, caller: Caller, standing: Mapping[str, Any], finding: Finding) -> bool:
        if finding.kind == DANGLING:
            await self._answer(caller, finding.thread_id, standing["metadata"])
            return True
        return await self.mark(finding)

    async def _examine(self, caller: Caller, thread_id: UUID, graph_id: str) -> Finding | None:
        def found(kind: str, error: Exception) -> Finding:
            return Finding(thread_id, kind, str(error), graph_id)

        try:
            async with self._graph(caller, thread_id, graph_id) as graph:
                await self._look(graph, thread_id, graph_id)
        except (GraphChanged, UnknownGraph) as changed:
            return found(CHANGED, changed)
        except Unreadable as unreadable:
            return found(UNREADABLE, unreadable)
        except DatabaseError:
            raise
        except Exception as error:  # noqa: BLE001 - the project's reducers and schemas may raise anything
            return found(UNREADABLE, error)
        return None

    async def _look(self, graph: Graph, thread_id: UUID, graph_id: str) -> None:
        snapshot = await graph.aget_state(_latest(thread_id))
        then = await written_under(self._revisions, graph_id, graph, snapshot.metadata)
        if then is not None:
            now = revision_of(graph)
            check_readable(graph_id, then, now)
            check_waiting(graph_id, then, now, waiting_nodes(await saver_of(graph).aget_tuple(snapshot.config)))

    async def _dangling(self, caller: Caller, thread_id: UUID, graph_id: str) -> Finding | None:
        async with self._graph(caller, thread_id, graph_id) as graph:
            at = await _place(graph, thread_id)
            if at is None or not await repairing_updates(graph, at):
                return None
        return Finding(thread_id, DANGLING, "tool calls have no answer, and providers refuse such a history", graph_id)

    async def _answer(self, caller: Caller, thread_id: UUID, metadata: Mapping[str, Any]) -> None:
        token = await self._threads.begin_edit(caller, thread_id)
        labels = {"graph_id": metadata["graph_id"], "assistant_id": metadata.get("assistant_id"), "repair": REPAIR}
        try:
            async with self._graph(caller, thread_id, metadata["graph_id"], Fence("edit", thread_id, token)) as graph:
                if (at := await _place(graph, thread_id)) is not None:
                    await answer_dangling_calls(graph, at, labels)
                snapshot = await graph.aget_state(_latest(thread_id))
        except FenceLost as lost:
            raise Conflict("The thread was changed while it was being repaired.") from lost
        await self._threads.end_edit(thread_id, token, outcome_of(snapshot))

    def _graph(self, caller: Caller, thread_id: UUID, graph_id: str, fence: Fence | None = None) -> Any:
        return self._graphs.open(
            graph_id,
            _latest(thread_id),
            checkpointer=saver_for(self._database, fence),
            store=self._stores.of(caller.owner),
            access="threads.update" if fence else "threads.read",
            user=caller.user,
        )


async def _place(graph: Graph, thread_id: UUID) -> RunnableConfig | None:
    snapshot: StateSnapshot = await graph.aget_state(_latest(thread_id))
    return snapshot.config if snapshot.config["configurable"].get("checkpoint_id") else None


def _latest(thread_id: UUID) -> RunnableConfig:
    return {"configurable": {"thread_id": str(thread_id), "checkpoint_ns": ""}}
