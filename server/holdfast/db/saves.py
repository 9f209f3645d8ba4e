"""What runs save, many at once: checkpoints, writes of tasks and blocks of the event log, in one statement.

Every row carries the fencing token of the run that it was written for, and the statement begins with the fences of all
of them. A fence that does not hold, or whose row somebody is holding at this moment, lets nothing through; then the
statement of that save alone finds out what is the matter (`checkpoints.py`, `runs.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeAlias
from uuid import UUID

from holdfast.db.arrays import Bigints, Blobs, Column, Integers, Jsonbs, Texts, Uuids
from holdfast.db.groups import Group
from holdfast.db.pool import Database
from holdfast.db.sql import statements


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint; `checkpoint` and `metadata` are JSON."""

    token: int
    thread: str
    ns: str
    checkpoint_id: str
    parent_id: str | None
    checkpoint: bytes
    metadata: bytes


@dataclass(frozen=True, slots=True)
class Blob:
    """A channel's value that does not stand in the checkpoint itself."""

    token: int
    thread: str
    ns: str
    channel: str
    version: str
    type: str
    blob: bytes | None


@dataclass(frozen=True, slots=True)
class Element:
    """A part of a list that is kept by element (`elements.py`)."""

    token: int
    thread: str
    digest: bytes
    level: int
    bytes: bytes


@dataclass(frozen=True, slots=True)
class Write:
    """One write of a task that has saved nothing yet."""

    token: int
    thread: str
    ns: str
    checkpoint_id: str
    task_id: str
    task_path: str
    idx: int
    channel: str
    type: str
    blob: bytes


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a run's event log; numbers count frames, from 1."""

    token: int
    first_seq: int
    last_seq: int
    first_in_run: int
    frames: bytes


Row: TypeAlias = Checkpoint | Blob | Element | Write | Block

_KINDS: dict[type[Any], dict[str, type[Column]]] = {
    Checkpoint: {
        "thread": Texts,
        "ns": Texts,
        "checkpoint_id": Texts,
        "parent_id": Texts,
        "checkpoint": Jsonbs,
        "metadata": Jsonbs,
    },
    Blob: {"thread": Texts, "ns": Texts, "channel": Texts, "version": Texts, "type": Texts, "blob": Blobs},
    Element: {"thread": Texts, "digest": Blobs, "level": Integers, "bytes": Blobs},
    Write: {
        "thread": Texts,
        "ns": Texts,
        "checkpoint_id": Texts,
        "task_id": Texts,
        "task_path": Texts,
        "idx": Integers,
        "channel": Texts,
        "type": Texts,
        "blob": Blobs,
    },
    Block: {"first_seq": Bigints, "last_seq": Bigints, "first_in_run": Bigints, "frames": Blobs},
}
"""Which columns of which type the statement takes of each kind, beside the token."""

_BULK = {Checkpoint: "checkpoint", Blob: "blob", Element: "bytes", Write: "blob", Block: "frames"}
"""The column that may be large."""

_COLUMNS: list[tuple[type[Any], str, Callable[[Any], Any], type[Column]]] = [
    (kind, f"{kind.__name__.lower()}_{name}", attrgetter(name), column)
    for kind, named in _KINDS.items()
    for name, column in ({"token": Bigints} | named).items()
]

_EMPTY = {name: column(()) for _, name, _, column in _COLUMNS}


@dataclass(frozen=True, slots=True)
class Save:
    """Rows of one run that are saved together or not at all.

    Of two saves with the same `key` in one process the second comes after the first.
    """

    run_id: UUID
    token: int
    key: Hashable
    rows: Sequence[Row]

    @property
    def size(self) -> int:
        """In bytes, about."""
        return sum(len(getattr(row, _BULK[type(row)]) or b"") for row in self.rows)


class Saves:
    """The saves of all runs in this process, committed in groups."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._group: Group[Save, bool] = Group("saves", self._commit, database.metrics)
        self._sql = statements("saves")["save_all"]

    async def saved(self, save: Save) -> bool:
        """Save it with whatever else is there; False: not known, it has to be saved alone."""
        return bool(await self._group.join(save.key, save, save.size))

    async def _commit(self, saves: Sequence[Save]) -> Mapping[Hashable, bool]:
        async with self._database.connection("group") as conn:
            held = {row["token"] for row in await (await conn.execute(self._sql, columns(saves))).fetchall()}
        return {save.key: True for save in saves if save.token in held}


def columns(saves: Sequence[Save]) -> dict[str, Column]:
    """The saves as `saves.sql: save_all` takes them."""
    claims = {save.token: save.run_id for save in saves}
    rows: dict[type[Any], list[Row]] = {kind: [] for kind in _KINDS}
    for save in saves:
        for row in save.rows:
            rows[type(row)].append(row)
    fences: dict[str, Column] = {"tokens": Bigints(claims), "run_ids": Uuids(claims.values())}
    return _EMPTY | fences | {name: column(map(get, rows[kind])) for kind, name, get, column in _COLUMNS if rows[kind]}
