"""What a saver saves, each in two ways: as rows that go with those of other runs, and by a verb of its own.

As rows it is new beyond doubt (`saves.py`); the verbs of `checkpoints.sql` also know what is there already.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from holdfast.db import saves
from holdfast.db.arrays import Blobs, Integers, Texts
from holdfast.db.elements import Row

WriteRow: TypeAlias = tuple[str, str, str, str, str, int, str, str, bytes]
"""Thread, namespace, checkpoint, task, the task's path, place, channel, type, bytes."""

BlobRow: TypeAlias = tuple[str, str, str, str, str, bytes | None]
"""Thread, namespace, channel, version, type, bytes: as LangGraph's saver dumps them."""


@dataclass(frozen=True, slots=True)
class Item:
    """Something to be saved: as rows among those of other runs, or alone, by a verb of `checkpoints.sql`."""

    checkpoint_id: str
    key: Hashable
    rows: Sequence[saves.Row]
    """None of them where it has to look at what is there."""
    alone: Callable[[], tuple[str, dict[str, Any]]]


def checkpoint(token: int, blobs: Sequence[BlobRow], params: dict[str, Any], elements: Sequence[Row]) -> Item:
    """A checkpoint and the values that came with it."""
    whole = saves.Checkpoint(token, *params.values())
    rows: list[saves.Row] = [whole, *(saves.Blob(token, *blob) for blob in blobs)]
    rows += [saves.Element(token, whole.thread, row.digest, row.level, row.bytes) for row in elements]

    def alone() -> tuple[str, dict[str, Any]]:
        return "put", params | {
            "checkpoint": whole.checkpoint.decode(),
            "metadata": whole.metadata.decode(),
            "channels": Texts(blob[2] for blob in blobs),
            "versions": Texts(blob[3] for blob in blobs),
            "types": Texts(blob[4] for blob in blobs),
            "blobs": Blobs(blob[5] for blob in blobs),
            "digests": Blobs(row.digest for row in elements),
            "levels": Integers(row.level for row in elements),
            "elements": Blobs(row.bytes for row in elements),
        }

    return Item(whole.checkpoint_id, whole.checkpoint_id, rows, alone)


def writes(token: int, rows: Sequence[WriteRow], params: dict[str, Any], *, is_first: bool) -> Item:
    """A task's writes; those that have to look at what is there already go alone."""

    def alone() -> tuple[str, dict[str, Any]]:
        return "put_writes", params | {
            "idxs": Integers(row[5] for row in rows),
            "channels": Texts(row[6] for row in rows),
            "types": Texts(row[7] for row in rows),
            "blobs": Blobs(row[8] for row in rows),
        }

    saved = [saves.Write(token, *row) for row in rows] if is_first else []
    task = params["checkpoint_id"], params["task_id"]
    return Item(params["checkpoint_id"], task, saved, alone)
