"""Tasks of A2A: runs, read in another way."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from psycopg.rows import DictRow

from holdfast.db.pool import Database, repeated
from holdfast.db.scope import scoped
from holdfast.db.sql import statements
from holdfast.errors import Missing
from holdfast.rules.caller import Caller


class Tasks:
    """The runs of an assistant as tasks.

    A row has `thread_id` and `task_id` (the run that began it), `run_id` (its last run), that run's `error`,
    `updated_at` and whether it is the `newest` of its thread that ended; `state` as A2A names it; the thread's
    `interrupts`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("a2a")

    async def get(self, caller: Caller, assistant_id: UUID, thread_id: UUID, task_id: UUID) -> DictRow:
        """One task.

        Raises:
            Missing: none of this assistant that the caller may see.
        """
        rows = await self.page(caller, assistant_id, thread_id=thread_id, task_id=task_id, limit=1)
        if not rows:
            raise Missing(f"Task {thread_id}:{task_id} not found")
        return rows[0]

    @repeated
    async def page(
        self,
        caller: Caller,
        assistant_id: UUID,
        *,
        thread_id: UUID | None = None,
        task_id: UUID | None = None,
        state: str | None = None,
        since: datetime | None = None,
        after: tuple[datetime, UUID] | None = None,
        limit: int,
    ) -> list[DictRow]:
        """Tasks, the last changed first; `total` in each row counts all that match, `after` is where a page ended."""
        query = scoped(
            caller,
            self._sql["tasks"],
            assistant_id=assistant_id,
            thread_id=thread_id,
            task_id=task_id,
            state=state,
            since=since,
            after=after[0] if after else None,
            after_id=after[1] if after else None,
            limit=limit,
        )
        async with self._database.connection("api") as conn:
            return await (await conn.execute(*query)).fetchall()

    @repeated
    async def of_message(self, caller: Caller, assistant_id: UUID, thread_id: UUID, message_id: str) -> UUID | None:
        """The task that a message began or continued, if it came before."""
        query = scoped(
            caller,
            self._sql["task_of_message"],
            assistant_id=assistant_id,
            thread_id=thread_id,
            message_id=message_id,
        )
        async with self._database.connection("api") as conn:
            row = await (await conn.execute(*query)).fetchone()
        return row["task_id"] if row else None
