"""One pool, two lanes, and the translation of driver errors.

The pool is shared, but requests (`api`) may hold only part of it: however many clients wait, a worker's saves and
finishes (`worker`) always find a connection. Heartbeats do not come here at all (see `liveness.py`).

`psycopg_pool`'s `check=` is not used: after a failover it lets a lone caller wait for its whole timeout. Instead the
first call that fails on a dead connection has the pool checked once, and idempotent work is then retried
(`retrying`).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

import orjson
import psycopg
from psycopg import AsyncConnection
from psycopg.adapt import Buffer, Loader
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from holdfast.errors import DatabaseError, DatabaseUnavailable, Unsaveable

Lane = Literal["api", "worker"]
Connection = AsyncConnection[DictRow]
T = TypeVar("T")

WORKER_RESERVE = 4
"""Connections that requests can never take."""

ACQUIRE_SECONDS = 10.0
"""How long a call waits for a connection before it is answered with DatabaseUnavailable."""

FROZEN_SECONDS = 10
"""A transaction in which nothing happens for so long is rolled back: whoever is frozen in the middle of one must not
keep its row locks from those who take over. Behind a transaction pooler this is the pooler's business."""

_UNSAVEABLE = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)
_UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.IdleInTransactionSessionTimeout,
    PoolTimeout,
    PoolClosed,
    TooManyRequests,
)


class Database:
    """A pool of connections to one Postgres; rows come as dicts, connections are in autocommit mode."""

    def __init__(self, url: str, *, size: int, transaction_pooler: bool = False) -> None:
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            url,
            min_size=min(2, size),
            max_size=size,
            open=False,
            timeout=ACQUIRE_SECONDS,
            reconnect_timeout=5.0,
            configure=_configure if transaction_pooler else _configure_session,
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "prepare_threshold": None if transaction_pooler else 3,
                "application_name": "holdfast",
            },
        )
        self._api_lane = asyncio.Semaphore(max(1, size - WORKER_RESERVE))

    @property
    def pool(self) -> AsyncConnectionPool[Connection]:
        """The pool itself, for LangGraph's store, which does its own SQL."""
        return self._pool

    async def open(self) -> None:
        """Open the pool and wait for its first connection."""
        await self._pool.open(wait=False)
        with translated():
            await self._pool.wait(timeout=ACQUIRE_SECONDS)

    async def close(self) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def connection(self, lane: Lane) -> AsyncIterator[Connection]:
        """A connection for one short piece of work. Driver errors leave as ours."""
        if lane == "worker":
            async with self._borrowed() as conn:
                yield conn
            return
        async with self._api_lane, self._borrowed() as conn:
            yield conn

    @asynccontextmanager
    async def _borrowed(self) -> AsyncIterator[Connection]:
        with translated():
            async with self._pool.connection() as conn:
                yield conn

    @asynccontextmanager
    async def transaction(self, lane: Lane) -> AsyncIterator[Connection]:
        """A connection inside one transaction."""
        async with self.connection(lane) as conn, conn.transaction():
            yield conn

    async def retrying(self, work: Callable[[], Awaitable[T]], *, for_seconds: float) -> T:
        """Call idempotent `work` again after a lost connection, until it succeeds or `for_seconds` have passed."""
        deadline = time.monotonic() + for_seconds
        pause = 0.02
        while True:
            try:
                return await work()
            except DatabaseUnavailable:
                if time.monotonic() >= deadline:
                    raise
                await self._drop_dead_connections()
                await asyncio.sleep(pause * (0.5 + random.random()))  # noqa: S311 - jitter
                pause = min(pause * 2, 1.0)

    async def _drop_dead_connections(self) -> None:
        try:
            await self._pool.check()
        except _UNAVAILABLE:
            return


class translated:  # noqa: N801 - reads as a statement: `with translated():`
    """Turns driver errors into ours; everything else passes."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, _UNSAVEABLE):
            raise Unsaveable(str(error)) from error
        if isinstance(error, _UNAVAILABLE):
            raise DatabaseUnavailable(str(error) or type(error).__name__) from error
        if isinstance(error, psycopg.Error) and not isinstance(error, psycopg.IntegrityError):
            raise DatabaseError(str(error)) from error


class _JsonBytes(Loader):
    """`json` columns are handed on as bytes: they were ready for the wire when Postgres sent them."""

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:
        # Integers over 64 bits: JSONB holds them, orjson does not write them.
        return json.dumps(value, ensure_ascii=False).encode(errors="replace")


async def _configure_session(conn: AsyncConnection[Any]) -> None:
    await _configure(conn)
    await conn.execute(f"SET idle_in_transaction_session_timeout = '{FROZEN_SECONDS}s'")


async def _configure(conn: AsyncConnection[Any]) -> None:
    set_json_dumps(_json, conn)
    set_json_loads(orjson.loads, conn)
    conn.adapters.register_loader("json", _JsonBytes)
