"""Figures about the queue, for whoever watches it."""

from __future__ import annotations

from holdfast.db.pool import REPEAT_SECONDS, Database
from holdfast.db.sql import statements


async def queue(database: Database) -> dict[str, int | float | None]:
    """How many runs wait and run, and how long (in seconds) those that are due have waited: None if none is."""

    async def read() -> dict[str, int | float | None]:
        async with database.connection("api") as conn:
            row = await (await conn.execute(statements("metrics")["queue"])).fetchone()
        assert row is not None
        return dict(row)

    return await database.retrying(read, for_seconds=REPEAT_SECONDS)
