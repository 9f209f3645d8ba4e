"""Connections in lanes, and the translation of driver errors.

The pool is shared, but requests (`api`) may hold only part of it: however many clients wait, a worker's saves and
finishes (`worker`) always find a connection. Group commits (`groups.py`) have a few connections of their own, which
know their statements. Heartbeats do not come here at all (see `liveness.py`).

`psycopg_pool`'s `check=` is not used: it costs a round trip, and after a failover it lets a lone caller wait for its
whole timeout. Instead a connection whose server hung up is known by its socket and passed over, and what fails on one
that is lost later is done again: idempotent work (`retrying`), and the verbs of repositories (`repeated`), whose
transactions always learn whether they were committed (`commits.py`).
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
import select
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

import orjson
import psycopg
from langgraph.checkpoint.base import BaseCheckpointSaver
from psycopg import AsyncConnection
from psycopg.adapt import Buffer, Loader
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from holdfast.db import arrays, commits
from holdfast.errors import DatabaseError, DatabaseUnavailable, OutcomeUnknown, Unsaveable
from holdfast.telemetry.metrics import Metrics

Lane = Literal["api", "worker", "group"]
Connection = AsyncConnection[DictRow]
Pool = AsyncConnectionPool[Connection]
Configure = Callable[[AsyncConnection[Any]], Awaitable[None]]
T = TypeVar("T")
P = ParamSpec("P")

WORKER_RESERVE = 4
"""Connections that requests can never take."""

GROUP_CONNECTIONS = 4
"""One for each kind of group, as a group commits one at a time."""

ACQUIRE_SECONDS = 10.0
"""How long a call waits for a connection before it is answered with DatabaseUnavailable."""

GROUP_SECONDS = 0.5
"""The same for a group commit: its members go alone then, and each has that time before it."""

AGAIN_SECONDS = 1.0
"""How long a call waits in the pool's queue before it asks again: each asks for a new connection where one went."""

REPEAT_SECONDS = 10.0
"""How long a verb is done again before its caller is told that the database is away."""

PERSISTENT_SECONDS = 120.0
"""The same for what a run or a follower does."""

FROZEN_SECONDS = 10
"""A transaction in which nothing happens for so long is rolled back: whoever is frozen in the middle of one must not
keep its row locks from those who take over. Behind a transaction pooler this is the pooler's business."""

SILENCE = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
"""libpq's settings for a network that swallows packets: a connection counts as lost after ten seconds or so."""

SHORT_SILENCE = {"keepalives_idle": 1, "keepalives_interval": 1, "keepalives_count": 2, "tcp_user_timeout": 3_000}
"""The same where somebody else can answer."""

_UNSAVEABLE = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)
_UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.IdleInTransactionSessionTimeout,
    PoolTimeout,
    PoolClosed,
    TooManyRequests,
)


class Reader(Protocol):
    """Reads in the database's place (`replica.py`)."""

    def reading(self) -> AbstractAsyncContextManager[Connection | None]: ...


class Database:
    """A pool of connections to one Postgres; rows come as dicts, connections are in autocommit mode."""

    def __init__(
        self, url: str, *, size: int, transaction_pooler: bool = False, metrics: Metrics | None = None
    ) -> None:
        """`metrics`: where commits are counted; without, nobody sees them."""
        configure = _configure if transaction_pooler else _configure_session
        self._pool = _pool(url, size, configure, threshold=None if transaction_pooler else 3)
        self._groups = self._pool
        if not transaction_pooler:
            self._groups = _pool(url, GROUP_CONNECTIONS, _configure_groups, threshold=0)
        self.metrics = metrics or Metrics()
        self._api_lane = asyncio.Semaphore(max(1, size - WORKER_RESERVE))
        self.checkpoints_elsewhere: BaseCheckpointSaver[Any] | None = None
        """What keeps the checkpoints, where a project does not want them in this database (`foreign.py`)."""
        self.reader: Reader | None = None
        """Who is asked first by those who only read."""

    @property
    def pool(self) -> AsyncConnectionPool[Connection]:
        """The pool itself, for LangGraph's store, which does its own SQL."""
        return self._pool

    async def open(self) -> None:
        """Open the pool and wait for its first connection."""
        await self._pool.open(wait=False)
        if self._groups is not self._pool:
            await self._groups.open(wait=False)
        async with self.connection("worker") as conn:
            await conn.execute("SELECT 1")

    async def close(self) -> None:
        await self._pool.close()
        await self._groups.close()

    @asynccontextmanager
    async def connection(self, lane: Lane) -> AsyncIterator[Connection]:
        """A connection for one short piece of work. Driver errors leave as ours."""
        if lane == "api":
            async with self._api_lane, borrowed(self._pool, ACQUIRE_SECONDS) as conn:
                yield conn
        elif lane == "group":
            async with borrowed(self._groups, GROUP_SECONDS) as conn:
                yield conn
        else:
            async with borrowed(self._pool, ACQUIRE_SECONDS) as conn:
                yield conn

    @asynccontextmanager
    async def reading(self, lane: Lane) -> AsyncIterator[Connection]:
        """A connection for a verb that only reads, and is repeated: a replica's, where there is one that has all that
        is committed."""
        if self.reader is not None:
            async with self.reader.reading() as elsewhere:
                if elsewhere is not None:
                    yield elsewhere
                    return
        async with self.connection(lane) as conn:
            yield conn

    @asynccontextmanager
    async def transaction(self, lane: Lane) -> AsyncIterator[Connection]:
        """A connection inside one transaction, which is known to be committed when the block ends.

        Raises:
            OutcomeUnknown: Postgres crashed while it was being committed.
            DatabaseUnavailable: nothing has happened.
        """
        ticket: commits.Ticket | None = None
        committing = False
        try:
            async with self.connection(lane) as conn:
                ticket = await commits.begin(conn)
                yield conn
                committing = True
                await conn.execute("COMMIT")
        except DatabaseUnavailable as lost:
            if ticket is None or not committing:
                raise
            await self._learn_fate(ticket, lost)

    async def _learn_fate(self, ticket: commits.Ticket, lost: DatabaseUnavailable) -> None:
        async def fate() -> commits.Fate:
            async with self.connection("worker") as conn:
                found = await commits.ask(conn, ticket)
            if found == "under way":
                raise DatabaseUnavailable("a commit is still under way")
            return found

        try:
            found = await self.retrying(fate, for_seconds=REPEAT_SECONDS)
        except DatabaseUnavailable as away:
            raise OutcomeUnknown(str(lost)) from away
        if found == "unknown":
            raise OutcomeUnknown(str(lost)) from lost
        if found == "undone":
            raise lost

    async def retrying(
        self, work: Callable[[], Awaitable[T]], *, for_seconds: float, unless: type[Exception] | None = None
    ) -> T:
        """Call idempotent `work` again after a lost connection, until it succeeds or `for_seconds` have passed."""
        deadline = time.monotonic() + for_seconds
        pause = 0.02
        while True:
            try:
                return await work()
            except DatabaseUnavailable as error:
                hopeless = self._pool.closed or (unless is not None and isinstance(error, unless))
                if hopeless or time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(pause * (0.5 + random.random()))  # noqa: S311 - jitter
                pause = min(pause * 2, 1.0)


