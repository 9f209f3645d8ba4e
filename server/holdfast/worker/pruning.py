"""Pruning threads to their latest state, when somebody asks or when their time is up.

A delta channel stands in the writes of a checkpoint's ancestors, which are what pruning removes; LangGraph's own saver
refuses such threads. Here each one's value is put together once more, by the channel of the graph itself, and stored
whole on the checkpoint that stays. The edit token keeps every other writer out meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph._internal._typing import MISSING
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.pregel import Pregel
from langgraph.store.base import BaseStore

from holdfast.db.checkpoints import FencedSaver
from holdfast.db.events import EventLog
from holdfast.db.foreign import NO_PRUNING, only_in_postgres
from holdfast.db.pool import Database
from holdfast.db.pruning import Pruning, Scattered, Whole
from holdfast.db.threads import Threads
from holdfast.errors import Conflict, DatabaseError, Missing, Unsaveable
from holdfast.rules.caller import SERVER, Caller
from holdfast.rules.thread import Strategy
from holdfast.worker.graphs import Graph, Graphs

logger = logging.getLogger(__name__)

BATCH = 500
RINGS = 100
"""Threads named by one ring of the bell, which may have 7900 bytes."""


class Pruner:
    """Prunes threads for the API and for the sweep."""

    def __init__(
        self, database: Database, threads: Threads, graphs: Graphs, store: BaseStore, events: EventLog
    ) -> None:
        self._database = database
        self._threads = threads
        self._events = events
        self._pruning = Pruning(database)
        self._graphs = graphs
        self._store = store

    async def prune(
        self, caller: Caller, thread_ids: Sequence[UUID], strategy: Strategy, *, interrupted: bool = True
    ) -> list[UUID]:
        """Prune those of the threads that are the caller's and have no run pending or running; which.

        Args:
            interrupted: threads that ask something, too.

        Raises:
            Unsupported: `keep_latest`, where checkpoints are kept elsewhere.
        """
        if strategy == "keep_latest":
            only_in_postgres(self._database, NO_PRUNING)
        distinct = list(dict.fromkeys(thread_ids))
        if strategy == "delete":
            return self._told(await self._pruning.delete(caller, distinct, interrupted=interrupted))
        prunable = set(await self._pruning.prunable(caller, distinct, interrupted=interrupted))
        return [
            thread_id for thread_id in distinct if thread_id in prunable and await self._keep_latest(caller, thread_id)
        ]

    async def estimate(
        self, caller: Caller, thread_ids: Sequence[UUID], strategy: Strategy, *, interrupted: bool = True
    ) -> tuple[int, int]:
        """How many threads `prune` would prune, and how many bytes of the database that would free; nothing is changed.

        Channels that are kept as deltas are stored whole on the checkpoint that stays, which is not counted.

        Raises:
            Unsupported: checkpoints are kept elsewhere.
        """
        only_in_postgres(self._database, "What pruning would free is not known")
        prunable = await self._pruning.prunable(caller, list(set(thread_ids)), interrupted=interrupted)
        freed = await self._pruning.bytes(prunable)
        if strategy == "keep_latest":
            freed -= sum([await self._pruning.bytes_of_latest(thread_id) for thread_id in prunable])
        return len(prunable), freed

    async def expire(self, limit: int, *, interrupted: bool = False) -> int:
        """Prune up to `limit` threads whose time is up, each by its own strategy; how many."""
        expired = len(self._told(await self._pruning.expire(limit=limit, interrupted=interrupted)))
        histories = await self._pruning.expired("keep_latest", limit=limit - expired, interrupted=interrupted)
        return expired + sum([await self._keep_latest(SERVER, thread_id) for thread_id in histories])

    def _told(self, deleted: list[UUID]) -> list[UUID]:
        """The followers of these threads look again, and find that they are gone."""
        for start in range(0, len(deleted), RINGS):
            self._events.grown(*deleted[start : start + RINGS])
        return deleted

    async def _keep_latest(self, caller: Caller, thread_id: UUID) -> bool:
        try:
            token = await self._threads.begin_edit(caller, thread_id)
            wholes = await self._wholes(caller, thread_id)
            await self._pruning.keep_latest(thread_id, token, wholes)
        except (Missing, Conflict, Unsaveable):
            return False
        return True

    async def _wholes(self, caller: Caller, thread_id: UUID) -> list[Whole]:
        scattered = await self._pruning.scattered(thread_id)
        if not scattered:
            return []
        standing = await self._threads.standing(caller, thread_id)
        try:
            return await self._put_together(thread_id, standing["metadata"].get("graph_id", ""), scattered)
        except DatabaseError:
            raise
        except Exception as error:  # noqa: BLE001 - the project's graph and its reducers
            logger.warning("thread %s keeps the history that its delta channels need: %s", thread_id, error)
            return []

    async def _put_together(self, thread_id: UUID, graph_id: str, scattered: Sequence[Scattered]) -> list[Whole]:
        config: RunnableConfig = {"configurable": {"thread_id": str(thread_id), "checkpoint_ns": ""}}
        saver = FencedSaver(self._database)
        found: list[Whole] = []
        async with self._graphs.open(
            graph_id, config, checkpointer=saver, store=self._store, access="threads.update"
        ) as graph:
            nested = {name: inner async for name, inner in graph.aget_subgraphs(recurse=True)}
            for head in scattered:
                owner = nested.get(_name(head.checkpoint_ns)) if head.checkpoint_ns else graph
                if isinstance(owner, Pregel):
                    found += await _wholes_of(thread_id, head, owner, graph.checkpointer)
        return found


async def sweep_expired(pruner: Pruner, *, interval: float, limit: int | None, interrupted: bool) -> None:
    """Prune what is due, at most `limit` threads, every `interval` seconds, until cancelled."""
    while True:
        try:
            left = limit
            while left is None or left > 0:
                batch = BATCH if left is None else min(BATCH, left)
                pruned = await pruner.expire(batch, interrupted=interrupted)
                left = left if left is None else left - pruned
                if pruned < batch:
                    break
        except DatabaseError as error:
            logger.warning("expired threads wait for the next sweep: %s", error)
        await asyncio.sleep(interval)


async def _wholes_of(thread_id: UUID, head: Scattered, graph: Graph, saver: object) -> list[Whole]:
    assert isinstance(saver, FencedSaver)
    place = {"thread_id": str(thread_id), "checkpoint_ns": head.checkpoint_ns, "checkpoint_id": head.checkpoint_id}
    channels = {name: graph.channels.get(name) for name in head.channels}
    deltas = {name: channel for name, channel in channels.items() if isinstance(channel, DeltaChannel)}
    histories = await saver.aget_delta_channel_history(config={"configurable": place}, channels=list(deltas))
    found = []
    for name, delta in deltas.items():
        channel = delta.from_checkpoint(histories[name].get("seed", MISSING))
        channel.replay_writes(histories[name]["writes"])
        kind, blob = saver.serde.dumps_typed(_DeltaSnapshot(channel.get()))
        found.append(Whole(head.checkpoint_ns, head.checkpoint_id, name, kind, blob))
    return found


def _name(checkpoint_ns: str) -> str:
    """`child:task|inner:task` -> `child|inner`, as LangGraph names a graph's subgraphs."""
    return "|".join(part.split(":")[0] for part in checkpoint_ns.split("|"))
