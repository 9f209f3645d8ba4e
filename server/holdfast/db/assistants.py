"""Assistants: a graph under a name, with settings and a history of versions.

Every graph of the project has one that belongs to nobody (a system assistant). The row is the current version; the
versions stand beside it, and an earlier one may become the current one again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

import uuid_utils.compat as uuids
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from holdfast.db.arrays import Texts, Uuids
from holdfast.db.groups import Group
from holdfast.db.pool import Database, repeated
from holdfast.db.scope import scoped
from holdfast.db.sql import statements
from holdfast.errors import Conflict, Forbidden, Missing
from holdfast.rules.caller import Caller, Sight

NAMESPACE = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
"""Clients know a graph's system assistant as uuid5(NAMESPACE, graph_id)."""

SORTABLE = ("assistant_id", "graph_id", "name", "created_at", "updated_at")

_EVERYBODYS = "belongs to everybody; to change something, create an assistant of your own with this graph."
_KEEPS_GRAPH = "stays with its graph; for another graph, use that graph's assistant or create one."
_STANDS_FOR_GRAPH = "stands for the graph itself and cannot be deleted."


def system_assistant_id(graph_id: str) -> UUID:
    return uuid5(NAMESPACE, graph_id)


@dataclass(frozen=True, slots=True)
class AssistantFilter:
    """Search terms; None means any. `name` is a part of it in any case, `metadata` matches by containment."""

    graph_id: str | None = None
    name: str | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class AssistantChange:
    """What a PATCH says; None leaves a field as it is, `metadata` is merged shallowly.

    Where `context` is given without a `config`, it becomes the configurable of the config that is there.
    """

    graph_id: str | None = None
    name: str | None = None
    description: str | None = None
    config: Mapping[str, Any] | None = None
    context: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Lookup:
    """A caller who sees what is their own asks for an assistant and a thread."""

    lookup_id: UUID
    assistant_id: UUID
    thread_id: UUID | None
    owner: str


