"""Checkpoints that a project keeps elsewhere: any of LangGraph's savers, behind what Holdfast asks of its own.

Theory of operation. Queue, threads, runs, events and the store stay in Postgres; only checkpoints and their writes go
to the other saver, so nothing here is one transaction. What is kept of the promises of `checkpoints.py`, and how:

* The fence is asked for in Postgres before every save. A worker that loses its claim between the answer and the save
  still saves that once.
* That a command's update was saved is noted before it is. Recovery believes the note where the write is there, too.
* A run that breaks off gives back the answers that it had read, so that the question can be answered anew. What an
  attempt had read that died with its process stays read.
* A thread's checkpoints go before its last row does; a save of a run that was still at it may come after.

What cannot be kept is refused (`only_in_postgres`). docs/checkpointers.md has all of it as a table.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from holdfast.db.checkpointids import come_after
from holdfast.db.checkpoints import NULL_TASK_ID, Fence, Progress, labels_of
from holdfast.db.pool import REPEAT_SECONDS, Database
from holdfast.db.serde import StateSerializer
from holdfast.db.sql import statements
from holdfast.errors import DatabaseError, FenceLost, Unsupported

logger = logging.getLogger(__name__)

NO_ROLLBACK = "A run cannot be rolled back"

NO_PRUNING = "Nothing can remove a thread's history and keep its latest state"

RESUME = "__resume__"
"""LangGraph's channel for the answers that a task has read."""


class ForeignSaver(BaseCheckpointSaver[Any]):
    """Another saver for one run or one state update; `fence=None` reads only.

    Raises:
        FenceLost: from every write, if a newer claim is known by then.
        Whatever the other saver raises: its saves are not tried again.
    """

    def __init__(self, inner: BaseCheckpointSaver[Any], database: Database, fence: Fence | None = None) -> None:
        super().__init__(serde=inner.serde)
        self._inner = inner
        self._database = database
        self._fence = fence
        self._replaced: dict[tuple[str, str, str, str, str], list[Any]] = {}
        """What tasks of older checkpoints had read before this run: thread, namespace, checkpoint, task, path."""
        self.progress = Progress()
        self.graph_revision: str | None = None
        """The fingerprint of the graph that writes here, kept with every checkpoint."""

    def reading(self, serde: JsonPlusSerializer, allowed: frozenset[tuple[str, str]]) -> Self:
        """The same saver, which may read these types, as far as the other saver can be told."""
        clone = copy.copy(self)
        if isinstance(self._inner.serde, StateSerializer):
            clone._inner = copy.copy(self._inner)
            clone._inner.serde = serde
        else:
            clone._inner = self._inner.with_allowlist(allowed)
        clone.serde = clone._inner.serde
        return clone

    async def seal(self) -> None:
        """Wait for what is being saved, refuse what comes later, and give back the answers that were read."""
        await asyncio.sleep(0)
        await self.progress.idle.wait()
        if not self.progress.sealed and self._replaced:
            await self._check_fence()
            await self._give_back()
        self.progress.sealed = True

    async def save_held(self) -> None:
        """Nothing is held here: an input is saved at once."""

    def get_next_version(self, current: Any, channel: None) -> Any:
        return self._inner.get_next_version(current, channel)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        found = await self._inner.aget_tuple(config)
        if found is not None and self._fence is not None:
            named = config["configurable"]
            newest = found
            if get_checkpoint_id(config) is not None:
                # A branch begins at an older one, and comes after the newest all the same.
                latest = _place(named["thread_id"], named.get("checkpoint_ns", ""))
                newest = await self._inner.aget_tuple(latest) or found
            come_after(str(newest.config["configurable"]["checkpoint_id"]))
        return found

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        async for found in self._inner.alist(config, filter=filter, before=before, limit=limit):
            yield found

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return await self._inner.aget_delta_channel_history(config=config, channels=channels)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        labels: Any = labels_of(config, metadata, self.graph_revision)
        named = config["configurable"]
        # Without the rest of the config: not every saver leaves out of it what cannot be written down.
        place = _place(named["thread_id"], named["checkpoint_ns"], named.get("checkpoint_id"))
        self.progress.own_checkpoints.add(checkpoint["id"])
        with self._under_way():
            await self._check_fence()
            saved = await self._inner.aput(place, checkpoint, labels, new_versions)
        self.progress.steps_saved += metadata.get("source") == "loop"
        return saved

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        if not writes:
            return
        named = config["configurable"]
        place = _place(named["thread_id"], named["checkpoint_ns"], named["checkpoint_id"])
        is_borrowed = self._is_run and named["checkpoint_id"] not in self.progress.own_checkpoints
        self.progress.has_borrowed |= is_borrowed
        with self._under_way():
            await self._check_fence()
            if self._is_run and task_id == NULL_TASK_ID and any(channel not in WRITES_IDX_MAP for channel, _ in writes):
                await self._note("note_command")
            if is_borrowed and any(channel == RESUME for channel, _ in writes):
                await self._remember(place, task_id, task_path)
            await self._inner.aput_writes(place, writes, task_id, task_path)

    async def has_command(self, config: RunnableConfig) -> bool:
        """Whether a command's update was saved at a checkpoint."""
        found = await self._inner.aget_tuple(config)
        return any(
            task == NULL_TASK_ID and channel not in WRITES_IDX_MAP
            for task, channel, _ in (found and found.pending_writes) or ()
        )

    @property
    def _is_run(self) -> bool:
        return self._fence is not None and self._fence.kind == "run"

    async def _give_back(self) -> None:
        for (*place, task_id, task_path), before in self._replaced.items():
            try:
                await self._inner.aput_writes(_place(*place), [(RESUME, before)], task_id, task_path)
            except Exception:
                # The run is over all the same.
                logger.warning("task %s keeps the answer that it had read", task_id, exc_info=True)

    async def _remember(self, place: RunnableConfig, task_id: str, task_path: str) -> None:
        named = place["configurable"]
        key = (named["thread_id"], named["checkpoint_ns"], named["checkpoint_id"], task_id, task_path)
        if key in self._replaced:
            return
        found = await self._inner.aget_tuple(place)
        read = [
            value
            for task, channel, value in (found and found.pending_writes) or ()
            if task == task_id and channel == RESUME
        ]
        self._replaced[key] = list(read[-1]) if read else []

    async def _check_fence(self) -> None:
        if self._fence is not None and not await self._note(f"{self._fence.kind}_fence"):
            raise FenceLost(f"{self._fence.kind} {self._fence.id}: token {self._fence.token} is no longer valid")

    async def _note(self, verb: str) -> bool:
        assert self._fence is not None
        params = {"fence_id": self._fence.id, "fence_token": self._fence.token}

        async def asked() -> bool:
            async with self._database.connection("worker") as conn:
                return await (await conn.execute(statements("checkpoints")[verb], params)).fetchone() is not None

        return await self._database.retrying(asked, for_seconds=REPEAT_SECONDS)

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        """Something is being saved: whoever seals waits for it."""
        if self._fence is None or self.progress.sealed:
            raise FenceLost("this saver was opened for reading")
        self.progress.begin()
        try:
            yield
        finally:
            self.progress.end()


