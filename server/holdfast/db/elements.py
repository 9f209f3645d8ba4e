"""Lists by element: a list that grows by one is stored with what is new, not with all that was there before.

Theory of operation. LangGraph stores a channel's value as one blob per version, so a conversation of n messages is kept
in n blobs of up to n messages. Here the blob of a list is a **root**, which names what the list is made of by digests,
and the bytes are rows of `holdfast.elements`, each once per thread.

A list's bytes in msgpack are a header and its elements, one after the other, so the parts of a list may be cut between
any two elements, and putting them together again is joining them: what comes out are the very bytes that LangGraph
would have stored. The cuts are those of a counter in base 16:

* Every 16 elements are a **leaf**: a row with the digests of 16 elements, which are rows themselves; or, where they are
  small, one row with their bytes.
* Every 16 leaves are a **node**, a row with their digests, and so on upwards.
* What has not filled a node, at each level, is named by the root, largest first; the last elements come at its end,
  as digests or, where they are few bytes, as they are.

To append is thus to write the new element and a root of some hundred bytes, and a leaf every 16th time. A change in the
middle writes the element, its leaf, and the nodes above; one that shifts elements writes the leaves behind it anew, but
no element. Equal elements are one row.

    root:  number of elements (4 bytes) | number of digests (2) | digests (16 each) | bytes of the last elements

Elements are serialised for every save, as without this: a message may have been changed in place since the last one.
What is spared is the rest: a saver remembers the rows that it has read or committed, which are neither fetched nor sent
again, and its last list, whose leaves are taken over where their elements are the same bytes. Nobody removes rows
from under a writer: pruning takes a thread's edit token, which no thread has that is busy, and whoever writes
afterwards has read after it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol

from holdfast.db.pool import Connection, Database
from holdfast.db.sql import statements
from holdfast.errors import Unreadable

TYPE = "holdfast-elements"
"""Of a root, among the types of LangGraph's blobs."""

LEAST = 8
"""Shorter lists are stored whole."""
FAN_OUT = 16
SMALL_LEAF = FAN_OUT * 64
"""Bytes up to which a leaf is one row."""
SMALL_REST = 512
"""Bytes up to which the last elements stand in the root."""

_DIGEST = 16
_HEAD = 6


class Missing(Unreadable):
    """A part of a list is not there: removed since its root was read, or lost."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of `holdfast.elements`; what it holds are elements (level 0), or digests of rows one level below."""

    digest: bytes
    level: int
    bytes: bytes


@dataclass(slots=True)
class Parts:
    """A list taken apart."""

    packed: Sequence[bytes]
    """Its elements in msgpack."""
    leaves: list[bytes] = field(default_factory=list)
    root: bytes = b""
    rows: dict[bytes, Row] = field(default_factory=dict)

    def add(self, level: int, content: bytes) -> bytes:
        digest = blake2b(content, digest_size=_DIGEST, person=b"node" if level else b"element").digest()
        self.rows[digest] = Row(digest, level, content)
        return digest


def take_apart(packed: Sequence[bytes], before: Parts | None = None) -> Parts:
    """A list of elements in msgpack, as rows and a root.

    Args:
        before: an earlier list, whose rows are stored: what is the same is not looked at again.
    """
    parts = Parts(packed)
    rest = len(packed) - len(packed) % FAN_OUT
    for number, start in enumerate(range(0, rest, FAN_OUT)):
        elements = packed[start : start + FAN_OUT]
        if before and number < len(before.leaves) and before.packed[start : start + FAN_OUT] == elements:
            parts.leaves.append(before.leaves[number])
        else:
            parts.leaves.append(_leaf(parts, elements))
    digests, named = parts.leaves, list[bytes]()
    level = 2
    while digests:
        full = len(digests) - len(digests) % FAN_OUT
        named = digests[full:] + named
        digests = [parts.add(level, b"".join(digests[at : at + FAN_OUT])) for at in range(0, full, FAN_OUT)]
        level += 1
    last = b"".join(packed[rest:])
    if len(last) > SMALL_REST:
        named += [parts.add(0, element) for element in packed[rest:]]
        last = b""
    parts.root = b"".join([len(packed).to_bytes(4), len(named).to_bytes(2), *named, last])
    return parts


def _leaf(parts: Parts, elements: Sequence[bytes]) -> bytes:
    content = b"".join(elements)
    if len(content) <= SMALL_LEAF:
        return parts.add(0, content)
    return parts.add(1, b"".join([parts.add(0, element) for element in elements]))


def put_together(root: bytes, rows: Mapping[bytes, Row]) -> bytes:
    """The list in msgpack.

    Raises:
        Missing: a row is not there.
        Unreadable: this is no root.
    """
    return array(int.from_bytes(root[:4]), b"".join([content for _, _, content in pieces(root, rows)]))