class Assistants:
    """The repository of assistants; only those whose graph is part of this project exist."""

    def __init__(self, database: Database, graph_ids: Sequence[str]) -> None:
        self._database = database
        self._graph_ids = list(graph_ids)
        self._sql = statements("assistants")
        self._lookups: Group[_Lookup, DictRow] = Group("lookups", self._look_up, database.metrics)

    @repeated
    async def put_system(self, graph_id: str, name: str, description: str | None) -> None:
        """Make sure that the graph's system assistant exists, and follows langgraph.json where that has changed."""
        params = {
            "assistant_id": system_assistant_id(graph_id),
            "graph_id": graph_id,
            "name": name,
            "description": description,
        }
        async with self._database.connection("api") as conn:
            await conn.execute(self._sql["put_system"] + self._sql["recorded"], params)

    async def create(
        self,
        caller: Caller,
        assistant_id: UUID,
        *,
        graph_id: str,
        name: str,
        description: str | None = None,
        config: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        or_keep: bool = False,
    ) -> DictRow:
        """Insert an assistant as version 1. With `or_keep`, the one that has this id already is returned as it is.

        Raises:
            Conflict: the id is taken, by this caller (unless `or_keep`) or by somebody else.
        """
        row = await self._changed(
            caller,
            self._sql["create"] + self._sql["recorded"],
            assistant_id=assistant_id,
            graph_id=graph_id,
            name=name,
            description=description,
            config=Jsonb(config or {}),
            context=Jsonb(context or {}),
            metadata=Jsonb(metadata or {}),
        )
        if row is None and or_keep:
            row = await self._one(caller, self._sql["get"], assistant_id=assistant_id)
        if row is None:
            raise Conflict(f"Assistant {assistant_id} already exists.")
        return row

    async def get(self, caller: Caller, assistant_id: UUID) -> DictRow:
        """One assistant; `owner` is None for a system assistant.

        Raises:
            Missing: none of this id that the caller may see.
        """
        row = await self._one(caller, self._sql["get"], assistant_id=assistant_id)
        if row is None:
            raise _missing(assistant_id)
        return row

    async def on_thread(
        self, caller: Caller, assistant_id: UUID, thread_id: UUID | None, *, of_thread: Caller | None = None
    ) -> DictRow:
        """What a run is made of: the assistant's graph, config, context and metadata, the thread's config and metadata.

        `of_thread` is the same party with what they see of threads, if that is not what they see of assistants.

        Raises:
            Missing: no such assistant. A thread that is not there (yet) says nothing.
        """
        row = None
        if caller.sight is (of_thread or caller).sight is Sight.OWN:
            lookup = _Lookup(uuids.uuid7(), assistant_id, thread_id, caller.owner)
            row = await self._lookups.join(lookup.lookup_id, lookup)
        if row is None:
            ids = {"assistant_id": assistant_id, "thread_id": thread_id}
            row = await self._one(caller, self._sql["on_thread"], of_thread, **ids)
        if row is None:
            raise _missing(assistant_id)
        return row

    async def patch(self, caller: Caller, assistant_id: UUID, change: AssistantChange) -> DictRow:
        """Make a new version, also where nothing changes; the assistant as it is then.

        Raises:
            Missing: no such assistant.
            Forbidden: a system assistant, which is not this caller's to change, or which would leave its graph.
        """
        row = await self._changed(
            caller,
            self._sql["patch"] + self._sql["recorded"],
            assistant_id=assistant_id,
            graph_id=change.graph_id,
            name=change.name,
            description=change.description,
            config=_json(change.config),
            context=_json(change.context),
            configurable=Jsonb({"configurable": change.context} if change.context else {}),
            metadata=Jsonb(change.metadata),
        )
        if row is None:
            await self._refuse_system(caller, assistant_id, _KEEPS_GRAPH if caller.alone else _EVERYBODYS)
            raise _missing(assistant_id)
        return row

    async def set_latest(self, caller: Caller, assistant_id: UUID, version: int) -> DictRow:
        """Make an earlier version the current one, whole; the assistant as it is then.

        Raises:
            Missing: no such assistant, or no such version of it.
            Forbidden: a system assistant, which is not this caller's to change.
        """
        row = await self._changed(caller, self._sql["set_latest"], assistant_id=assistant_id, version=version)
        if row is None:
            if caller.alone:
                await self.get(caller, assistant_id)
            else:
                await self._refuse_system(caller, assistant_id, _EVERYBODYS)
            raise Missing(f"Version {version} of assistant {assistant_id} not found")
        return row

    async def check_deletable(self, caller: Caller, assistant_id: UUID) -> None:
        """Raise what `delete` would raise."""
        await self._refuse_system(caller, assistant_id, _STANDS_FOR_GRAPH)

    async def delete(self, caller: Caller, assistant_id: UUID) -> None:
        """Delete an assistant and its versions. Its runs go on.

        Raises:
            Missing: no such assistant.
            Forbidden: a system assistant.
        """
        if await self._changed(caller, self._sql["delete"], assistant_id=assistant_id) is None:
            await self.check_deletable(caller, assistant_id)
            raise _missing(assistant_id)

    async def threads(self, caller: Caller, assistant_id: UUID, *, limit: int) -> list[UUID]:
        """Threads that the assistant was the last to run on."""
        rows = await self._all(caller, self._sql["threads"], assistant_id=str(assistant_id), limit=limit)
        return [row["thread_id"] for row in rows]

    async def versions(
        self,
        caller: Caller,
        assistant_id: UUID,
        *,
        metadata: Mapping[str, Any] | None = None,
        limit: int = 10,
        offset: int = 0,
    ) -> list[DictRow]:
        """A page of an assistant's versions, newest first.

        Raises:
            Missing: no such assistant.
        """
        rows = await self._found(
            caller,
            self._sql["versions"],
            assistant_id=assistant_id,
            metadata=_json(metadata),
            limit=limit,
            offset=offset,
        )
        if not rows:
            await self.get(caller, assistant_id)
        return rows

    async def search(
        self,
        caller: Caller,
        terms: AssistantFilter,
        *,
        limit: int,
        offset: int = 0,
        sort_by: str = "created_at",
        descending: bool = True,
    ) -> list[DictRow]:
        """A page of assistants; `sort_by` is one of SORTABLE."""
        query = page(terms, sort_by, descending=descending)
        return await self._found(caller, query, **_params(terms), limit=limit, offset=offset)

    async def count(self, caller: Caller, terms: AssistantFilter) -> int:
        (row,) = await self._found(caller, self._sql["count"] + _asked(terms), **_params(terms))
        return int(row["count"])

    async def _look_up(self, lookups: Sequence[_Lookup]) -> dict[UUID, DictRow]:
        """What `on_thread` asks, for many who see what is their own."""
        params = {
            "lookup_ids": Uuids(lookup.lookup_id for lookup in lookups),
            "assistant_ids": Uuids(lookup.assistant_id for lookup in lookups),
            "thread_ids": Uuids(lookup.thread_id for lookup in lookups),
            "owners": Texts(lookup.owner for lookup in lookups),
            "graph_ids": Texts(self._graph_ids),
        }
        async with self._database.connection("group") as conn:
            rows = await (await conn.execute(self._sql["on_threads"], params)).fetchall()
        return {row.pop("lookup_id"): row for row in rows}

    async def _refuse_system(self, caller: Caller, assistant_id: UUID, why: str) -> None:
        row = await self.get(caller, assistant_id)
        if row["owner"] is None:
            raise Forbidden(f"The system assistant of graph '{row['graph_id']}' {why}")

    async def _one(
        self, caller: Caller, statement: str, also: Caller | None = None, /, **params: Any
    ) -> DictRow | None:
        rows = await self._all(caller, statement, also, **params)
        return rows[0] if rows else None

    @repeated
    async def _all(self, caller: Caller, statement: str, also: Caller | None = None, /, **params: Any) -> list[DictRow]:
        async with self._database.connection("api") as conn:
            return await (await conn.execute(*self._query(caller, statement, also, params))).fetchall()

    @repeated
    async def _found(self, caller: Caller, statement: str, /, **params: Any) -> list[DictRow]:
        async with self._database.reading("api") as conn:
            return await (await conn.execute(*self._query(caller, statement, None, params))).fetchall()

    @repeated
    async def _changed(self, caller: Caller, statement: str, /, **params: Any) -> DictRow | None:
        async with self._database.transaction("api") as conn:
            return await (await conn.execute(*self._query(caller, statement, None, params))).fetchone()

    def _query(
        self, caller: Caller, statement: str, also: Caller | None, params: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        return scoped(caller, statement, also, graph_ids=self._graph_ids, alone=caller.alone, **params)


def page(terms: AssistantFilter, sort_by: str, *, descending: bool) -> str:
    """The statement of a search."""
    assert sort_by in SORTABLE
    direction = "DESC" if descending else "ASC"
    order = f" ORDER BY {sort_by} {direction}, assistant_id {direction} LIMIT %(limit)s OFFSET %(offset)s"
    return statements("assistants")["view"] + _asked(terms) + order


def _asked(terms: AssistantFilter) -> str:
    asked = {"of_graph": terms.graph_id, "of_name": terms.name, "of_metadata": terms.metadata}
    return "".join(statements("assistants")[term] for term, value in asked.items() if value)


def _missing(assistant_id: UUID) -> Missing:
    return Missing(f"Assistant with ID {assistant_id} not found")


def _json(value: Mapping[str, Any] | None) -> Jsonb | None:
    return None if value is None else Jsonb(value)


def _params(terms: AssistantFilter) -> dict[str, Any]:
    name = terms.name or ""
    return {
        "graph_id": terms.graph_id,
        "name": name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_"),
        "metadata": Jsonb(terms.metadata or {}),
    }
