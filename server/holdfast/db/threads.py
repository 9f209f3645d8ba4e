"""Threads: rows that callers own, and what their last run or state update left on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from holdfast.db import approvals, idempotency
from holdfast.db.erasing import erase
from holdfast.db.foreign import NO_PRUNING, forget_elsewhere, only_in_postgres
from holdfast.db.idempotency import Key, Made
from holdfast.db.pool import Connection, Database, repeated
from holdfast.db.scope import scoped
from holdfast.db.sql import statements
from holdfast.db.threadsearch import Page, ThreadFilter, counting, getting, searching
from holdfast.db.values import Values, store
from holdfast.errors import Conflict, Missing
from holdfast.rules.caller import Caller
from holdfast.rules.command import Questions
from holdfast.rules.thread import ThreadStatus, Ttl, resting_status


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run or a state update leaves on its thread."""

    checkpoint_id: str | None
    values: Values
    interrupts: Mapping[str, Sequence[Mapping[str, Any]]]
    unfinished: bool
    error: Mapping[str, str] | None = None
    failed: bool = False

    @property
    def resting(self) -> ThreadStatus:
        return resting_status(failed=self.failed, unfinished=self.unfinished)


class Threads:
    """The repository of threads. Every method takes the caller; what is not theirs does not exist."""

    def __init__(self, database: Database, default_ttl: Ttl | None = None) -> None:
        self._database = database
        self._default_ttl = default_ttl
        self._sql = statements("threads")

    @repeated
    async def create(
        self,
        caller: Caller,
        thread_id: UUID,
        metadata: Mapping[str, Any],
        *,
        or_keep: bool,
        ttl: Ttl | None = None,
        key: Key | None = None,
    ) -> Made | None:
        """Insert a thread; what its request's key stands for, if it was carried out before.

        Raises:
            Conflict: the id is taken, by this caller (unless `or_keep`) or by somebody else.
            Invalid: the key stands for another request.
        """
        self._check(ttl)
        async with self._database.transaction("api") as conn:
            if key is not None and (before := await idempotency.claim(conn, caller, key, Made([thread_id]))):
                return before
            if not await create(conn, caller, thread_id, metadata, ttl or self._default_ttl):
                await self._keep(conn, caller, thread_id, or_keep=or_keep)
            return None

    @repeated
    async def draft(
        self,
        caller: Caller,
        thread_id: UUID,
        metadata: Mapping[str, Any],
        *,
        or_keep: bool,
        ttl: Ttl | None = None,
    ) -> int | None:
        """Insert a thread that nobody sees before `end_edit` is called with the token that this returns; None if a
        thread of this id is kept instead.

        Raises:
            Conflict: as `create`.
        """
        self._check(ttl)
        params = _new_row(caller, thread_id, metadata, ttl or self._default_ttl)
        async with self._database.transaction("api") as conn:
            row = await (await conn.execute(self._sql["draft"], params)).fetchone()
            if row is None:
                await self._keep(conn, caller, thread_id, or_keep=or_keep)
        return None if row is None else int(row["edit_token"])

    @repeated
    async def discard(self, thread_id: UUID, token: int) -> None:
        """Take a draft back, and whatever was written for it."""
        async with self._database.transaction("api") as conn:
            discarded = await conn.execute(self._sql["discard"], {"thread_id": thread_id, "token": token})
            was_there = await discarded.fetchone() is not None
            if was_there:
                await conn.execute(self._sql["erase_checkpoints"], {"thread_ids": [str(thread_id)]})
        if was_there:
            await forget_elsewhere(self._database, [thread_id])

    def _check(self, ttl: Ttl | None) -> None:
        if ttl is not None and ttl.strategy == "keep_latest":
            only_in_postgres(self._database, NO_PRUNING)

    async def _keep(self, conn: Connection, caller: Caller, thread_id: UUID, *, or_keep: bool) -> None:
        kept = await (await conn.execute(*scoped(caller, self._sql["standing"], thread_id=thread_id))).fetchone()
        if kept is None or not or_keep:
            raise Conflict(f"Thread {thread_id} already exists.")

    @repeated
    async def get(self, caller: Caller, thread_id: UUID) -> DictRow:
        """One thread with its values as JSON bytes.

        Raises:
            Missing: no such thread of this caller.
        """
        async with self._database.connection("api") as conn:
            row = await (await conn.execute(*getting(caller, thread_id))).fetchone()
        if row is None:
            raise missing(thread_id)
        return row

    @repeated
    async def result(self, caller: Caller, thread_id: UUID) -> DictRow | None:
        """What the last run left: values as JSON bytes, interrupts, error. Also of a stateless run's thread."""
        async with self._database.connection("api") as conn:
            cursor = await conn.execute(*scoped(caller, self._sql["result"], thread_id=thread_id))
            return await cursor.fetchone()

    @repeated
    async def search(self, caller: Caller, terms: ThreadFilter, page: Page) -> list[DictRow]:
        """A page of threads; `values` and `extracted` come as JSON bytes."""
        async with self._database.reading("api") as conn:
            cursor = await conn.execute(*searching(caller, terms, page))
            return await cursor.fetchall()

    @repeated
    async def count(self, caller: Caller, terms: ThreadFilter) -> int:
        async with self._database.reading("api") as conn:
            row = await (await conn.execute(*counting(caller, terms))).fetchone()
        return int(row["count"]) if row else 0

    @repeated
    async def patch(
        self, caller: Caller, thread_id: UUID, metadata: Mapping[str, Any], *, ttl: Ttl | None = None
    ) -> None:
        """Merge `metadata` shallowly into the thread's, and replace its time to live if one is given."""
        self._check(ttl)
        params = {"thread_id": thread_id, "metadata": Jsonb(dict(metadata)), **_ttl(ttl)}
        async with self._database.connection("api") as conn:
            row = await (await conn.execute(*scoped(caller, self._sql["patch"], **params))).fetchone()
        if row is None:
            raise missing(thread_id)

    @repeated
    async def questions(self, caller: Caller, thread_id: UUID) -> Questions | None:
        """What the thread waits for right now, or None where there is no such thread."""
        async with self._database.connection("api") as conn:
            cursor = await conn.execute(*scoped(caller, self._sql["standing"], thread_id=thread_id))
            row = await cursor.fetchone()
        return questions(row) if row else None

    @repeated
    async def standing(self, caller: Caller, thread_id: UUID) -> DictRow:
        """Status, metadata, config, interrupts and checkpoint id, without the values."""
        async with self._database.connection("api") as conn:
            cursor = await conn.execute(*scoped(caller, self._sql["standing"], thread_id=thread_id))
            row = await cursor.fetchone()
        if row is None:
            raise missing(thread_id)
        return row

    @repeated
    async def begin_edit(self, caller: Caller, thread_id: UUID) -> int:
        """A token for a state update; only while nothing is pending or running on the thread.

        Raises:
            Missing: no such thread of this caller.
            Conflict: the thread is busy.
        """
        query = scoped(caller, self._sql["begin_edit"], thread_id=thread_id)
        async with self._database.transaction("api") as conn:
            row = await (await conn.execute(*query)).fetchone()
        if row is None:
            await self.standing(caller, thread_id)
            raise Conflict("Thread is busy: its state can be updated when its runs have ended.")
        return int(row["edit_token"])

    @repeated
    async def end_edit(
        self,
        thread_id: UUID,
        token: int,
        outcome: Outcome,
        *,
        frame: bytes | None = None,
        made: tuple[Caller, Key] | None = None,
        by: str | None = None,
    ) -> Made | None:
        """Publish a state update on the thread row.

        Args:
            frame: what the thread's log says of it, if anything.
            made: the request that makes this thread and its key; what the key stands for is returned, and nothing
                published, if it was carried out meanwhile.
            by: whose update it is, for the questions that it makes go.

        Raises:
            Conflict: a run or another update came in between.
        """
        async with self._database.transaction("api") as conn:
            if made is not None and (before := await idempotency.claim(conn, *made, Made([thread_id]))):
                return before
            held = await conn.execute(self._sql["end_edit"], {"thread_id": thread_id, "token": token})
            if (row := await held.fetchone()) is None:
                raise Conflict("The thread was changed while its state was being updated.")
            if row["asks"] or outcome.interrupts:
                change = approvals.Change(None, by)
                await approvals.settle(conn, thread_id, outcome.interrupts, outcome.checkpoint_id, change)
            await settle(conn, thread_id, outcome)
            if frame is not None:
                await conn.execute(statements("events")["say"], {"thread_id": thread_id, "frame": frame})
            return None

    @repeated
    async def sweep(self, *, grace: float, batch: int) -> int:
        """Remove threads deleted more than `grace` seconds ago, checkpoints included. Returns how many."""
        async with self._database.connection("worker") as conn:
            cursor = await conn.execute(self._sql["sweep"], {"grace": grace, "batch": batch})
            gone = [row["thread_id"] for row in await cursor.fetchall()]
        if gone:
            await erase(self._database, "worker", gone)
        return len(gone)


