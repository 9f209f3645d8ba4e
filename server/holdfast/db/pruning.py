"""Making threads smaller: gone altogether, or all but their latest state (see `queries/pruning.sql`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from holdfast.db.pool import Database, repeated
from holdfast.db.scope import scoped
from holdfast.db.sql import statements
from holdfast.errors import Conflict
from holdfast.rules.caller import Caller

BATCH = 100
"""Threads deleted by one transaction."""


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
    """The verbs of pruning. None of them touches a thread with a run pending or running."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("pruning")
        self._heads = self._sql["heads"]

    async def delete(self, caller: Caller, thread_ids: Sequence[UUID]) -> int:
        """Delete those of the threads that are the caller's and idle; how many."""
        deleted = 0
        for start in range(0, len(thread_ids), BATCH):
            deleted += await self._delete(caller, thread_ids[start : start + BATCH])
        return deleted

    @repeated
    async def _delete(self, caller: Caller, thread_ids: Sequence[UUID]) -> int:
        query = scoped(caller, self._sql["delete"], thread_ids=list(thread_ids))
        async with self._database.transaction("api") as conn:
            gone = [row["thread_id"] for row in await (await conn.execute(*query)).fetchall()]
            if gone:
                await conn.execute(statements("threads")["erase_checkpoints"], {"thread_ids": gone})
        return len(gone)

    @repeated
    async def expire(self, *, limit: int) -> int:
        """Hide threads whose time is up, for the sweep of deleted threads to remove; how many."""
        async with self._database.connection("worker") as conn:
            return (await conn.execute(self._sql["expire"], {"limit": limit})).rowcount

    @repeated
    async def expired_histories(self, *, limit: int) -> list[UUID]:
        """Threads whose time is up, but for their latest state."""
        async with self._database.connection("worker") as conn:
            cursor = await conn.execute(self._sql["expired_histories"], {"limit": limit})
            return [row["thread_id"] for row in await cursor.fetchall()]

    @repeated
    async def scattered(self, thread_id: UUID) -> list[Scattered]:
        """What has to be stored whole before the history can go."""
        query = self._sql["scattered"].replace("%%HEADS%%", self._heads)
        async with self._database.connection("worker") as conn:
            return [Scattered(**row) for row in await (await conn.execute(query, {"thread_id": thread_id})).fetchall()]

    @repeated
    async def keep_latest(self, thread_id: UUID, token: int, wholes: Sequence[Whole]) -> None:
        """Remove all but the newest checkpoint of every namespace, and what that one needs.

        Raises:
            Conflict: the edit token is no longer the thread's.
        """
        params = {"thread_id": thread_id}
        async with self._database.transaction("worker") as conn:
            held = await conn.execute(self._sql["hold"], params | {"token": token})
            if await held.fetchone() is None:
                raise Conflict("The thread was changed while it was being pruned.")
            for whole in wholes:
                await conn.execute(
                    self._sql["write_out"],
                    {
                        "thread_id": thread_id,
                        "checkpoint_ns": whole.checkpoint_ns,
                        "checkpoint_id": whole.checkpoint_id,
                        "channel": whole.channel,
                        "type": whole.type,
                        "blob": whole.blob,
                    },
                )
            await conn.execute(self._sql["forget"].replace("%%HEADS%%", self._heads), params)
