"""What graphs were made of when checkpoints were written, by the fingerprint that stands in their metadata."""

from __future__ import annotations

from psycopg.types.json import Jsonb

from holdfast.db.pool import Database, repeated
from holdfast.db.sql import statements
from holdfast.rules.revision import Revision


class Revisions:
    """The repository of graph revisions. They belong to the project: no caller is asked."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = statements("revisions")

    @repeated
    async def record(self, graph_id: str, revision: Revision) -> None:
        """Keep what a fingerprint stands for."""
        params = {
            "graph_id": graph_id,
            "revision": revision.fingerprint,
            "nodes": Jsonb(list(revision.nodes)),
            "channels": Jsonb(dict(revision.channels)),
        }
        async with self._database.connection("worker") as conn:
            await conn.execute(self._sql["record"], params)

    @repeated
    async def find(self, graph_id: str, fingerprint: str) -> Revision | None:
        """What a fingerprint stood for, if it was recorded."""
        async with self._database.connection("worker") as conn:
            cursor = await conn.execute(self._sql["find"], {"graph_id": graph_id, "revision": fingerprint})
            row = await cursor.fetchone()
        return Revision(row["nodes"], row["channels"]) if row else None