def pieces(root: bytes, rows: Mapping[bytes, Row]) -> Iterator[tuple[bytes, int, bytes]]:
    """The list piece by piece: digest (none of what stands in the root), number of elements, their bytes.

    Raises: as `put_together`.
    """
    named, length = _named(root), int.from_bytes(root[:4])
    end = _HEAD + _DIGEST * len(named)
    if len(root) < _HEAD or end != _HEAD + _DIGEST * int.from_bytes(root[4:_HEAD]):
        raise Unreadable("the root of a list is cut short")
    rest = length % FAN_OUT
    single = 0 if root[end:] else rest
    for digest in named[: len(named) - single]:
        yield from _pieces(digest, rows, FAN_OUT)
    for digest in named[len(named) - single :]:
        yield from _pieces(digest, rows, 1)
    if root[end:]:
        yield b"", rest, root[end:]


def _pieces(digest: bytes, rows: Mapping[bytes, Row], length: int) -> Iterator[tuple[bytes, int, bytes]]:
    if (row := rows.get(digest)) is None:
        raise Missing(f"a part of the list is missing ({digest.hex()})")
    if row.level == 0:
        yield digest, length, row.bytes
    for below in _below(row):
        yield from _pieces(below, rows, 1 if row.level == 1 else FAN_OUT)


def _named(root: bytes) -> list[bytes]:
    return _divided(root[_HEAD : _HEAD + _DIGEST * int.from_bytes(root[4:_HEAD])])


def _below(row: Row) -> list[bytes]:
    return _divided(row.bytes) if row.level else []


def _divided(digests: bytes) -> list[bytes]:
    return [digests[at : at + _DIGEST] for at in range(0, len(digests) - _DIGEST + 1, _DIGEST)]


def array(length: int, elements: bytes) -> bytes:
    """So many elements as an array in msgpack."""
    if length < 16:
        return bytes([0x90 | length]) + elements
    head = b"\xdc" + length.to_bytes(2) if length < 2**16 else b"\xdd" + length.to_bytes(4)
    return head + elements


@dataclass(slots=True)
class Dumped:
    """Values that are kept by element: their roots, and the rows that are to be stored with these."""

    thread_id: str
    lists: dict[str, Parts] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    @property
    def roots(self) -> dict[str, bytes]:
        return {name: parts.root for name, parts in self.lists.items()}


class Elements:
    """The elements of one saver's threads."""

    def __init__(self, database: Database, borrowed: Callable[[], AbstractAsyncContextManager[Connection]]) -> None:
        """`borrowed`: a connection to read with."""
        self._database = database
        self._borrowed = borrowed
        self._known: dict[str, dict[bytes, Row]] = {}
        self._before: dict[tuple[str, str], Parts] = {}

    def dump(self, serde: SerializerProtocol, thread_id: str, values: Mapping[str, Any]) -> Dumped:
        """Take those of these values apart, by channel, that are kept by element."""
        dumped = Dumped(thread_id)
        known = self._known.get(thread_id, {})
        new: dict[bytes, Row] = {}
        for name, value in values.items():
            if type(value) is list and len(value) >= LEAST:
                # A list of one element, without its header: what it is as part of a longer list.
                packed = [serde.dumps_typed([element])[1][1:] for element in value]
                parts = take_apart(packed, self._before.get((thread_id, name)))
                dumped.lists[name] = parts
                new |= {digest: row for digest, row in parts.rows.items() if digest not in known}
        # In order: two saves at once must not wait for each other's rows.
        dumped.rows = sorted(new.values(), key=lambda row: row.digest)
        return dumped

    def committed(self, dumped: Dumped) -> None:
        """These rows are stored, and need not be sent again."""
        self._known.setdefault(dumped.thread_id, {}).update((row.digest, row) for row in dumped.rows)
        self._before |= {(dumped.thread_id, name): parts for name, parts in dumped.lists.items()}

    async def fetch(self, thread_id: str, roots: Sequence[bytes], *, for_seconds: float) -> Mapping[bytes, Row]:
        """All that these roots are made of, by digest, and maybe more, in as many queries as they have levels."""
        rows = self._known.setdefault(thread_id, {})
        asked = {digest for root in roots for digest in _named(root)}
        while asked:
            if missing := asked - rows.keys():
                query = functools.partial(self._rows, thread_id, missing)
                rows |= await self._database.retrying(query, for_seconds=for_seconds)
            asked = {digest for above in asked if above in rows for digest in _below(rows[above])}
        return rows

    async def _rows(self, thread_id: str, digests: Iterable[bytes]) -> dict[bytes, Row]:
        params = {"thread_id": thread_id, "digests": b"".join(digests)}
        async with self._borrowed() as conn, conn.cursor(binary=True) as cursor:
            await cursor.execute(statements("elements")["fetch"], params)
            return {row["digest"]: Row(**row) for row in await cursor.fetchall()}
