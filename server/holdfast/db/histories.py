"""Reading many states of one thread: a page of its history.

Theory of operation. A delta channel is kept as the writes of a checkpoint's ancestors, back to a snapshot. The rows of
a page are each other's ancestors: what the second one replays is what the first one replayed, without the newest
writes. So a page is read like this:

* One walk from its newest row finds the ancestors, and their writes as they are stored. Rows that are on it need no
  walk of their own; a fork, or a snapshot that the page passes, costs one more.
* The rows come **oldest first**, and a channel's value is carried on from row to row: a write is deserialised once and
  goes through the reducer once, as when it happened.
* Reducers may change what they are given. A row's values therefore hold only until the next row is asked for; whoever
  wants to keep them writes them down before (`worker/states.py`). What is carried on came down one line of
  checkpoints: another branch begins again from what is stored, and so does the row after one whose pending writes
  LangGraph puts through the reducer while it shows the row.

Without the graph's channels (`carries`) every row is replayed from its snapshot.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph._internal._typing import MISSING
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import CheckpointTuple, DeltaChannelHistory, PendingWrite, get_checkpoint_id
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from holdfast.db.checkpoints import NULL_TASK_ID, FencedSaver, reading_deltas
from holdfast.db.lineages import Line, walk
from holdfast.db.pool import Database


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

    def carries(self, channels: Mapping[str, object]) -> None:
        """Say which channels the graph has whose history is going to be read."""
        self._deltas = {name: channel for name, channel in channels.items() if isinstance(channel, DeltaChannel)}

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        page = [found async for found in super().alist(config, filter=filter, before=before, limit=limit)]
        page.reverse()
        self._page = [_id_of(found.config) for found in page]
        self._disturbed = {
            _id_of(found.config)
            for found in page
            if any(task == NULL_TASK_ID for task, _, _ in found.pending_writes or ())
        }
        for found in page:
            yield found

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
            value.replay_writes(self._writes(channel, line, place, last))
        else:
            history = self._replayed(channel, line, place)
            value = delta.from_checkpoint(history.get("seed", MISSING))
            value.replay_writes(history["writes"])
        if checkpoint_id not in self._disturbed:
            self._carried[channel] = _Carried(checkpoint_id, value.get())
        return {"writes": [], "seed": _DeltaSnapshot(value.get())}

    def _replayed(self, channel: str, line: Line, place: int) -> DeltaChannelHistory:
        """All that was written before this place, and on what, in objects of nobody else's."""
        history: DeltaChannelHistory = {"writes": self._writes(channel, line, place, len(line.ancestors))}
        if line.seed is not None:
            history["seed"] = self.serde.loads_typed(line.seed)
        elif line.inline is not None:
            history["seed"] = line.inline
        return history

    def _writes(self, channel: str, line: Line, place: int, last: int) -> list[PendingWrite]:
        """What was written between two places of a line, the older one included."""
        return [
            (task, channel, self.serde.loads_typed((kind, blob)))
            for ancestor in reversed(line.ancestors[place:last])
            for _, task, kind, blob, *_ in line.writes.get(ancestor, ())
        ]

    async def _walk(self, config: RunnableConfig, start: str, channels: Sequence[str]) -> dict[str, Line]:
        place = config["configurable"]

        async def walked() -> dict[str, Line]:
            async with self._database.connection("worker") as conn:
                return await walk(conn, place["thread_id"], place.get("checkpoint_ns", ""), start, channels)

        return await self._database.retrying(walked, for_seconds=self._patience)


def _id_of(config: RunnableConfig) -> str:
    return str(config["configurable"]["checkpoint_id"])
