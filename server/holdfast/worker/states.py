"""Reading and updating a thread's state, which takes its graph: `get_state`, history, `update_state`.

A state update is a writer like a run. It holds the thread's edit token, given only while nothing is pending or
running there; every checkpoint it saves is fenced by it, and a run that is admitted meanwhile wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph.types import StateSnapshot
from langgraph_sdk.runtime import AccessContext

from holdfast.db.checkpoints import Fence, FencedSaver
from holdfast.db.pool import Database
from holdfast.db.threads import Threads
from holdfast.db.trees import Stores
from holdfast.errors import BadRequest, Conflict, FenceLost, HoldfastError, UnknownGraph
from holdfast.rules.caller import Caller
from holdfast.wire.state import thread_state
from holdfast.worker.graphs import Graphs
from holdfast.worker.outcome import outcome_of

Checkpoint = Mapping[str, Any]
"""`{checkpoint_id?, checkpoint_ns?, checkpoint_map?}`."""


class States:
    """The states of threads, for the API."""

    def __init__(self, database: Database, threads: Threads, graphs: Graphs, stores: Stores) -> None:
        self._database = database
        self._threads = threads
        self._graphs = graphs
        self._stores = stores

    async def get(
        self, caller: Caller, thread_id: UUID, checkpoint: Checkpoint | None = None, *, subgraphs: bool = False
    ) -> dict[str, Any]:
        """A ThreadState; an empty one for a thread without checkpoints or an unknown checkpoint id."""
        standing = await self._threads.standing(caller, thread_id)
        config = _config(thread_id, checkpoint)
        graph_id = standing["metadata"].get("graph_id")
        if graph_id is None:
            return thread_state(_empty(config))
        with _guarded("The thread's state cannot be read"):
            async with self._graph(caller, graph_id, config) as graph:
                return thread_state(await graph.aget_state(config, subgraphs=subgraphs))

    async def history(
        self,
        caller: Caller,
        thread_id: UUID,
        *,
        limit: int,
        before: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> list[dict[str, Any]]:
        """ThreadStates, newest first; `before` is a checkpoint id."""
        standing = await self._threads.standing(caller, thread_id)
        graph_id = standing["metadata"].get("graph_id")
        if graph_id is None:
            return []
        config = _config(thread_id, checkpoint)
        earlier = _config(thread_id, {"checkpoint_id": before}) if before else None
        with _guarded("The thread's history cannot be read"):
            async with self._graph(caller, graph_id, config) as graph:
                snapshots = graph.aget_state_history(
                    config, filter=dict(metadata) if metadata else None, before=earlier, limit=limit
                )
                return [thread_state(snapshot) async for snapshot in snapshots]

    async def update(
        self,
        caller: Caller,
        thread_id: UUID,
        values: Any,
        *,
        as_node: str | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> dict[str, Any]:
        """Write a state update; returns the new checkpoint's coordinates.

        Raises:
            BadRequest: the thread has no graph yet, or the graph refuses the update.
            Conflict: the thread is busy, or was changed meanwhile.
        """
        standing = await self._threads.standing(caller, thread_id)
        graph_id = standing["metadata"].get("graph_id")
        if graph_id is None:
            raise BadRequest(f"Thread {thread_id} has no graph_id in its metadata: run an assistant on it first.")
        token = await self._threads.begin_edit(caller, thread_id)
        config = _config(thread_id, checkpoint)
        config["metadata"] = {"graph_id": graph_id, "assistant_id": standing["metadata"].get("assistant_id")}
        with _guarded("The graph refuses this update"):
            async with self._graph(caller, graph_id, config, Fence("edit", thread_id, token)) as graph:
                updated = await graph.aupdate_state(config, values, as_node=as_node)
                snapshot = await graph.aget_state(_config(thread_id, None))
        await self._threads.end_edit(thread_id, token, outcome_of(snapshot))
        return dict(updated["configurable"])

    def _graph(self, caller: Caller, graph_id: str, config: RunnableConfig, fence: Fence | None = None) -> Any:
        saver = FencedSaver(self._database, fence)
        store = self._stores.of(caller.owner)
        access: AccessContext = "threads.update" if fence else "threads.read"
        try:
            return self._graphs.open(graph_id, config, checkpointer=saver, store=store, access=access)
        except UnknownGraph as unknown:
            raise BadRequest(str(unknown)) from unknown


@contextmanager
def _guarded(what: str) -> Iterator[None]:
    """The user's reducers and schemas run inside; whatever they raise is an answer, never a 500."""
    try:
        yield
    except FenceLost as lost:
        raise Conflict("The thread was changed while its state was being updated.") from lost
    except HoldfastError:
        raise
    except Exception as error:
        raise BadRequest(f"{what}: {error or type(error).__name__}") from error


def _config(thread_id: UUID, checkpoint: Checkpoint | None) -> RunnableConfig:
    configurable: dict[str, Any] = {"thread_id": str(thread_id), "checkpoint_ns": ""}
    for key in ("checkpoint_id", "checkpoint_ns", "checkpoint_map"):
        if checkpoint is not None and checkpoint.get(key):
            configurable[key] = checkpoint[key]
    return {"configurable": configurable}


def _empty(config: RunnableConfig) -> StateSnapshot:
    return StateSnapshot({}, (), config, None, None, None, (), ())
