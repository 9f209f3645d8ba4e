"""Reading and updating a thread's state, which takes its graph: `get_state`, history, `update_state`.

A state update is a writer like a run. It holds the thread's edit token, given only while nothing is pending or
running there; every checkpoint it saves is fenced by it, and a run that is admitted meanwhile wins.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

from langchain_core.runnables import RunnableConfig
from langgraph._internal._config import recast_checkpoint_ns
from langgraph.pregel import Pregel
from langgraph.types import StateSnapshot, StateUpdate
from langgraph_sdk.runtime import AccessContext

from holdfast.db.checkpoints import Fence
from holdfast.db.copies import Copies
from holdfast.db.foreign import ForeignSaver, copy_elsewhere
from holdfast.db.histories import HistorySaver
from holdfast.db.idempotency import Key, Made
from holdfast.db.pool import Database
from holdfast.db.revisions import Revisions
from holdfast.db.savers import reader_of_history, saver_for
from holdfast.db.threads import Threads
from holdfast.db.trees import Stores
from holdfast.errors import BadRequest, Conflict, FenceLost, HoldfastError, Refusal, UnknownGraph, Unsaveable
from holdfast.rules.caller import Caller, identity
from holdfast.rules.revision import UNKNOWN
from holdfast.rules.thread import Ttl
from holdfast.wire import codec, sse
from holdfast.wire.state import thread_state
from holdfast.worker.graphs import Graph, Graphs
from holdfast.worker.outcome import outcome_of
from holdfast.worker.revisions import check_readable, check_there, fingerprint_of, revision_of, saver_of

logger = logging.getLogger(__name__)

Checkpoint = Mapping[str, Any]
"""`{checkpoint_id?, checkpoint_ns?, checkpoint_map?}`."""


class States:
    """The states of threads, for the API."""

    def __init__(self, database: Database, threads: Threads, graphs: Graphs, stores: Stores) -> None:
        self._database = database
        self._revisions = Revisions(database)
        self._threads = threads
        self._copies = Copies(database)
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
                snapshot = await graph.aget_state(config, subgraphs=subgraphs)
                _check_there(graph, standing, checkpoint, snapshot)
                await self._check(graph_id, graph, snapshot)
                return thread_state(snapshot)

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
        """ThreadStates, newest first, whose values are JSON already (`codec.written`); `before` is a checkpoint id."""
        standing = await self._threads.standing(caller, thread_id)
        graph_id = standing["metadata"].get("graph_id")
        if graph_id is None:
            return []
        config = _config(thread_id, checkpoint)
        earlier = _config(thread_id, {"checkpoint_id": before}) if before else None
        with _guarded("The thread's history cannot be read"):
            async with self._graph(caller, graph_id, config) as graph:
                if isinstance(saver := graph.checkpointer, HistorySaver):
                    saver.carries(_shown_by(graph, config).channels)
                past = graph.aget_state_history(
                    config, filter=dict(metadata) if metadata else None, before=earlier, limit=limit
                )
                # Ours lists the oldest first, and each is written down before the next one may change what it holds.
                shown = [(snapshot, _written(thread_state(snapshot))) async for snapshot in past]
                await self._check(graph_id, graph, *(snapshot for snapshot, _ in shown))
                states = [state for _, state in shown]
                return states[::-1] if isinstance(saver, HistorySaver) else states

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
        if self._database.checkpoints_elsewhere is not None and standing["checkpoint_id"]:
            await self.get(caller, thread_id)  # refuses where the state is lost
        config = _writing_config(thread_id, standing["metadata"], checkpoint)
        token = await self._threads.begin_edit(caller, thread_id)
        fence = Fence("edit", thread_id, token)
        written, snapshot = await self._apply(caller, config, fence, [[StateUpdate(values, as_node)]])
        said = codec.dumps({"state": thread_state(snapshot), "thread_id": str(thread_id)})
        frame = sse.frame("state_update", said, None)
        await self._threads.end_edit(thread_id, token, outcome_of(snapshot), frame=frame, by=caller.owner)
        return written

    async def create(
        self,
        caller: Caller,
        thread_id: UUID,
        metadata: Mapping[str, Any],
        supersteps: Sequence[Sequence[StateUpdate]],
        *,
        or_keep: bool,
        ttl: Ttl | None = None,
        key: Key | None = None,
    ) -> Made | None:
        """Create a thread with these states; nobody sees it before the last of them is written.

        Returns what the request's key stands for, if an equal request was carried out meanwhile.

        Raises:
            BadRequest: no graph_id in the metadata, or the graph refuses an update; there is no thread then.
            Conflict: the id is taken.
        """
        config = _writing_config(thread_id, metadata, None)
        token = await self._threads.draft(caller, thread_id, metadata, or_keep=or_keep, ttl=ttl)
        if token is None:
            return None
        made = (caller, key) if key else None
        try:
            _, snapshot = await self._apply(caller, config, Fence("edit", thread_id, token), supersteps)
            before = await self._threads.end_edit(thread_id, token, outcome_of(snapshot), made=made, by=caller.owner)
        except (Refusal, Unsaveable):
            await self._threads.discard(thread_id, token)
            raise
        if before is not None:
            await self._threads.discard(thread_id, token)
        return before

    async def copy(self, caller: Caller, thread_id: UUID) -> UUID:
        """Copy a thread as far as it is committed; the id of the copy.

        Raises:
            Missing: no such thread of this caller.
        """
        copy_id = uuid4()
        is_behind = await self._copied(caller, thread_id, copy_id)
        if is_behind:
            try:
                await self._refresh(caller, copy_id)
            except Refusal as refusal:
                logger.warning("copy %s shows the state that its source had before its run: %s", copy_id, refusal)
        return copy_id

    async def _copied(self, caller: Caller, thread_id: UUID, copy_id: UUID) -> bool:
        """Copy rows and checkpoints; whether the copy's row may be behind its checkpoints."""
        if self._database.checkpoints_elsewhere is None:
            return await self._copies.copy(caller, thread_id, copy_id)
        await self._threads.standing(caller, thread_id)
        copied = await copy_elsewhere(self._database, thread_id, copy_id)
        was_busy = await self._copies.copy(caller, thread_id, copy_id)
        shown = (await self._threads.standing(caller, copy_id))["checkpoint_id"]
        if not was_busy and (not shown or shown in copied):
            return False
        # Something was saved between the two.
        await copy_elsewhere(self._database, thread_id, copy_id)
        return True

    async def _refresh(self, caller: Caller, thread_id: UUID) -> None:
        """Bring a thread's row up to its checkpoints."""
        standing = await self._threads.standing(caller, thread_id)
        config = _writing_config(thread_id, standing["metadata"], None)
        token = await self._threads.begin_edit(caller, thread_id)
        _, snapshot = await self._apply(caller, config, Fence("edit", thread_id, token), [])
        await self._threads.end_edit(thread_id, token, outcome_of(snapshot), by=caller.owner)

    async def _apply(
        self, caller: Caller, config: RunnableConfig, fence: Fence, supersteps: Sequence[Sequence[StateUpdate]]
    ) -> tuple[dict[str, Any], StateSnapshot]:
        """Write supersteps; the newest checkpoint's coordinates, and the state they lead to."""
        written = config
        with _guarded("The graph refuses this update"):
            async with self._graph(caller, config["metadata"]["graph_id"], config, fence) as graph:
                if supersteps:
                    await self._check(config["metadata"]["graph_id"], graph, await graph.aget_state(config))
                    written = await graph.abulk_update_state(config, supersteps)
                snapshot = await graph.aget_state(_config(fence.id, None))
        return dict(written["configurable"]), snapshot

    async def _check(self, graph_id: str, graph: Graph, *snapshots: StateSnapshot) -> None:
        """
        Raises:
            GraphChanged: a state would read as empty with the graph as it is now.
        """
        foreign = {(shown.metadata or {}).get("graph_revision") for shown in snapshots} - {None, fingerprint_of(graph)}
        for fingerprint in sorted(map(str, foreign)):
            then = await self._revisions.find(graph_id, fingerprint) or UNKNOWN
            check_readable(graph_id, then, revision_of(graph))

    def _graph(self, caller: Caller, graph_id: str, config: RunnableConfig, fence: Fence | None = None) -> Any:
        known = {**config["configurable"], **identity(caller.owner, caller.user)}
        saver = saver_for(self._database, fence) if fence else reader_of_history(self._database)
        store = self._stores.of(caller.owner)
        access: AccessContext = "threads.update" if fence else "threads.read"
        try:
            return self._graphs.open(
                graph_id,
                {**config, "configurable": known},
                checkpointer=saver,
                store=store,
                access=access,
                user=caller.user,
            )
        except UnknownGraph as unknown:
            raise BadRequest(str(unknown)) from unknown