def missing(thread_id: UUID) -> Missing:
    return Missing(f"Thread with ID {thread_id} not found")


def questions(row: Mapping[str, Any]) -> Questions:
    """A thread row's pending questions."""
    return Questions(
        checkpoint_id=row["checkpoint_id"],
        pending=frozenset(asked["id"] for task in row["interrupts"].values() for asked in task),
        unfinished=row["unfinished"],
    )


async def create(
    conn: Connection, caller: Caller, thread_id: UUID, metadata: Mapping[str, Any], ttl: Ttl | None
) -> bool:
    """Insert a thread unless the id is taken; whether it was inserted."""
    cursor = await conn.execute(statements("threads")["create"], _new_row(caller, thread_id, metadata, ttl))
    return cursor.rowcount == 1


async def settle(conn: Connection, thread_id: UUID, outcome: Outcome, *, event_seq: int | None = None) -> None:
    """Write an outcome to the thread row and its values; part of the caller's transaction, thread row locked.

    Args:
        event_seq: the last number that a run used, if it is a run that ends here.
    """
    digests = await store(conn, thread_id, outcome.values)
    await conn.execute(
        statements("threads")["settle"],
        {
            "thread_id": thread_id,
            "resting": outcome.resting,
            "error": Jsonb(outcome.error) if outcome.error else None,
            "interrupts": Jsonb(outcome.interrupts),
            "unfinished": outcome.unfinished,
            "checkpoint_id": outcome.checkpoint_id,
            "value_digests": digests,
            "event_seq": event_seq,
        },
    )


def _new_row(caller: Caller, thread_id: UUID, metadata: Mapping[str, Any], ttl: Ttl | None) -> dict[str, Any]:
    return {"thread_id": thread_id, "owner": caller.owner, "metadata": Jsonb(dict(metadata)), **_ttl(ttl)}


def _ttl(ttl: Ttl | None) -> dict[str, Any]:
    return {"ttl_seconds": ttl.minutes * 60 if ttl else None, "ttl_strategy": ttl.strategy if ttl else None}
