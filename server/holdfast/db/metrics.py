"""Figures about the queue, about what threads take up, and about what the database knows of the rest, for whoever
watches them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from holdfast.db.pool import REPEAT_SECONDS, Database, repeated
from holdfast.db.replica import Replica
from holdfast.db.shared import Shared
from holdfast.db.sql import statements
from holdfast.errors import DatabaseError
from holdfast.rules.alert import by_known_kind
from holdfast.telemetry.metrics import Metrics

FRESH_SECONDS = 2.0
PATIENCE_SECONDS = 2.0
LOOK_SECONDS = 5.0

Storage = tuple[datetime, dict[str, Any]]
"""When threads were measured, and the report."""


async def queue(database: Database) -> dict[str, int | float | None]:
    """How many runs wait and run, and how long (in seconds) those that are due have waited: None if none is."""

    async def read() -> dict[str, int | float | None]:
        async with database.connection("api") as conn:
            row = await (await conn.execute(statements("metrics")["queue"])).fetchone()
        assert row is not None
        return dict(row)

    return await database.retrying(read, for_seconds=REPEAT_SECONDS)


async def storage(database: Database) -> Storage | None:
    """The last report about what threads take up, and when it was made; None before the first."""

    async def read() -> Storage | None:
        async with database.connection("api") as conn:
            row = await (await conn.execute(statements("metrics")["storage"])).fetchone()
        return None if row is None else (row["measured_at"], row["report"])

    return await database.retrying(read, for_seconds=REPEAT_SECONDS)


@dataclass(frozen=True, slots=True)
class Reading:
    """Numbers by name (NaN: there is nothing of which it could be said), alerts that go on by kind, and the last report
    about storage."""

    numbers: Mapping[str, float]
    alerts: Mapping[str, int]
    storage: Storage | None


class Figures:
    """What the database knows, the same at every replica, read at most once in `FRESH_SECONDS` however many ask."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._readings: Shared[str, Reading] = Shared()
        self._last: Reading | None = None
        self._read_at = float("-inf")

    async def read(self) -> Reading | None:
        """None while the database does not answer within `PATIENCE_SECONDS`."""
        if time.monotonic() - self._read_at >= FRESH_SECONDS:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    self._last = await self._readings.ask("all", self._query)
            except (DatabaseError, TimeoutError):
                return None
            self._read_at = time.monotonic()
        return self._last

    async def _query(self) -> Reading:
        sql = statements("metrics")
        async with self._database.connection("api") as conn:
            operations = await (await conn.execute(sql["operations"])).fetchone()
            queue = await (await conn.execute(sql["queue"])).fetchone()
            storage = await (await conn.execute(sql["storage"])).fetchone()
            alerts = await (await conn.execute(statements("alerts")["firing"])).fetchall()
        named = {**(operations or {}), **{f"queue_{name}": value for name, value in (queue or {}).items()}}
        # Prometheus has no null: where nothing waits, there is no waiting time.
        numbers = {name: float("nan") if value is None else float(value) for name, value in named.items()}
        firing = by_known_kind({row["kind"]: row["count"] for row in alerts})
        return Reading(numbers, firing, (storage["measured_at"], storage["report"]) if storage else None)


async def keep_figures(metrics: Metrics, database: Database, replica: Replica | None) -> None:
    """Bring the figures of pool, replica and process up to date every `LOOK_SECONDS`, until cancelled."""
    waited = 0.0
    reads: Counter[str] = Counter()
    while True:
        metrics.look_at_process()
        pool = database.pool.get_stats()
        metrics.pool.labels("open").set(pool.get("pool_size", 0))
        metrics.pool.labels("idle").set(pool.get("pool_available", 0))
        metrics.pool.labels("waiting").set(pool.get("requests_waiting", 0))
        total = pool.get("requests_wait_ms", 0) / 1000
        metrics.pool_wait_seconds.inc(max(0.0, total - waited))
        waited = total
        if replica is not None:
            for server, count in (replica.reads - reads).items():
                metrics.reads.labels(server).inc(count)
            reads = replica.reads.copy()
        await asyncio.sleep(LOOK_SECONDS)


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

    @repeated
    async def measure(self, *, after: UUID, limit: int) -> list[tuple[UUID, int]]:
        """Threads in the order of their ids, and their bytes as Postgres keeps them."""
        async with self._database.reading("worker") as conn:
            rows = await (await conn.execute(self._sql["measure"], {"after": after, "limit": limit})).fetchall()
        return [(row["thread_id"], row["bytes"]) for row in rows]

    async def publish(self, report: Mapping[str, Any]) -> None:
        async with self._database.connection("worker") as conn:
            await conn.execute(self._sql["publish"], {"report": Jsonb(dict(report))})
