"""Removing what hidden threads leave, a bounded number of rows at a time (see `queries/pruning.sql`).

Whoever hides a thread may be gone before its rows are: the sweep of housekeeping erases what is left.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from uuid import UUID

from holdfast.db.foreign import forget_elsewhere
from holdfast.db.pool import Database, Lane
from holdfast.db.sql import statements
from holdfast.errors import DatabaseError

logger = logging.getLogger(__name__)

ROWS = 5000
"""Of each table, in one transaction."""


async def erase(database: Database, lane: Lane, thread_ids: Sequence[UUID]) -> None:
    """Remove these hidden threads and all that belongs to them."""
    names = [str(thread_id) for thread_id in thread_ids]
    params = {"thread_ids": list(thread_ids), "names": names, "limit": ROWS}
    is_more = True
    while is_more:
        async with database.connection(lane) as conn:
            row = await (await conn.execute(statements("pruning")["erase_some"], params)).fetchone()
            is_more = row is not None and row["is_more"]
    # Before the rows: whoever finds them again finds these to be removed, too.
    await forget_elsewhere(database, thread_ids)
    async with database.transaction(lane) as conn:
        await conn.execute(statements("pruning")["erase"], params)
        # A run that was still running could write until its thread was gone.
        await conn.execute(statements("threads")["erase_checkpoints"], {"thread_ids": names})


async def erase_or_leave(database: Database, lane: Lane, thread_ids: Sequence[UUID]) -> None:
    """The same, where the threads are as good as gone: what a broken connection leaves is the sweep's."""
    try:
        await erase(database, lane, thread_ids)
    except DatabaseError as error:
        logger.warning("deleted threads are erased by the next sweep: %s", error)