def only_in_postgres(database: Database, what: str) -> None:
    """
    Raises:
        Unsupported: checkpoints are kept elsewhere, where this cannot be done.
    """
    if database.checkpoints_elsewhere is not None:
        raise Unsupported(f"{what}: this server keeps checkpoints outside of Postgres (checkpointer.backend).")


async def forget_elsewhere(database: Database, thread_ids: Sequence[UUID]) -> None:
    """Remove what another saver keeps of these threads.

    Raises:
        DatabaseError: it did not; the same call may succeed later.
    """
    if (saver := database.checkpoints_elsewhere) is None:
        return
    for thread_id in thread_ids:
        try:
            await saver.adelete_thread(str(thread_id))
        except Exception as error:
            raise DatabaseError(f"thread {thread_id}: its checkpoints could not be removed: {error}") from error


async def copy_elsewhere(database: Database, thread_id: UUID, copy_id: UUID) -> frozenset[str]:
    """Copy what another saver keeps of a thread, oldest first; the ids of the checkpoints."""
    if (saver := database.checkpoints_elsewhere) is None:
        return frozenset()
    found = [one async for one in saver.alist({"configurable": {"thread_id": str(thread_id)}})]
    for one in reversed(found):
        named = one.config["configurable"]
        parent = one.parent_config["configurable"]["checkpoint_id"] if one.parent_config else None
        labels: Any = dict(one.metadata)
        if "thread_id" in labels:
            labels["thread_id"] = str(copy_id)
        put = await saver.aput(
            _place(str(copy_id), named["checkpoint_ns"], parent),
            one.checkpoint,
            labels,
            one.checkpoint["channel_versions"],
        )
        by_task: dict[str, list[tuple[str, Any]]] = {}
        for task_id, channel, value in one.pending_writes or ():
            by_task.setdefault(task_id, []).append((channel, value))
        for task_id, writes in by_task.items():
            await saver.aput_writes(put, writes, task_id)
    return frozenset(str(one.config["configurable"]["checkpoint_id"]) for one in found)


def _place(thread_id: str, checkpoint_ns: str, checkpoint_id: str | None = None) -> RunnableConfig:
    place = {"thread_id": thread_id, "checkpoint_ns": checkpoint_ns}
    return {"configurable": place if checkpoint_id is None else place | {"checkpoint_id": checkpoint_id}}
