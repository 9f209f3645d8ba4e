"""Crons: requests that are repeated by the clock.

A cron is due at `next_run_date`. Whoever starts its run moves that on in the transaction that admits the run
(`advance`, called by `db/runs.py`): both happen or neither, and for each due time once, however many try.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from holdfast.db.pool import Connection, Database, repeated
from holdfast.db.scope import scoped
from holdfast.db.sql import statements
from holdfast.errors import Conflict, Missing
from holdfast.rules.caller import Caller, Sight, User

CHANGEABLE = (
    "schedule",
    "timezone",
    "end_time",
    "enabled",
    "on_run_completed",
    "metadata",
    "payload",
    "next_run_date",
)
SORTABLE = ("cron_id", "assistant_id", "thread_id", "created_at", "updated_at", "next_run_date", "end_time")


@dataclass(frozen=True, slots=True)
class NewCron:
    """A cron to be kept. `payload` is the request as JSON, `on_run_completed` is None where there is a thread."""

    cron_id: UUID
    assistant_id: UUID
    thread_id: UUID | None
    schedule: str
    timezone: str | None
    end_time: datetime | None
    enabled: bool
    on_run_completed: str | None
    metadata: Mapping[str, Any]
    payload: bytes
    due: datetime | None


@dataclass(frozen=True, slots=True)
class CronFilter:
    """Search terms; None means any. `metadata` matches by containment."""

    cron_id: UUID | None = None
    assistant_id: UUID | None = None
    thread_id: UUID | None = None
    enabled: bool | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class DueCron:
    """A cron that is due, and `now` by the database's clock."""

    cron_id: UUID
    caller: Caller
    assistant_id: UUID
    thread_id: UUID | None
    schedule: str
    timezone: str | None
    end_time: datetime | None
    on_run_completed: str | None
    payload: bytes
    due: datetime
    now: datetime


@dataclass(frozen=True, slots=True)
class Firing:
    """The due time of a cron that a run is for, and the one after it (None: there is none)."""

    cron_id: UUID
    due: datetime
    next_due: datetime | None


Change = Callable[[DictRow], Mapping[str, Any]]
"""From a cron's row (and `now`) to the columns that shall be different."""


