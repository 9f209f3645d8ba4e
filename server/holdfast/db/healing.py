"""Rows that do not agree with each other: found on one thread or on all, and mended under the thread's lock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from holdfast.db.pool import Connection, Database, repeated
from holdfast.db.sql import statements

STUCK: Mapping[str, str] = {
    "busy_without_runs": "the thread is busy, and no run of it is pending or running",
    "resting_with_runs": "a run is pending or running, and the thread is not busy",
    "held_answers": "a question is still asked, and an answer that led nowhere keeps others out",
    "untold_ends": "runs ended, and the thread's stream was not told",
}
"""What may be found, and what it means."""

BATCH = 500


class Healing:
    """Finds and mends. It serves no caller: who may ask about a thread is asked before."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("healing")

    @repeated
    async def find(self, kind: str, thread_id: UUID | None = None, *, limit: int = BATCH) -> list[UUID]:
        """Threads of which this kind of `STUCK` is true right now."""
        async with self._database.connection("worker") as conn:
            return await self._ids(conn, f"find_{kind}", {"thread_id": thread_id, "limit": limit})

    @repeated
    async def heal(self, kind: str, thread_ids: Sequence[UUID]) -> list[UUID]:
        """Mend these threads; those of which it was still true. Who is being changed right now is left alone."""
        async with self._database.transaction("worker") as conn:
            locked = await self._ids(conn, "lock", {"thread_ids": list(thread_ids)})
            if kind == "untold_ends":
                told = await conn.execute(statements("events")["tell_ended"], {"thread_ids": locked})
                return [row["thread_id"] for row in await told.fetchall()]
            return sorted(set(await self._ids(conn, f"heal_{kind}", {"thread_ids": locked})))

    async def heal_all(self) -> dict[str, list[UUID]]:
        """Mend what is found, a batch of each kind; what was mended."""
        mended: dict[str, list[UUID]] = {}
        for kind in STUCK:
            if (found := await self.find(kind)) and (healed := await self.heal(kind, found)):
                mended[kind] = healed
        return mended

    @repeated
    async def resting(self, *, live_only: bool, limit: int | None) -> list[DictRow]:
        """Threads with a graph, the newest first: id, graph_id, status, error."""
        async with self._database.connection("worker") as conn:
            cursor = await conn.execute(self._sql["resting"], {"live_only": live_only, "limit": limit})
            return await cursor.fetchall()

    @repeated
    async def mark_unreadable(self, thread_id: UUID, error: Mapping[str, str]) -> bool:
        """Let a thread's status say that its state cannot be read; whether it said something else."""
        params = {"thread_id": thread_id, "error": Jsonb(dict(error))}
        async with self._database.transaction("worker") as conn:
            await conn.execute(self._sql["lock"], {"thread_ids": [thread_id]})
            return bool(await self._ids(conn, "mark_unreadable", params))

    async def _ids(self, conn: Connection, verb: str, params: Mapping[str, Any]) -> list[UUID]:
        return [row["thread_id"] for row in await (await conn.execute(self._sql[verb], params)).fetchall()]
