"""Reading many states of one thread: a page of its history.

Theory of operation. A delta channel is kept as the writes of a checkpoint's ancestors, back to a snapshot. The rows of
a page are each other's ancestors: what the second one replays is what the first one replayed, without the newest
writes. So a page is read like this:

* One walk from its newest row finds the ancestors, and their writes as they are stored. Rows that are on it need no
  walk of their own; a fork, or a snapshot that the page passes, costs one more.
* The rows come **oldest first**, and a channel's value is carried on from row to row: a write is deserialised once and
  goes through the reducer once, as when it happened.
* Lists that are kept by element (`elements.py`) are fetched for the whole page at once, and an element that several
  rows have is deserialised once and is in all of them.
* Reducers may change what they are given. A row's values therefore hold only until the next row is asked for; whoever
  wants to keep them writes them down before (`worker/states.py`). What is carried on came down one line of
  checkpoints: another branch begins again from what is stored, and so does the row after one whose pending writes
  LangGraph puts through the reducer while it shows the row.

Without the graph's channels (`carries`) every row is replayed from its snapshot.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph._internal._typing import MISSING
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import CheckpointTuple, DeltaChannelHistory, get_checkpoint_id
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from psycopg.rows import DictRow

from holdfast.db.checkpoints import NULL_TASK_ID, FencedSaver, reading_deltas
from holdfast.db.elements import Row, array, pieces
from holdfast.db.lineages import Line
from holdfast.db.pool import Connection, Database

SHARED = b"holdfast-shared"
"""The type of a value that is no longer bytes."""


@dataclass(frozen=True, slots=True)
class _Carried:
    """A channel's value at a checkpoint."""

    checkpoint_id: str
    value: Any


class HistorySaver(FencedSaver):
    """A saver that reads; one per page of history, which it lists oldest first."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._deltas: dict[str, DeltaChannel[Any]] = {}
        self._page: list[str] = []
        self._disturbed: set[str] = set()
        self._lines: dict[str, list[Line]] = {}
        self._carried: dict[str, _Carried] = {}
        self._is_listing = False
        self._may_read_elsewhere = False
        self._shared: dict[bytes, list[Any]] = {}

    def carries(self, channels: Mapping[str, object]) -> None:
        """Say which channels the graph has whose history is going to be read."""
        self._may_read_elsewhere = True
        self._deltas = {name: channel for name, channel in channels.items() if isinstance(channel, DeltaChannel)}

    def _borrowed(self) -> AbstractAsyncContextManager[Connection]:
        return self._database.reading("worker") if self._may_read_elsewhere else super()._borrowed()

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        self._is_listing = True
        page = [found async for found in super().alist(config, filter=filter, before=before, limit=limit)]
        self._is_listing = False
        page.reverse()
        self._page = [_id_of(found.config) for found in page]
        for found in page:
            if any(task == NULL_TASK_ID for task, _, _ in found.pending_writes or ()):
                self._disturbed.add(_id_of(found.config))
        for found in page:
            yield found

    def _list(self, row: DictRow, root: bytes, parts: Mapping[bytes, Row]) -> tuple[bytes, Any]:
        if not self._is_listing or _is_disturbed(row["pending_writes"]):
            return super()._list(row, root, parts)
        found: list[Any] = []
        for digest, length, content in pieces(root, parts):
            values = self._shared.get(digest)
            if values is None:
                values = self.serde.loads_typed(("msgpack", array(length, content)))
            if digest:
                self._shared[digest] = values
            found += values
        return SHARED, found

    def _load_blobs(self, blob_values: list[tuple[bytes, bytes, Any]]) -> dict[str, Any]:
        shared = {channel.decode(): value for channel, kind, value in blob_values or () if kind is SHARED}
        return shared | super()._load_blobs([blob for blob in blob_values or () if blob[1] is not SHARED])

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        checkpoint_id = get_checkpoint_id(config)
        if checkpoint_id is None or checkpoint_id not in self._page:
            return await super().aget_delta_channel_history(config=config, channels=channels)
        lines = await self._lines_to(config, checkpoint_id, channels)
        with reading_deltas(channels, config):
            return {channel: self._history(channel, checkpoint_id, line) for channel, line in lines.items()}

    async def _lines_to(self, config: RunnableConfig, checkpoint_id: str, channels: Sequence[str]) -> dict[str, Line]:
        """For each channel a line with the checkpoint on it. A walk begins at the newest row that is on none."""
        found: dict[str, Line] = {}
        while True:
            for channel in channels:
                if channel not in found and (line := self._line(channel, checkpoint_id)) is not None:
                    found[channel] = line
            missing = [channel for channel in channels if channel not in found]
            if not missing:
                return found
            start = next(row for row in reversed(self._page) if self._line(missing[0], row) is None)
            for channel, line in (await self._walk(config, start, missing)).items():
                self._lines.setdefault(channel, []).append(line)

    def _line(self, channel: str, checkpoint_id: str) -> Line | None:
        return next((line for line in self._lines.get(channel, ()) if line.covers(checkpoint_id)), None)

    def _history(self, channel: str, checkpoint_id: str, line: Line) -> DeltaChannelHistory:
        """A channel's value as a seed with nothing to replay, where the channel is known."""
        place = line.places[checkpoint_id]
        delta = self._deltas.get(channel)
        if delta is None:
            return self._replayed(channel, line, place)
        carried = self._carried.pop(channel, None)
        last = line.places.get(carried.checkpoint_id, 0) if carried is not None else 0
        if carried is not None and last > place:
            value = delta.from_checkpoint(_DeltaSnapshot(carried.value))
            value.replay_writes(self._written(channel, line, place, last))
        else:
            history = self._replayed(channel, line, place)
            value = delta.from_checkpoint(history.get("seed", MISSING))
            value.replay_writes(history["writes"])
        if checkpoint_id not in self._disturbed:
            self._carried[channel] = _Carried(checkpoint_id, value.get())
        return {"writes": [], "seed": _DeltaSnapshot(value.get())}


def _id_of(config: RunnableConfig) -> str:
    return str(config["configurable"]["checkpoint_id"])


def _is_disturbed(pending: Sequence[Sequence[bytes]] | None) -> bool:
    """Whether these writes are put through the reducers while their row is shown: those that belong to no task."""
    return any(write[0].decode() == NULL_TASK_ID for write in pending or ())
