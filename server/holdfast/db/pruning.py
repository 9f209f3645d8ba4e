"""Making threads smaller: gone altogether, or all but their latest state (see `queries/pruning.sql`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from holdfast.db.erasing import ROWS, erase_or_leave
from holdfast.db.pool import Connection, Database, repeated
from holdfast.db.scope import scoped
from holdfast.db.sql import statements
from holdfast.errors import Conflict
from holdfast.rules.caller import Caller
from holdfast.rules.thread import Strategy

BATCH = 100
"""Threads deleted by one statement."""


@dataclass(frozen=True, slots=True)
class Scattered:
    """A newest checkpoint, and its channels that stand nowhere but in its ancestors' writes."""

    checkpoint_ns: str
    checkpoint_id: str
    channels: Sequence[str]


@dataclass(frozen=True, slots=True)
class Whole:
    """The value of such a channel, as LangGraph's serializer wrote it."""

    checkpoint_ns: str
    checkpoint_id: str
    channel: str
    type: str
    blob: bytes


class Pruning:
    """The verbs of pruning. None of them touches a thread with a run pending or running, and what asks something goes
    only where `interrupted` says so."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("pruning")

    @repeated
    async def prunable(self, caller: Caller, thread_ids: Sequence[UUID], *, interrupted: bool = True) -> list[UUID]:
        """Those of the threads that may be pruned."""
        query = scoped(caller, self._sql["prunable"], thread_ids=list(thread_ids), interrupted=interrupted)
        async with self._database.connection("api") as conn:
            return [row["thread_id"] for row in await (await conn.execute(*query)).fetchall()]

    async def delete(self, caller: Caller, thread_ids: Sequence[UUID], *, interrupted: bool = True) -> list[UUID]:
        """Delete those of the threads that may be pruned; which."""
        deleted: list[UUID] = []
        for start in range(0, len(thread_ids), BATCH):
            gone = await self._hide(caller, thread_ids[start : start + BATCH], interrupted)
            if gone:
                await erase_or_leave(self._database, "api", gone)
            deleted += gone
        return deleted

    @repeated
    async def _hide(self, caller: Caller, thread_ids: Sequence[UUID], interrupted: bool) -> list[UUID]:
        query = scoped(caller, self._sql["hide"], thread_ids=list(thread_ids), interrupted=interrupted)
        async with self._database.transaction("api") as conn:
            return [row["thread_id"] for row in await (await conn.execute(*query)).fetchall()]

    @repeated
    async def unused(self, *, seconds: float, interrupted: bool, after: UUID, limit: int) -> list[UUID]:
        """Threads of any owner, in the order of their ids, that nobody has used for so long."""
        params = {"seconds": seconds, "interrupted": interrupted, "after": after, "limit": limit}
        async with self._database.connection("worker") as conn:
            rows = await (await conn.execute(self._sql["unused"], params)).fetchall()
        return [row["thread_id"] for row in rows]

    async def expire(self, *, limit: int, interrupted: bool = False) -> list[UUID]:
        """Hide threads whose time is up, for the sweep of deleted threads to remove; which."""
        expired: list[UUID] = []
        async with self._database.connection("worker") as conn:
            for status in _statuses(interrupted=interrupted):
                params = {"limit": limit - len(expired), "status": status}
                rows = await (await conn.execute(self._sql["expire"], params)).fetchall()
                expired += [row["thread_id"] for row in rows]
        return expired

    @repeated
    async def expired(self, strategy: Strategy, *, limit: int, interrupted: bool = False) -> list[UUID]:
        """Threads whose time is up, by what is to go then."""
        found: list[UUID] = []
        async with self._database.connection("worker") as conn:
            for status in _statuses(interrupted=interrupted):
                params = {"limit": limit - len(found), "status": status, "strategy": strategy}
                rows = await (await conn.execute(self._sql["expired"], params)).fetchall()
                found += [row["thread_id"] for row in rows]
        return found

    @repeated
    async def scattered(self, thread_id: UUID) -> list[Scattered]:
        """What has to be stored whole before the history can go."""
        query = self._sql["scattered"]
        async with self._database.connection("worker") as conn:
            return [Scattered(**row) for row in await (await conn.execute(query, {"thread_id": thread_id})).fetchall()]

    @repeated
    async def keep_latest(self, thread_id: UUID, token: int, wholes: Sequence[Whole]) -> None:
        """Remove all but the newest checkpoint of every namespace, and what that one needs.

        A bounded number of rows at a time: a run that comes in between stops it, and every state that is left is whole.

        Raises:
            Conflict: the edit token is no longer the thread's.
        """
        async with self._held(thread_id, token) as conn:
            for whole in wholes:
                await conn.execute(self._sql["write_out"], {"thread_id": thread_id, **asdict(whole)})
            params = {"thread_id": thread_id, "limit": ROWS, **await self._kept(conn, thread_id)}
            await conn.execute(self._sql["cut_off"], params)
            done = await self._forget(conn, params)
        while not done:
            async with self._held(thread_id, token) as conn:
                done = await self._forget(conn, params)

    @repeated
    async def bytes(self, thread_ids: Sequence[UUID]) -> int:
        """What these threads take up in the database."""
        params = {"thread_ids": list(thread_ids), "names": [str(thread_id) for thread_id in thread_ids]}
        async with self._database.connection("worker") as conn:
            row = await (await conn.execute(self._sql["bytes"], params)).fetchone()
        return int(row["bytes"]) if row else 0

    @repeated
    async def bytes_of_latest(self, thread_id: UUID) -> int:
        """What would be left of a thread without its history."""
        async with self._database.connection("worker") as conn:
            params = {"thread_id": thread_id, **await self._kept(conn, thread_id)}
            row = await (await conn.execute(self._sql["kept_bytes"], params)).fetchone()
        return int(row["bytes"]) if row else 0

    @asynccontextmanager
    async def _held(self, thread_id: UUID, token: int) -> AsyncIterator[Connection]:
        async with self._database.transaction("worker") as conn:
            held = await conn.execute(self._sql["hold"], {"thread_id": thread_id, "token": token})
            if await held.fetchone() is None:
                raise Conflict("The thread was changed while it was being pruned.")
            yield conn

    async def _kept(self, conn: Connection, thread_id: UUID) -> dict[str, list[str]]:
        """The checkpoints that stay: the heads, and what they need."""
        query = self._sql["kept"]
        rows = await (await conn.execute(query, {"thread_id": thread_id})).fetchall()
        return {
            "namespaces": [row["checkpoint_ns"] for row in rows],
            "checkpoint_ids": [row["checkpoint_id"] for row in rows],
        }

    async def _forget(self, conn: Connection, params: Mapping[str, Any]) -> bool:
        """Remove some more; whether nothing is left to remove."""
        for verb in ("forget_states", "forget_values", "forget_elements"):
            row = await (await conn.execute(self._sql[verb], params)).fetchone()
            if row is None or row["is_more"]:
                return False
        await conn.execute(self._sql["pruned"], params)
        return True


def _statuses(*, interrupted: bool) -> list[str]:
    return ["idle", "error", *(["interrupted"] if interrupted else [])]
