"""LangGraph's store on our pool, over LangGraph's own tables.

Why not the stock `AsyncPostgresStore`. It sends all that a process asks through one background task, one batch at a
time: a search waits while somebody else's text is being embedded, a connection is held meanwhile, and what one caller
gets wrong (an unknown operator, a NUL) fails everybody who asked in the same tick. A cancelled batch leaves its callers
waiting for ever, and a cut connection is theirs to deal with. It compares numbers as texts (9 > 10), keeps the vectors
of what an item no longer says, and turns the pages of a search by meaning past its own results.

Here every call is its own: texts are embedded first, with no connection held, then a connection of the requests' lane
is borrowed for as long as the statements take. Nodes share that lane with requests, so that whatever user code asks
here, a worker's saves find a connection. All operations are idempotent, so a lost connection is a reason to do them
again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    validate_op_namespace,
)
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from holdfast.db.pool import Connection, Database
from holdfast.db.sql import statements
from holdfast.db.vectors import Index
from holdfast.rules.store import OWNER_MARK, Term, terms

RETRY_SECONDS = 5.0
"""How long an operation is repeated while the database is away."""

_ANY_DEPTH = 2**31 - 1
_BELOW = "(s.prefix = %(prefix)s OR (s.prefix ~>=~ %(first)s AND s.prefix ~<~ %(end)s))"
_EVERYWHERE = f"NOT starts_with(s.prefix, '{OWNER_MARK}')"
_OPERATORS = {"$ne": "<>", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


@dataclass(frozen=True, slots=True)
class _Work:
    """The statements of one operation, and what the last one's rows mean."""

    steps: Sequence[tuple[str, dict[str, Any]]]
    result: Callable[[list[DictRow]], Result]
    only_reads: bool = False


class PooledStore(BaseStore):
    """A `BaseStore` for nodes and requests alike.

    Raises:
        Invalid: from a search whose filter makes no sense.
        Unsaveable: from a put of what Postgres refuses (NUL characters, a key of many kilobytes).
        EmbeddingFailed: the model that embeds did not do so.
        DatabaseUnavailable: the database stays away for `RETRY_SECONDS`.
    """

    supports_ttl = True

    def __init__(self, database: Database, *, ttl: TTLConfig | None = None, index: Index | None = None) -> None:
        self.ttl_config = ttl
        self._database = database
        self._index = index
        self._sql = statements("store")
        self._loop = asyncio.get_running_loop()

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """For synchronous nodes, which run in threads."""
        if _running_loop() is self._loop:
            raise asyncio.InvalidStateError("on the event loop use the store's async methods: await store.aget(...)")
        return asyncio.run_coroutine_threadsafe(self._done(list(ops)), self._loop).result()

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """The operations in the order given; several statements are one transaction."""
        if _running_loop() is self._loop:
            return await self._done(list(ops))
        # A node that brought an event loop of its own.
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._done(list(ops)), self._loop))

    async def sweep(self, *, batch: int) -> int:
        """Delete expired items; how many."""
        async with self._database.connection("worker") as conn:
            return (await conn.execute(self._sql["sweep"], {"batch": batch})).rowcount

    async def _done(self, ops: Sequence[Op]) -> list[Result]:
        for op in ops:
            validate_op_namespace(op)
        vectors = await self._vectors(ops)
        work = [await self._work(op, vectors) for op in ops]
        return await self._database.retrying(lambda: self._execute(work), for_seconds=RETRY_SECONDS) if work else []

    async def _execute(self, work: Sequence[_Work]) -> list[Result]:
        async with self._borrowed(work) as conn:
            return [one.result(await _rows(conn, one.steps)) for one in work]

    def _borrowed(self, work: Sequence[_Work]) -> AbstractAsyncContextManager[Connection]:
        if sum(len(one.steps) for one in work) > 1:
            return self._database.transaction("api")
        return self._database.reading("api") if work[0].only_reads else self._database.connection("api")

    async def _vectors(self, ops: Sequence[Op]) -> dict[str, str]:
        if self._index is None:
            return {}
        puts = [op for op in ops if isinstance(op, PutOp)]
        return await self._index.vectors(text for op in puts for text in self._index.texts(op).values())

    async def _work(self, op: Op, vectors: dict[str, str]) -> _Work:
        if isinstance(op, GetOp):
            place = {"prefix": _prefix(op.namespace), "key": op.key, "refresh": op.refresh_ttl}
            return _Work([(self._sql["get"], place)], lambda rows: _item(rows[0]) if rows else None)
        if isinstance(op, PutOp):
            return _Work(self._writes(op, vectors), lambda _: None)
        if isinstance(op, SearchOp):
            vector = await self._index.vector(op.query) if op.query and self._index else None
            query = search_query(op, vector)
            return _Work([query], lambda rows: [_search_item(row) for row in rows], only_reads=not op.refresh_ttl)
        if isinstance(op, ListNamespacesOp):
            return _Work(
                [self._namespaces(op)], lambda rows: [tuple(row["namespace"]) for row in rows], only_reads=True
            )
        raise ValueError(f"unknown operation: {op!r}")

    def _writes(self, op: PutOp, vectors: dict[str, str]) -> list[tuple[str, dict[str, Any]]]:
        place = {"prefix": _prefix(op.namespace), "key": op.key}
        if op.value is None:
            return [(self._sql["delete"], place)]
        put = (self._sql["put"], {**place, "value": Jsonb(dict(op.value)), "ttl": op.ttl})
        if self._index is None:
            return [put]
        texts = self._index.texts(op)
        kept = {"fields": list(texts), "vectors": [vectors[text] for text in texts.values()]}
        return [put, (self._sql["index"], {**place, **kept})]

    def _namespaces(self, op: ListNamespacesOp) -> tuple[str, dict[str, Any]]:
        conditions = op.match_conditions or ()
        within, place = _within(max((_literal(c.path) for c in conditions if c.match_type == "prefix"), default=()))
        depth = _ANY_DEPTH if op.max_depth is None else op.max_depth
        params = {**place, "patterns": [_pattern(condition) for condition in conditions], "max_depth": depth}
        query = self._sql["namespaces"].replace("%%WITHIN%%", within)
        return query, {**params, "limit": op.limit, "offset": op.offset}


