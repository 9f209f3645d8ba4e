"""The saver: LangGraph's checkpoint tables, written under a fence.

Theory of operation. The stock `AsyncPostgresSaver` holds one lock around every call, even with a pool, and sends each
put as a pipeline of statements. This one keeps its tables and its reading code and changes how it writes:

* No lock: every call takes a connection of the pool for as long as its one statement runs.
* One statement, so one round trip and one transaction: blobs and checkpoint (or all writes of a task) come as arrays.
* What runs save at the same time is one statement and one transaction for all of them (`saves.py`). Alone goes what the
  group did not take, what is large, what a state update saves, and writes that have to look at what was there before.
* The fence is part of that statement. A run's fence is its fencing token; a state update's is the thread's edit
  token. The row is locked FOR SHARE, so a newer claim either waits for this write or is seen by it. No row:
  `FenceLost`, nothing saved.
* What is written comes after what was read, whatever the clocks of the hosts say (`checkpointids.py`).
* A graph's input is saved with what its first superstep makes of it, which is the mapping to the state's channels and
  the routes from there: no node runs before it is saved, and until then the run's row is what keeps the input.
* Saves are idempotent, so a lost connection retries the save; the run does not notice (invariant 2).
* A task's writes replace what an earlier attempt left under the same task id. Within one fence there is one writer, and
  a leftover of a rolled-back input must not win over the new one.

Values that JSONB would refuse or change travel as blobs (`inline.py`).

What is read is turned into values once the connection is back in the pool: lists that are kept by element take another
query (`elements.py`), and whoever held one connection while it waited for a second could wait for ever.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
    get_checkpoint_id,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.base import SerializerProtocol
from psycopg import AsyncCursor
from psycopg.rows import DictRow

from holdfast.db import items, saves
from holdfast.db.checkpointids import come_after
from holdfast.db.elements import TYPE, Elements, Missing, Row, put_together
from holdfast.db.inline import plain, split
from holdfast.db.lineages import Line, walk
from holdfast.db.pool import PERSISTENT_SECONDS, REPEAT_SECONDS, Connection, Database, json_bytes
from holdfast.db.serde import StateSerializer
from holdfast.db.sql import statements
from holdfast.errors import FenceLost, Unreadable

NULL_TASK_ID = "00000000-0000-0000-0000-000000000000"
"""LangGraph's task id for writes that belong to no task: a command's update and goto."""

SAVE_RETRY_SECONDS = PERSISTENT_SECONDS
"""How long a save outlives a lost database before the run gives up."""


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to write: a run's claim, or a state update's hold on its thread."""

    kind: Literal["run", "edit"]
    id: UUID
    token: int


@dataclass(slots=True)
class Progress:
    """What a saver has done; its clones, which read other types, share it."""

    steps_saved: int = 0
    """Supersteps of the graph and its subgraphs; inputs do not count."""
    has_borrowed: bool = False
    """Whether it wrote to a checkpoint that was there before it."""
    held: list[items.Item] = field(default_factory=list)
    """The input's checkpoint and the writes to it, which go with whatever is saved next."""
    sealed: bool = False
    saving: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    own_checkpoints: set[str] = field(default_factory=set)
    written: set[tuple[str, str]] = field(default_factory=set)
    """Tasks that have saved writes here, by checkpoint."""

    def __post_init__(self) -> None:
        self.idle.set()

    def begin(self) -> None:
        self.saving += 1
        self.idle.clear()

    def end(self) -> None:
        self.saving -= 1
        if not self.saving:
            self.idle.set()


def labels_of(config: RunnableConfig, metadata: CheckpointMetadata, graph_revision: str | None) -> dict[str, Any]:
    """What is kept beside a checkpoint: LangGraph's metadata, and the fingerprint of the graph that wrote it."""
    labels: dict[str, Any] = {**get_serializable_checkpoint_metadata(config, metadata)}
    if graph_revision is not None:
        labels["graph_revision"] = graph_revision
    marked: dict[str, Any] = plain(labels)
    return marked