def _check_there(
    graph: Graph, standing: Mapping[str, Any], checkpoint: Checkpoint | None, snapshot: StateSnapshot
) -> None:
    if isinstance(saver_of(graph), ForeignSaver) and standing["checkpoint_id"] and not checkpoint:
        check_there(snapshot)


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


def _writing_config(thread_id: UUID, metadata: Mapping[str, Any], checkpoint: Checkpoint | None) -> RunnableConfig:
    graph_id = metadata.get("graph_id")
    if not isinstance(graph_id, str):
        raise BadRequest(f"Thread {thread_id} has no graph_id in its metadata: run an assistant on it first.")
    config = _config(thread_id, checkpoint)
    config["metadata"] = {"graph_id": graph_id, "assistant_id": metadata.get("assistant_id")}
    return config


def _shown_by(graph: Graph, config: RunnableConfig) -> Graph:
    """The graph whose states a config names: where it has a namespace, that subgraph, as LangGraph finds it."""
    if checkpoint_ns := config["configurable"]["checkpoint_ns"]:
        for _, inner in graph.get_subgraphs(namespace=recast_checkpoint_ns(checkpoint_ns), recurse=True):
            return inner if isinstance(inner, Pregel) else graph
    return graph


def _written(state: dict[str, Any]) -> dict[str, Any]:
    """The same with its values as JSON, one by one where they have names."""
    values = state["values"]
    if isinstance(values, dict):
        return state | {"values": {name: codec.written(value) for name, value in values.items()}}
    return state | {"values": codec.written(values)}


def _empty(config: RunnableConfig) -> StateSnapshot:
    return StateSnapshot({}, (), config, None, None, None, (), ())
