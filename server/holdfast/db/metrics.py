"""Figures about the queue and about what threads take up, for whoever watches them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

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


async def storage(database: Database) -> tuple[datetime, dict[str, Any]] | None:
    """The last report about what threads take up, and when it was made; None before the first."""

    async def read() -> tuple[datetime, dict[str, Any]] | None:
        async with database.connection("api") as conn:
            row = await (await conn.execute(statements("metrics")["storage"])).fetchone()
        return None if row is None else (row["measured_at"], row["report"])

    return await database.retrying(read, for_seconds=REPEAT_SECONDS)


class Sizes:
    """Measures threads for `storage`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("metrics")

    async def age(self) -> float | None:
        """Seconds since the last report of any process; None before the first."""
        async with self._database.connection("worker") as conn:
            row = await (await conn.execute(self._sql["storage"])).fetchone()
        return None if row is None else float(row["age"])

    async def measure(self, *, after: UUID, limit: int) -> list[tuple[UUID, int]]:
        """Threads in the order of their ids, and their bytes as Postgres keeps them."""
        async with self._database.connection("worker") as conn:
            rows = await (await conn.execute(self._sql["measure"], {"after": after, "limit": limit})).fetchall()
        return [(row["thread_id"], row["bytes"]) for row in rows]

    async def publish(self, report: Mapping[str, Any]) -> None:
        async with self._database.connection("worker") as conn:
            await conn.execute(self._sql["publish"], {"report": Jsonb(dict(report))})
