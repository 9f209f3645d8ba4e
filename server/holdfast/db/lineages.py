"""How delta channels came to be what they are: walks back through the checkpoints that wrote to them.

A checkpoint has its parent's id, and ids grow, so a walk reads checkpoints newest first, a bounded number at a time,
and follows the parents among them. It ends at an ancestor that holds the channel's value, or at the first of all. The
rules are LangGraph's (`get_delta_channel_history` of its saver); what is found stays as it is stored, for callers that
need some of it, or some of it more than once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langgraph.checkpoint.base import writes_sort_key
from psycopg.rows import tuple_row

from holdfast.db.pool import Connection
from holdfast.db.sql import statements

CHECKPOINTS = 1024
"""Read at a time."""

Stored = tuple[str, bytes]
"""A value as it is stored: its type, its bytes."""
Written = tuple[str, str, str, bytes, str, int]
"""A write: its checkpoint, its task, type and bytes of its value, the task's path, its number among the task's."""


@dataclass(slots=True)
class Line:
    """One channel's walk from a checkpoint."""

    start: str
    ancestors: list[str] = field(default_factory=list)
    """Newest first; the last one may hold the channel's value."""
    seed: Stored | None = None
    """That value, if it is stored beside the checkpoint."""
    inline: Any = None
    """That value, if it stands in the checkpoint itself."""
    writes: dict[str, list[Written]] = field(default_factory=dict)
    """Of each ancestor (and of others beside the line), in the order in which they count."""
    places: dict[str, int] = field(default_factory=dict)
    """0 is the start's, an ancestor's is one more than its index."""
    version: str | None = None
    """Under which the seed is stored."""
    _next: str | None = None

    def __post_init__(self) -> None:
        self._next = self.start
        self.places[self.start] = 0

    def covers(self, checkpoint_id: str) -> bool:
        """Whether what this one was made from is on the line. Of the last one only its own value is."""
        place = self.places.get(checkpoint_id)
        return place is not None and (place == 0 or place < len(self.ancestors))

    def go_on(self, page: Mapping[str, tuple[str | None, str | None, Any]]) -> bool:
        """Walk through some checkpoints, by id: parent, version of a stored value, value inside. True at the end."""
        while self._next is not None and self._next in page:
            parent, version, inline = page[self._next]
            if self._next != self.start:
                self.ancestors.append(self._next)
                self.places[self._next] = len(self.ancestors)
                if version is not None or inline is not None:
                    self.version, self.inline, parent = version, inline, None
            self._next = parent
        return self._next is None


async def walk(
    conn: Connection, thread_id: str, checkpoint_ns: str, start: str, channels: Sequence[str]
) -> dict[str, Line]:
    """The lines of these channels from one checkpoint."""
    named = statements("histories")
    place = {"thread_id": thread_id, "checkpoint_ns": checkpoint_ns}
    lines = {channel: Line(start) for channel in channels}
    async with conn.cursor(binary=True, row_factory=tuple_row) as cursor:
        before: str | None = None
        is_more = True
        while is_more:
            params = {"start": before or start, "before": before, "channels": list(channels), "limit": CHECKPOINTS}
            rows = await (await cursor.execute(named["lineage"], place | params)).fetchall()
            pages: dict[str, dict[str, Any]] = {channel: {} for channel in channels}
            for checkpoint_id, parent, channel, version, inline in rows:
                pages[channel][checkpoint_id] = (parent, version, inline)
            ended = [line.go_on(pages[channel]) for channel, line in lines.items()]
            is_more = not all(ended) and len(rows) == CHECKPOINTS * len(channels)
            before = rows[-1][0] if rows else None
        for channel, line in lines.items():
            span = {"channel": channel, "start": start, "oldest": line.ancestors[-1] if line.ancestors else start}
            line.writes = _sorted(await (await cursor.execute(named["written"], place | span)).fetchall())
        held = {channel: line.version for channel, line in lines.items() if line.version is not None}
        if held:
            params = {"channels": list(held), "versions": list(held.values())}
            for channel, kind, blob in await (await cursor.execute(named["seeds"], place | params)).fetchall():
                lines[channel].seed = kind, blob
    return lines


def _sorted(rows: Sequence[Written]) -> dict[str, list[Written]]:
    writes: dict[str, list[Written]] = {}
    for row in rows:
        writes.setdefault(row[0], []).append(row)
    for several in writes.values():
        if len(several) > 1:
            several.sort(key=lambda row: writes_sort_key(row[4], row[1], row[5]))
    return writes
