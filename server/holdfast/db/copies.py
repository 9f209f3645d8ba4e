"""What belongs to a thread in all tables, LangGraph's included: copied as a whole, and weighed."""

from __future__ import annotations

from uuid import UUID

from psycopg.rows import DictRow

from holdfast.db.foreign import only_in_postgres
from holdfast.db.pool import Database, repeated
from holdfast.db.scope import scoped
from holdfast.db.sql import statements
from holdfast.db.threads import missing
from holdfast.rules.caller import Caller


class Copies:
    """Copies of threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("copies")

    @repeated
    async def copy(self, caller: Caller, thread_id: UUID, copy_id: UUID) -> bool:
        """Copy a thread with its values and its checkpoints, but without its runs; the copy is the caller's.

        Returns:
            whether the thread was busy: then its checkpoints may be newer than its row, and so are the copy's.

        Raises:
            Missing: no such thread of this caller.
        """
        query = scoped(caller, self._sql["copy"], thread_id=thread_id, copy_id=copy_id)
        async with self._database.transaction("api") as conn:
            row = await (await conn.execute(*query)).fetchone()
        if row is None:
            raise missing(thread_id)
        return bool(row["was_busy"])

    @repeated
    async def storage(self, thread_id: UUID) -> list[DictRow]:
        """`part`, `channel`, `count`, `bytes` of what LangGraph's tables hold of a thread, whoever asks.

        Raises:
            Unsupported: they do not hold the checkpoints.
        """
        only_in_postgres(self._database, "What a thread takes up is not known")
        async with self._database.connection("api") as conn:
            return await (await conn.execute(self._sql["storage"], {"thread_id": thread_id})).fetchall()