class Crons:
    """The repository of crons. What a client may ask takes the caller; the rest is the worker's."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("crons")

    @repeated
    async def now(self) -> datetime:
        """The clock by which crons are due."""
        async with self._database.connection("api") as conn:
            row = await (await conn.execute(self._sql["now"])).fetchone()
        assert row is not None
        moment: datetime = row["now"]
        return moment

    @repeated
    async def create(self, caller: Caller, new: NewCron) -> None:
        """Keep a cron.

        Raises:
            Missing: no such thread of this caller.
        """
        given = {**asdict(new), "metadata": Jsonb(dict(new.metadata)), "acting": Jsonb(_kept(caller))}
        async with self._database.transaction("api") as conn:
            row = await (await conn.execute(*scoped(caller, self._sql["create"], **given))).fetchone()
        if row is None:
            raise Missing(f"Thread with ID {new.thread_id} not found")

    async def get(self, caller: Caller, cron_id: UUID) -> DictRow:
        """One cron.

        Raises:
            Missing: no such cron of this caller.
        """
        rows = await self.search(caller, CronFilter(cron_id=cron_id), limit=1)
        if not rows:
            raise _missing(cron_id)
        return rows[0]

    @repeated
    async def search(
        self,
        caller: Caller,
        terms: CronFilter,
        *,
        limit: int,
        offset: int = 0,
        sort_by: str = "created_at",
        descending: bool = True,
    ) -> list[DictRow]:
        """A page of crons; `sort_by` is one of SORTABLE."""
        assert sort_by in SORTABLE
        direction = "DESC" if descending else "ASC"
        query = (
            self._sql["view"]
            + self._sql["filters"]
            + f" ORDER BY {sort_by} {direction} NULLS LAST, cron_id {direction}"
            + " LIMIT %(limit)s OFFSET %(offset)s"
        )
        async with self._database.reading("api") as conn:
            cursor = await conn.execute(*scoped(caller, query, **_terms(terms), limit=limit, offset=offset))
            return await cursor.fetchall()

    @repeated
    async def count(self, caller: Caller, terms: CronFilter) -> int:
        async with self._database.reading("api") as conn:
            cursor = await conn.execute(*scoped(caller, self._sql["count"] + self._sql["filters"], **_terms(terms)))
            row = await cursor.fetchone()
        return int(row["count"]) if row else 0

    @repeated
    async def update(self, caller: Caller, cron_id: UUID, change: Change) -> None:
        """Change a cron, its row locked from reading to writing.

        Raises:
            Missing: no such cron of this caller.
        """
        query = self._sql["view"] + self._sql["filters"] + " FOR NO KEY UPDATE"
        async with self._database.transaction("api") as conn:
            cursor = await conn.execute(*scoped(caller, query, **_terms(CronFilter(cron_id=cron_id))))
            row = await cursor.fetchone()
            if row is None:
                raise _missing(cron_id)
            changed = {**row, **change(row)}
            await conn.execute(
                self._sql["update"],
                {name: changed[name] for name in CHANGEABLE}
                | {"cron_id": cron_id, "metadata": Jsonb(changed["metadata"])},
            )

    @repeated
    async def delete(self, caller: Caller, cron_id: UUID) -> None:
        """Forget a cron; runs that it started go on.

        Raises:
            Missing: no such cron of this caller.
        """
        async with self._database.transaction("api") as conn:
            row = await (await conn.execute(*scoped(caller, self._sql["delete"], cron_id=cron_id))).fetchone()
        if row is None:
            raise _missing(cron_id)

    @repeated
    async def due(self, *, limit: int) -> list[DueCron]:
        """Crons whose time has come, the most overdue first."""
        async with self._database.connection("worker") as conn:
            rows = await (await conn.execute(self._sql["due"], {"limit": limit})).fetchall()
        return [DueCron(**{**row, "caller": _caller(row["caller"])}) for row in rows]

    @repeated
    async def seconds_to_next(self) -> float | None:
        """Seconds until the next cron is due, or None."""
        async with self._database.connection("worker") as conn:
            row = await (await conn.execute(self._sql["next_due"])).fetchone()
        return None if row is None or row["seconds"] is None else float(row["seconds"])

    @repeated
    async def pass_over(
        self, cron_id: UUID, due: datetime, next_due: datetime | None, *, error: Mapping[str, str] | None
    ) -> bool:
        """Move a due time on without a run; whether this was still to do."""
        params = {"cron_id": cron_id, "due": due, "next_due": next_due, "error": Jsonb(error) if error else None}
        async with self._database.transaction("worker") as conn:
            return (await conn.execute(self._sql["advance"], params)).rowcount == 1


async def advance(conn: Connection, firing: Firing) -> None:
    """Take a due time for a run; part of the transaction that admits it, thread row locked.

    Raises:
        Conflict: it was taken by somebody else, or the cron was changed or deleted.
    """
    params = {"cron_id": firing.cron_id, "due": firing.due, "next_due": firing.next_due, "error": None}
    if (await conn.execute(statements("crons")["advance"], params)).rowcount == 0:
        raise Conflict("This cron is not due any more.")


def _missing(cron_id: UUID) -> Missing:
    return Missing(f"Cron with ID {cron_id} not found")


def _terms(terms: CronFilter) -> dict[str, Any]:
    return {**asdict(terms), "metadata": Jsonb(terms.metadata) if terms.metadata else None}


def _kept(caller: Caller) -> dict[str, Any]:
    return {
        "owner": caller.owner,
        "sight": caller.sight,
        "filters": [dict(terms) for terms in caller.filters],
        "user": caller.user,
        "permissions": list(caller.permissions),
    }


def _caller(stored: Mapping[str, Any]) -> Caller:
    return Caller(
        stored["owner"],
        Sight(stored["sight"]),
        tuple(stored["filters"]),
        None if stored["user"] is None else User(stored["user"]),
        tuple(stored["permissions"]),
    )
