"""Assistants: a graph under a name. Every graph of the project has one that belongs to nobody (a system assistant)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid5

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from holdfast.db.pool import Database
from holdfast.db.scope import scoped
from holdfast.db.sql import statements
from holdfast.errors import Missing
from holdfast.rules.caller import Caller

NAMESPACE = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
"""Clients know a graph's system assistant as uuid5(NAMESPACE, graph_id)."""


def system_assistant_id(graph_id: str) -> UUID:
    return uuid5(NAMESPACE, graph_id)


class Assistants:
    """The repository of assistants; only those whose graph is part of this project exist."""

    def __init__(self, database: Database, graph_ids: Sequence[str]) -> None:
        self._database = database
        self._graph_ids = list(graph_ids)
        self._sql = statements("assistants")

    async def put_system(self, graph_id: str, name: str, description: str | None) -> None:
        """Make sure that the graph's system assistant exists and says what langgraph.json says."""
        async with self._database.connection("api") as conn:
            await conn.execute(
                self._sql["put_system"],
                {
                    "assistant_id": system_assistant_id(graph_id),
                    "graph_id": graph_id,
                    "name": name,
                    "description": description,
                    "metadata": Jsonb({"created_by": "system"}),
                },
            )

    async def get(self, caller: Caller, assistant_id: UUID) -> DictRow:
        """One assistant.

        Raises:
            Missing: none of this id that the caller may see.
        """
        query = scoped(caller, self._sql["get"], assistant_id=assistant_id, graph_ids=self._graph_ids)
        async with self._database.connection("api") as conn:
            row = await (await conn.execute(*query)).fetchone()
        if row is None:
            raise Missing(f"Assistant with ID {assistant_id} not found")
        return row

    async def search(
        self,
        caller: Caller,
        *,
        graph_id: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        limit: int | None = 10,
        offset: int = 0,
    ) -> list[DictRow]:
        """A page of assistants, newest first; `limit=None` is all of them."""
        query = scoped(
            caller,
            self._sql["search"],
            graph_ids=self._graph_ids,
            graph_id=graph_id,
            name=name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") if name else None,
            metadata=Jsonb(metadata) if metadata else None,
            limit=limit,
            offset=offset,
        )
        async with self._database.connection("api") as conn:
            return await (await conn.execute(*query)).fetchall()
