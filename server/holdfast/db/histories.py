"""Reading many states of one thread, newest first.

A delta channel is kept as the writes of a checkpoint's ancestors, so its value is fetched by a walk through them. The
rows of a history are each other's ancestors: what the second one replays is what the first one replayed, without the
newest writes. So a walk is kept, and a checkpoint that lies on it takes its part of it. Ten rows of a long thread then
cost one walk instead of ten.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import DeltaChannelHistory, PendingWrite, get_checkpoint_id

from holdfast.db.checkpoints import FencedSaver
from holdfast.db.pool import Database


@dataclass(frozen=True, slots=True)
class _Walk:
    """One channel's walk: ancestors newest first, the number of writes of each, and all of these, oldest first."""

    ancestors: Sequence[str]
    counts: Mapping[str, int]
    writes: Sequence[PendingWrite]
    seed: tuple[str, bytes] | None
    """The snapshot that the walk ended at, as it is stored."""

    def part(self, checkpoint_id: str) -> list[PendingWrite] | None:
        """The writes that come before this checkpoint's own; None where the walk does not say."""
        if checkpoint_id not in self.ancestors[:-1]:
            return None
        newer = self.ancestors[: self.ancestors.index(checkpoint_id) + 1]
        return list(self.writes[: len(self.writes) - sum(self.counts[one] for one in newer)])


class HistorySaver(FencedSaver):
    """A saver that reads; one per page of history."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._walks: dict[str, _Walk] = {}

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        known = {channel: self._known(channel, get_checkpoint_id(config)) for channel in channels}
        if all(known.values()):
            return cast("dict[str, DeltaChannelHistory]", known)
        return await super().aget_delta_channel_history(config=config, channels=channels)

    def _known(self, channel: str, checkpoint_id: str | None) -> DeltaChannelHistory | None:
        walk = self._walks.get(channel)
        if walk is None or checkpoint_id is None or (writes := walk.part(checkpoint_id)) is None:
            return None
        found: DeltaChannelHistory = {"writes": _own(writes)}
        if walk.seed is not None:
            found["seed"] = self.serde.loads_typed(walk.seed)
        return found

    def _build_delta_channels_writes_history(self, **walked: Any) -> dict[str, DeltaChannelHistory]:
        # The stock saver comes through here with what a walk has found.
        found = super()._build_delta_channels_writes_history(**walked)
        for channel, history in found.items():
            rows = [row for row in walked["stage2_rows"] if row["channel"] == channel]
            seeds = [(row["type"], row["blob"]) for row in rows if row["_kind"] == "b" and row["type"] != "empty"]
            if "seed" in history and not seeds:
                continue  # a plain value, kept in the checkpoint itself
            self._walks[channel] = _Walk(
                walked["chain_by_ch"][channel],
                Counter(row["checkpoint_id"] for row in rows if row["_kind"] == "w"),
                _own(history["writes"]),
                seeds[0] if seeds else None,
            )
        return found


def _own(writes: Sequence[PendingWrite]) -> list[PendingWrite]:
    """A careless reducer adds to the list or dict that comes first, which must not be another state's."""
    return [(task, channel, copy.copy(value)) for task, channel, value in writes[:1]] + list(writes[1:])