class FencedSaver(AsyncPostgresSaver):
    """A saver for one run or one state update; `fence=None` reads only.

    Raises:
        FenceLost: from every write, once a newer claim exists.
        DatabaseUnavailable: when the database stays away, for a run for `SAVE_RETRY_SECONDS`.
        Unsaveable: when Postgres refuses the value itself.
        Unreadable: from every read, where a stored value cannot be had back; names channel and checkpoint.
    """

    def __init__(
        self,
        database: Database,
        fence: Fence | None = None,
        committer: saves.Saves | None = None,
        *,
        new_thread: UUID | None = None,
    ) -> None:
        """`committer` commits a run's saves with others. `new_thread` has no checkpoint but those saved here."""
        super().__init__(database.pool, serde=StateSerializer())
        self._database = database
        self._fence = fence
        self._saves = committer
        self._new_thread = None if new_thread is None else str(new_thread)
        self._elements = Elements(database, self._borrowed)
        # A request can be sent again, a run cannot.
        self._patience = SAVE_RETRY_SECONDS if self._is_run else REPEAT_SECONDS
        self.progress = Progress()
        self.graph_revision: str | None = None
        """The fingerprint of the graph that writes here, kept with every checkpoint."""
        self.by_element = False
        """Whether long lists are stored by element from now on; all that is stored can be read in any case."""
        self.holds_inputs = False
        """Whether no node runs in the superstep behind a run's input, so that both may be saved together."""

    def reading(self, serde: SerializerProtocol) -> Self:
        """The same saver, with another reader of values."""
        clone = copy.copy(self)
        clone.serde = serde
        return clone

    async def seal(self) -> None:
        """Wait for what is being saved and refuse what comes later: this saver reads only from now on.

        A graph that is cancelled more than once, or whose node does not heed it, leaves saves behind. They must not
        come between the state that is read at its end and the status that this state gives its thread.
        """
        await asyncio.sleep(0)
        await self.progress.idle.wait()
        self.progress.sealed = True
        await self.save_held()

    async def save_held(self) -> None:
        """Save the input now, with which nothing else went."""
        if self._fence is not None:
            held, self.progress.held = self.progress.held, []
            for item in held:
                await self._save_alone(self._fence, *item.alone())

    @asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncIterator[AsyncCursor[DictRow]]:
        # What the stock saver sends as a pipeline (deleting, pruning) belongs into one transaction.
        borrowed = self._database.transaction("worker") if pipeline else self._borrowed()
        async with borrowed as conn, conn.cursor(binary=True) as cursor:
            yield cursor

    def _borrowed(self) -> AbstractAsyncContextManager[Connection]:
        """A connection to read with."""
        return self._database.connection("worker")

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        if config["configurable"]["thread_id"] == self._new_thread and not self.progress.own_checkpoints:
            return None
        await self.save_held()
        read = super().aget_tuple

        async def row() -> list[CheckpointTuple]:
            return [found] if (found := await read(config)) else []

        loaded = await self._loaded(row)
        found = loaded[0] if loaded else None
        if found is not None and self._fence is not None:
            come_after(await self._newest_id(config, found))
        return found

    async def _newest_id(self, config: RunnableConfig, found: CheckpointTuple) -> str:
        """The newest checkpoint's id, where `config` may name an older one, from which a branch begins."""
        known = str(found.config["configurable"]["checkpoint_id"])
        if get_checkpoint_id(config) is None:
            return known
        named = config["configurable"]
        params = {"thread_id": named["thread_id"], "checkpoint_ns": named.get("checkpoint_ns", "")}

        async def newest() -> str:
            async with self._database.connection("worker") as conn:
                row = await (await conn.execute(statements("checkpoints")["newest_id"], params)).fetchone()
                return str(row["checkpoint_id"]) if row else known

        return await self._database.retrying(newest, for_seconds=self._patience)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        await self.save_held()
        read = super().alist

        async def page() -> list[CheckpointTuple]:
            return [found async for found in read(config, filter=filter, before=before, limit=limit)]

        for found in await self._loaded(page):
            yield found

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        start = get_checkpoint_id(config)
        if start is None:
            newest = await self.aget_tuple(config)
            start = newest.config["configurable"]["checkpoint_id"] if newest else ""
        lines = await self._walk(config, start, channels)
        with reading_deltas(channels, config):
            return {channel: self._replayed(channel, line, 0) for channel, line in lines.items()}

    async def _walk(self, config: RunnableConfig, start: str, channels: Sequence[str]) -> dict[str, Line]:
        await self.save_held()
        place = config["configurable"]

        async def walked() -> dict[str, Line]:
            async with self._borrowed() as conn:
                return await walk(conn, place["thread_id"], place.get("checkpoint_ns", ""), start, channels)

        lines = await self._database.retrying(walked, for_seconds=self._patience)
        for line in lines.values():
            if line.seed is not None and line.seed[0] == TYPE:
                root = line.seed[1]
                parts = await self._elements.fetch(place["thread_id"], [root], for_seconds=self._patience)
                with reading_deltas(channels, config):
                    line.seed = "msgpack", put_together(root, parts)
        return lines

    def _replayed(self, channel: str, line: Line, place: int) -> DeltaChannelHistory:
        """All that was written before this place of a line, and on what, in objects of nobody else's."""
        history: DeltaChannelHistory = {"writes": self._written(channel, line, place, len(line.ancestors))}
        if line.seed is not None:
            history["seed"] = self.serde.loads_typed(line.seed)
        elif line.inline is not None:
            history["seed"] = line.inline
        return history

    def _written(self, channel: str, line: Line, place: int, last: int) -> list[PendingWrite]:
        """What was written between two places of a line, the older one included."""
        return [
            (task, channel, self.serde.loads_typed((kind, blob)))
            for ancestor in reversed(line.ancestors[place:last])
            for _, task, kind, blob, *_ in line.writes.get(ancestor, ())
        ]

    async def _load_checkpoint_tuple(self, value: DictRow) -> CheckpointTuple:
        """Leaves a row as it is: the stock saver comes here with its connection in hand."""
        return cast("CheckpointTuple", value)

    async def _loaded(self, read: Callable[[], Awaitable[list[CheckpointTuple]]]) -> list[CheckpointTuple]:
        """What the stock saver reads, in values. If a thread is pruned between the two steps, they are taken again."""
        rows = cast("list[DictRow]", await self._database.retrying(read, for_seconds=self._patience))
        try:
            await self._put_together(rows)
        except Missing:
            rows = cast("list[DictRow]", await self._database.retrying(read, for_seconds=self._patience))
            await self._put_together(rows)
        return [self._tuple(row) for row in rows]

    async def _put_together(self, rows: Sequence[DictRow]) -> None:
        """Put the lists in these rows together that are kept by element."""
        roots = [(row, blob) for row in rows for blob in row["channel_values"] or () if blob[1] == TYPE.encode()]
        wanted: dict[str, list[bytes]] = {}
        for row, blob in roots:
            wanted.setdefault(row["thread_id"], []).append(blob[2])
        found = {
            thread_id: await self._elements.fetch(thread_id, named, for_seconds=self._patience)
            for thread_id, named in wanted.items()
        }
        for row, blob in roots:
            parts = found[row["thread_id"]]
            with _reading(f"checkpoint {row['checkpoint_id']}: channel '{blob[0].decode()}'"):
                blob[1:] = self._list(row, blob[2], parts)

    def _list(self, row: DictRow, root: bytes, parts: Mapping[bytes, Row]) -> tuple[bytes, Any]:  # noqa: ARG002
        """A row's list that is kept by element, as the type and the bytes that LangGraph would have stored."""
        return b"msgpack", put_together(root, parts)

    def _tuple(self, row: DictRow) -> CheckpointTuple:
        place = {"thread_id": row["thread_id"], "checkpoint_ns": row["checkpoint_ns"]}
        parent = row["parent_checkpoint_id"]
        checkpoint = row["checkpoint"]
        with _reading(f"checkpoint {row['checkpoint_id']}"):
            inline = checkpoint.get("channel_values") or {}
            return CheckpointTuple(
                {"configurable": place | {"checkpoint_id": row["checkpoint_id"]}},
                checkpoint | {"channel_values": inline | self._load_blobs(row["channel_values"])},
                row["metadata"],
                {"configurable": place | {"checkpoint_id": parent}} if parent else None,
                self._load_writes(row["pending_writes"]),
            )

    def _load_blobs(self, blob_values: list[tuple[bytes, bytes, bytes]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for blob in blob_values or ():
            with _reading(f"channel '{blob[0].decode()}'"):
                values |= super()._load_blobs([blob])
        return values

    def _load_writes(
        self, writes: list[tuple[bytes, bytes, bytes, bytes, bytes, bytes]] | None
    ) -> list[tuple[str, str, Any]]:
        try:
            return super()._load_writes(writes)
        except Unreadable:
            for write in writes or ():
                with _reading(f"a write to channel '{write[1].decode()}'"):
                    super()._load_writes([write])
            raise

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        configurable = config["configurable"]
        inline, blobs = split(checkpoint["channel_values"])
        labels = labels_of(config, metadata, self.graph_revision)
        new = {channel: value for channel, value in blobs.items() if channel in new_versions}
        lists = self._elements.dump(self.serde, configurable["thread_id"], new if self.by_element else {})
        roots = lists.roots
        of = configurable["thread_id"], configurable["checkpoint_ns"]
        rows = self._dump_blobs(
            configurable["thread_id"],
            configurable["checkpoint_ns"],
            blobs,
            {channel: new_versions[channel] for channel in new if channel not in roots},
        )
        # Before the save: the writes of the first tasks are under way at the same time.
        self.progress.own_checkpoints.add(checkpoint["id"])
        params = {
            "thread_id": configurable["thread_id"],
            "checkpoint_ns": configurable["checkpoint_ns"],
            "checkpoint_id": checkpoint["id"],
            "parent_id": configurable.get("checkpoint_id"),
            "checkpoint": json_bytes({**checkpoint, "channel_values": inline}),
            "metadata": json_bytes(labels),
        }
        rows += [(*of, channel, str(new_versions[channel]), TYPE, root) for channel, root in roots.items()]
        with self._under_way() as fence:
            item = items.checkpoint(fence.token, rows, params, lists.rows)
            if self.holds_inputs and self._is_run and metadata.get("source") == "input" and not of[1]:
                await self.save_held()
                self.progress.held.append(item)
            else:
                await self._save(fence, item)
        self._elements.committed(lists)
        self.progress.steps_saved += metadata.get("source") == "loop"
        return {
            "configurable": {
                "thread_id": configurable["thread_id"],
                "checkpoint_ns": configurable["checkpoint_ns"],
                "checkpoint_id": checkpoint["id"],
            }
        }

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        if not writes:
            return
        configurable = config["configurable"]
        regular = [channel for channel, _ in writes if channel not in WRITES_IDX_MAP]
        dumped = self._dump_writes(
            configurable["thread_id"],
            configurable["checkpoint_ns"],
            configurable["checkpoint_id"],
            task_id,
            task_path,
            writes,
        )
        # A task that asked several questions repeats its answers for each of them, all in one place; the last count.
        rows = list({row[5]: row for row in dumped}.values())
        is_borrowed = self._is_run and configurable["checkpoint_id"] not in self.progress.own_checkpoints
        is_command = task_id == NULL_TASK_ID and bool(regular) and self._is_run
        task = (configurable["checkpoint_id"], task_id)
        is_first = task not in self.progress.written and not is_borrowed and not is_command
        self.progress.written.add(task)
        self.progress.has_borrowed |= is_borrowed
        params = {
            "thread_id": configurable["thread_id"],
            "checkpoint_ns": configurable["checkpoint_ns"],
            "checkpoint_id": configurable["checkpoint_id"],
            "task_id": task_id,
            "task_path": task_path,
            # Special writes (an interrupt, a resume) have negative places and stay beside the regular ones.
            "length": len(writes) if regular else 2**31 - 1,
            "is_command": is_command,
            "is_borrowed": is_borrowed,
        }
        with self._under_way() as fence:
            item = items.writes(fence.token, rows, params, is_first=is_first)
            if is_first and any(held.checkpoint_id == item.checkpoint_id for held in self.progress.held):
                self.progress.held.append(item)
            else:
                await self._save(fence, item)

    @property
    def _is_run(self) -> bool:
        return self._fence is not None and self._fence.kind == "run"

    async def _save(self, fence: Fence, item: items.Item) -> None:
        """Save it, and what is held, together or else in their order."""
        due, self.progress.held = [*self.progress.held, item], []
        if self._saves is not None and fence.kind == "run" and item.rows:
            rows = [row for one in due for row in one.rows]
            if await self._saves.saved(saves.Save(fence.id, fence.token, (fence.token, item.key), rows)):
                return
        for one in due:
            await self._save_alone(fence, *one.alone())

    async def _save_alone(self, fence: Fence, verb: str, params: dict[str, Any]) -> None:
        query = _fenced(verb, fence.kind)
        params |= {"fence_id": fence.id, "fence_token": fence.token}

        async def write() -> int:
            async with self._database.connection("worker") as conn:
                row = await (await conn.execute(query, params)).fetchone()
                return int(row["saved"]) if row else 0

        if not await self._database.retrying(write, for_seconds=self._patience):
            raise FenceLost(f"{fence.kind} {fence.id}: token {fence.token} is no longer valid")

    @contextmanager
    def _under_way(self) -> Iterator[Fence]:
        """Something is being saved: whoever seals waits for it."""
        if self._fence is None or self.progress.sealed:
            raise FenceLost("this saver was opened for reading")
        self.progress.begin()
        try:
            yield self._fence
        finally:
            self.progress.end()


# LangGraph asks for the signature with every run; made once, it is at hand.
FencedSaver.aput_writes.__signature__ = inspect.signature(FencedSaver.aput_writes)  # type: ignore[attr-defined]


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Says where an unreadable value stands."""
    try:
        yield
    except Unreadable as unreadable:
        raise type(unreadable)(f"{what}: {unreadable}") from unreadable


def reading_deltas(channels: Sequence[str], config: RunnableConfig) -> AbstractContextManager[None]:
    """The same for what these channels were before a checkpoint."""
    return _reading(f"channel {', '.join(map(repr, channels))} before checkpoint {get_checkpoint_id(config)}")


def _fenced(verb: str, kind: str) -> str:
    named = statements("checkpoints")
    return named[verb].replace("%%FENCE%%", named[f"{kind}_fence"])
