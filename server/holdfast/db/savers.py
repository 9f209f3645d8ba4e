"""Which saver a run, a state update or a reader gets: ours over Postgres, or the project's behind our rules."""

from __future__ import annotations

from typing import TypeAlias
from uuid import UUID

from holdfast.db.checkpoints import Fence, FencedSaver
from holdfast.db.foreign import ForeignSaver
from holdfast.db.histories import HistorySaver
from holdfast.db.pool import Database
from holdfast.db.saves import Saves

Saver: TypeAlias = FencedSaver | ForeignSaver


def saver_for(
    database: Database, fence: Fence | None = None, committer: Saves | None = None, *, new_thread: UUID | None = None
) -> Saver:
    """A saver for what holds the fence, or one that reads only; the arguments are those of `FencedSaver`."""
    if (elsewhere := database.checkpoints_elsewhere) is not None:
        return ForeignSaver(elsewhere, database, fence)
    return FencedSaver(database, fence, committer, new_thread=new_thread)


def reader_of_history(database: Database) -> Saver:
    """A saver for a page of history. Ours lists it oldest first, others newest first."""
    if (elsewhere := database.checkpoints_elsewhere) is not None:
        return ForeignSaver(elsewhere, database)
    return HistorySaver(database)
