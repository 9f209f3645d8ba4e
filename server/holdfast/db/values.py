"""A thread's values, element by element, and the digests that tell what changed.

Writing a conversation's whole state at the end of every run costs more with every turn. So a list channel is kept as
one row per element, and beside the thread row stands a digest: eight bytes for every full group of 32 elements, and
eight for each element after the last full group. A run that appends two messages writes two rows and some three
hundred bytes of digest, however long the conversation is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from psycopg.rows import DictRow

from holdfast.db.pool import Connection
from holdfast.db.sql import statements

Values = Mapping[str, bytes | Sequence[bytes]]
"""Channel -> its value as ready JSON, or one JSON per element of a list."""

WHOLE = -1
"""The place of a value that is not a list, or an empty one."""

_DIGEST = 8
_GROUP = 32


@dataclass(frozen=True, slots=True)
class Column:
    """The digests of one channel: `groups` of 32 elements each, then single elements (`tail`)."""

    whole: bool
    groups: tuple[bytes, ...]
    tail: tuple[bytes, ...]

    @property
    def places(self) -> range:
        return range(WHOLE, 0) if self.whole else range(len(self.groups) * _GROUP + len(self.tail))


@dataclass(slots=True)
class Changes:
    """What has to be written so that the rows match the values."""

    put: list[tuple[str, int, bytes]] = field(default_factory=list)
    drop: list[tuple[str, int]] = field(default_factory=list)


def changes(known: Mapping[str, Column], values: Values) -> tuple[Changes, dict[str, Column]]:
    """The difference between the stored digests and `values`, and the digests to store next."""
    found = Changes()
    columns: dict[str, Column] = {}
    for channel, value in values.items():
        whole = isinstance(value, bytes) or not value
        elements = [value if isinstance(value, bytes) else b"[]"] if whole else list(value)
        digests = [blake2b(element, digest_size=_DIGEST).digest() for element in elements]  # type: ignore[arg-type]
        columns[channel] = column = _column(digests, whole=whole)
        stale = _stale_places(known.get(channel), column, digests)
        offset = WHOLE if whole else 0
        found.put += [(channel, place, elements[place - offset]) for place in stale]  # type: ignore[misc]
    for channel, column in known.items():
        kept = columns[channel].places if channel in columns else range(0)
        found.drop += [(channel, place) for place in column.places if place not in kept]
    return found, columns


def since(digests: bytes, values: Values) -> tuple[Changes, bytes]:
    """The difference between what packed digests say and `values`, and the packed digests to store next."""
    found, columns = changes(unpack(digests), values)
    return found, pack(columns)


async def store(conn: Connection, thread_id: object, values: Values) -> bytes:
    """Write what changed; returns the packed digests for the thread row. Part of the caller's transaction."""
    sql = statements("threads")
    row: DictRow | None = await (await conn.execute(sql["digests"], {"thread_id": thread_id})).fetchone()
    found, digests = since(row["value_digests"] if row else b"", values)
    if found.drop:
        await conn.execute(
            sql["drop_values"],
            {
                "thread_id": thread_id,
                "channels": [channel for channel, _ in found.drop],
                "idxs": [place for _, place in found.drop],
            },
        )
    if found.put:
        await conn.execute(
            sql["put_values"],
            {
                "thread_id": thread_id,
                "channels": [channel for channel, _, _ in found.put],
                "idxs": [place for _, place, _ in found.put],
                "values": [value.decode() for _, _, value in found.put],
            },
        )
    return digests


def pack(columns: Mapping[str, Column]) -> bytes:
    """Name length (2), name, whole (1), number of groups (4) and of single elements (1), digests: per channel."""
    packed = bytearray()
    for channel, column in columns.items():
        name = channel.encode()
        packed += len(name).to_bytes(2) + name + bytes([column.whole])
        packed += len(column.groups).to_bytes(4) + len(column.tail).to_bytes(1)
        packed += b"".join(column.groups) + b"".join(column.tail)
    return bytes(packed)


def unpack(packed: bytes) -> dict[str, Column]:
    """The inverse of `pack`."""
    columns: dict[str, Column] = {}
    at = 0
    while at < len(packed):
        name_end = at + 2 + int.from_bytes(packed[at : at + 2])
        channel = packed[at + 2 : name_end].decode()
        groups = int.from_bytes(packed[name_end + 1 : name_end + 5])
        total = groups + packed[name_end + 5]
        at = name_end + 6
        digests = tuple(packed[at + i * _DIGEST : at + (i + 1) * _DIGEST] for i in range(total))
        columns[channel] = Column(bool(packed[name_end]), digests[:groups], digests[groups:])
        at += total * _DIGEST
    return columns


def _column(digests: Sequence[bytes], *, whole: bool) -> Column:
    full = len(digests) // _GROUP
    groups = tuple(_group(digests[i * _GROUP : (i + 1) * _GROUP]) for i in range(full))
    return Column(whole, groups, tuple(digests[full * _GROUP :]))


def _group(digests: Sequence[bytes]) -> bytes:
    return blake2b(b"".join(digests), digest_size=_DIGEST).digest()


def _stale_places(known: Column | None, column: Column, digests: Sequence[bytes]) -> list[int]:
    """The places whose stored value is not known to be right."""
    if column.whole:
        return [] if known is not None and known.whole and known.tail == column.tail else [WHOLE]
    if known is None or known.whole:
        return list(range(len(digests)))
    same_groups = {i for i, group in enumerate(column.groups) if known.groups[i : i + 1] == (group,)}
    first_single = len(known.groups) * _GROUP
    singles = {first_single + i: digest for i, digest in enumerate(known.tail)}
    return [
        place
        for place, digest in enumerate(digests)
        if place // _GROUP not in same_groups and singles.get(place) != digest
    ]
