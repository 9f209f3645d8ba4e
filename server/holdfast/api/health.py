"""Whether a process can do its work, part by part."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal, TypeVar

from holdfast.api.deps import Services
from holdfast.db.migrate import lacking
from holdfast.errors import DatabaseError

HEALTH_SECONDS = 2.0
"""How long the database may take to answer; who watches health does not wait for long."""

T = TypeVar("T")
Condition = Literal["healthy", "unhealthy", "stopping"]


async def readiness(with_: Services) -> dict[str, Condition]:
    """The parts that this process needs, and how each is.

    `database`: it answers. `schema`: it has every table that this version knows. `pool`: a request would be given a
    connection within `HEALTH_SECONDS`. `worker`, where there is one: others see it alive, and it looks for runs.
    """
    if with_.leaving.is_set():
        return {"process": "stopping"}
    # Connections that requests cannot take tell a database that is away from one that has too much to do.
    served, missing = await asyncio.gather(database_answers(with_), _within(with_, partial(_missing, with_)))
    found = {"database": served or missing is not None}
    if found["database"]:
        found |= {"schema": missing == [], "pool": served}
    if (alive := with_.dispatcher.is_alive()) is not None:
        found["worker"] = alive
    return {part: "healthy" if well else "unhealthy" for part, well in found.items()}


async def database_answers(with_: Services) -> bool:
    """Whether a request that needs the database would be served."""

    async def ask() -> bool:
        async with with_.database.connection("api") as conn:
            await conn.execute("SELECT 1")
        return True

    return await _within(with_, ask) or False


async def _missing(with_: Services) -> list[str]:
    async with with_.database.connection("worker") as conn:
        return await lacking(conn)


async def _within(with_: Services, ask: Callable[[], Awaitable[T]]) -> T | None:
    """What the database answers; None: nothing, for too long."""
    try:
        async with asyncio.timeout(HEALTH_SECONDS):
            return await with_.database.retrying(ask, for_seconds=HEALTH_SECONDS)
    except (DatabaseError, TimeoutError):
        return None