def read_pool(url: str, size: int, *, transaction_pooler: bool) -> Pool:
    """Connections to a replica. A network that swallows packets is known there after three seconds."""
    configure = _configure if transaction_pooler else _configure_session
    return _pool(url, size, configure, threshold=None if transaction_pooler else 3, silence=SHORT_SILENCE)


def _pool(
    url: str, size: int, configure: Configure, *, threshold: int | None, silence: Mapping[str, int] = SILENCE
) -> Pool:
    return AsyncConnectionPool(
        url,
        min_size=min(2, size),
        max_size=size,
        open=False,
        timeout=ACQUIRE_SECONDS,
        # No pause that grows: callers ask again all the time, and each has a new connection made.
        reconnect_timeout=0.0,
        configure=configure,
        kwargs={
            "autocommit": True,
            "row_factory": dict_row,
            "prepare_threshold": threshold,
            "application_name": "holdfast",
            **silence,
        },
    )


@asynccontextmanager
async def borrowed(pool: Pool, seconds: float) -> AsyncIterator[Connection]:
    """A connection of the pool, waited for so long. Driver errors leave as ours."""
    with translated():
        conn = await _usable(pool, seconds)
        try:
            async with conn:
                yield conn
        finally:
            await pool.putconn(conn)


async def _usable(pool: Pool, seconds: float) -> Connection:
    """A connection of the pool whose server has not hung up."""
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        try:
            conn = await pool.getconn(timeout=min(left, AGAIN_SECONDS))
        except PoolTimeout:
            if left <= AGAIN_SECONDS:
                raise
            continue
        if not _hung_up(conn):
            return conn
        await conn.close()
        await pool.putconn(conn)


class _Repository(Protocol):
    @property
    def _database(self) -> Database: ...


R = TypeVar("R", bound=_Repository)


def repeated(verb: Callable[Concatenate[R, P], Awaitable[T]]) -> Callable[Concatenate[R, P], Coroutine[Any, Any, T]]:
    """A repository's verb that rides over lost connections.

    It reads only, or says the same when it is said twice, or is one `transaction`: what failed did not happen.
    """

    return _riding(verb, REPEAT_SECONDS)


def persistent(verb: Callable[Concatenate[R, P], Awaitable[T]]) -> Callable[Concatenate[R, P], Coroutine[Any, Any, T]]:
    """The same for what goes on without a request that could be sent again."""
    return _riding(verb, PERSISTENT_SECONDS)


def _riding(
    verb: Callable[Concatenate[R, P], Awaitable[T]], seconds: float
) -> Callable[Concatenate[R, P], Coroutine[Any, Any, T]]:
    @functools.wraps(verb)
    async def riding(self: R, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._database.retrying(
            lambda: verb(self, *args, **kwargs), for_seconds=seconds, unless=OutcomeUnknown
        )

    return riding


def _hung_up(conn: Connection) -> bool:
    """Whether an idle connection has something to say: nobody asked, so it is the server's last word."""
    if conn.closed:
        return True
    poll = select.poll()
    poll.register(conn.fileno(), select.POLLIN)
    return bool(poll.poll(0))


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


def json_bytes(value: Any) -> bytes:
    """A JSON value as Postgres is sent it."""
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:
        # Integers over 64 bits: JSONB holds them, orjson does not write them.
        return json.dumps(value, ensure_ascii=False).encode(errors="replace")


async def _configure_session(conn: AsyncConnection[Any]) -> None:
    await _configure(conn)
    await conn.execute(f"SET idle_in_transaction_session_timeout = '{FROZEN_SECONDS}s'")


async def _configure_groups(conn: AsyncConnection[Any]) -> None:
    await _configure_session(conn)
    # Their statements look rows up by their keys: one plan is good for all, and takes longer to make than to carry out.
    # It may be made before anybody knows how large the tables are.
    await conn.execute(
        "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off;"
        " SET enable_hashjoin = off; SET enable_mergejoin = off",
        prepare=False,
    )


async def _configure(conn: AsyncConnection[Any]) -> None:
    set_json_dumps(json_bytes, conn)
    set_json_loads(orjson.loads, conn)
    conn.adapters.register_loader("json", _JsonBytes)
    arrays.register(conn.adapters)