def search_query(op: SearchOp, vector: str | None = None) -> tuple[str, dict[str, Any]]:
    """A search as a statement and its parameters: the nearest to a vector, or else the latest."""
    within, place = _within(op.namespace_prefix)
    matches, wanted = _matches(terms(op.filter or {}))
    sql = statements("store")
    query = sql["latest" if vector is None else "nearest"] + (sql["refreshed"] if op.refresh_ttl else "") + sql["found"]
    return query.replace("%%WITHIN%%", within).replace("%%MATCHES%%", matches), {
        **place,
        **wanted,
        "vector": vector,
        "limit": op.limit,
        "offset": op.offset,
    }


async def _rows(conn: Connection, steps: Sequence[tuple[str, dict[str, Any]]]) -> list[DictRow]:
    for query, params in steps:
        cursor = await conn.execute(query, params)
    return await cursor.fetchall() if cursor.description else []


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _prefix(namespace: Iterable[str]) -> str:
    return ".".join(namespace)


def _within(namespace: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """A namespace and all below it, as a condition that `store_prefix_idx` answers whatever the labels hold."""
    if not namespace:
        return _EVERYWHERE, {}
    prefix = _prefix(namespace)
    # In byte order "/" comes right after ".".
    return _BELOW, {"prefix": prefix, "first": prefix + ".", "end": prefix + "/"}


def _matches(wanted: Sequence[Term]) -> tuple[str, dict[str, Any]]:
    """A filter as a condition. Values of different types are never in order; a missing key is null."""
    conditions = ["true"]
    params: dict[str, Any] = {}
    for n, term in enumerate(wanted):
        found, given = f"s.value #> %(path{n})s", f"%(value{n})s"
        params |= {f"path{n}": list(term.path), f"value{n}": Jsonb(term.value)}
        if term.operator in ("$eq", "$ne"):
            found = f"coalesce({found}, 'null')"
        else:
            conditions.append(f"jsonb_typeof({found}) = jsonb_typeof({given})")
        conditions.append(f"{found} {_OPERATORS.get(term.operator, '=')} {given}")
    return " AND ".join(conditions), params


def _literal(path: Sequence[str]) -> tuple[str, ...]:
    """The labels before the first wildcard."""
    return tuple(path[: path.index("*")] if "*" in path else path)


def _pattern(condition: MatchCondition) -> str:
    """A condition on namespaces as a regular expression. A wildcard is one label, but no owner's root."""
    label = rf"(?!{re.escape(OWNER_MARK)})[^.]+" if condition.match_type == "suffix" else "[^.]+"
    labels = r"\.".join(label if part == "*" else re.escape(part) for part in condition.path)
    if not labels:
        return ""
    return rf"(^|\.){labels}\Z" if condition.match_type == "suffix" else rf"^{labels}(\.|\Z)"


def _item(row: DictRow) -> Item:
    return Item(
        value=row["value"],
        key=row["key"],
        namespace=tuple(row["prefix"].split(".")),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _search_item(row: DictRow) -> SearchItem:
    return SearchItem(
        namespace=tuple(row["prefix"].split(".")),
        key=row["key"],
        value=row["value"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        score=row["score"],
    )
