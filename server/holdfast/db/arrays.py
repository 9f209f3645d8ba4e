"""Columns: the arrays that statements for many rows take, in Postgres's binary format.

psycopg's own lists look at every element to find out what they are a list of, write bytes as text, and have no type
when they are empty, which makes a statement of its own, with a plan of its own, of every combination of empty columns.
A column knows its type, so there is one plan, and a megabyte costs a copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Any, ClassVar
from uuid import UUID

from psycopg.adapt import AdaptersMap, Buffer, Dumper
from psycopg.pq import Format

_HEAD = Struct("!iiIii")
"""Dimensions, whether there are NULLs, the elements' type; of the one dimension its length and first index."""
_EMPTY = Struct("!iiI")
_LENGTH = Struct("!i")
_NULL = _LENGTH.pack(-1)
_INT8 = Struct("!iq")
_INT4 = Struct("!ii")


class Column:
    """An array of one type, packed; None is NULL. `oid` and `element_oid` are Postgres's, from `pg_type`."""

    oid: ClassVar[int]
    element_oid: ClassVar[int]
    __slots__ = ("packed",)

    def __init__(self, values: Iterable[Any]) -> None:
        elements = [_NULL if value is None else self._element(value) for value in values]
        if elements:
            head = _HEAD.pack(1, _NULL in elements, self.element_oid, len(elements), 1)
        else:
            head = _EMPTY.pack(0, 0, self.element_oid)
        self.packed = head + b"".join(elements)

    def _element(self, value: Any) -> bytes:
        """The element's length and bytes."""
        raise NotImplementedError


class Texts(Column):
    oid, element_oid = 1009, 25
    __slots__ = ()

    def _element(self, value: str) -> bytes:
        encoded = value.encode()
        return _LENGTH.pack(len(encoded)) + encoded


class Blobs(Column):
    oid, element_oid = 1001, 17
    __slots__ = ()

    def _element(self, value: bytes) -> bytes:
        return _LENGTH.pack(len(value)) + value


class Jsonbs(Column):
    """JSON as bytes, checked and converted by Postgres."""

    oid, element_oid = 3807, 3802
    __slots__ = ()

    def _element(self, value: bytes) -> bytes:
        return b"%b\x01%b" % (_LENGTH.pack(len(value) + 1), value)


class Jsons(Column):
    """JSON as bytes, checked by Postgres and kept as it is."""

    oid, element_oid = 199, 114
    __slots__ = ()

    def _element(self, value: bytes) -> bytes:
        return _LENGTH.pack(len(value)) + value


class Uuids(Column):
    oid, element_oid = 2951, 2950
    __slots__ = ()

    def _element(self, value: UUID) -> bytes:
        return _LENGTH.pack(16) + value.bytes


class Bigints(Column):
    oid, element_oid = 1016, 20
    __slots__ = ()

    def _element(self, value: int) -> bytes:
        return _INT8.pack(8, value)


class Integers(Column):
    oid, element_oid = 1007, 23
    __slots__ = ()

    def _element(self, value: int) -> bytes:
        return _INT4.pack(4, value)


class Booleans(Column):
    oid, element_oid = 1000, 16
    __slots__ = ()

    def _element(self, value: bool) -> bytes:
        return b"\x00\x00\x00\x01\x01" if value else b"\x00\x00\x00\x01\x00"


class _ColumnDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Column) -> Buffer:
        return obj.packed


def register(adapters: AdaptersMap) -> None:
    """Let connections with these adapters take columns as parameters."""
    for kind in (Texts, Blobs, Jsonbs, Jsons, Uuids, Bigints, Integers, Booleans):
        dumper = type(f"{kind.__name__}Dumper", (_ColumnDumper,), {"oid": kind.oid})
        adapters.register_dumper(kind, dumper)
