"""Migrations: ours, then those of LangGraph's checkpointer and store, under one lock.

The lock belongs to a transaction on a connection of its own: behind a transaction pooler a session lock would stay with
whatever server connection happened to take it. It is polled, each try a transaction, so that who waits holds neither a
pooled connection nor a snapshot. (LangGraph's `CREATE INDEX CONCURRENTLY` waits for all older snapshots; a transaction
that is idle between statements has none.)
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.postgres.base import MIGRATIONS as CHECKPOINT_MIGRATIONS
from langgraph.store.postgres.aio import AsyncPostgresStore
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from holdfast.db import vectors
from holdfast.db.pool import translated
from holdfast.errors import DatabaseError

LOCK_KEY = 0x486F6C64
"""The advisory lock of migrations ("Hold")."""
TRY_LOCK = f"SELECT pg_try_advisory_xact_lock({LOCK_KEY}) AS locked"

NEVER_PARTITIONED = (
    "checkpoints",
    "checkpoint_blobs",
    "checkpoint_writes",
    "holdfast.elements",
    "holdfast.event_blocks",
    "holdfast.runs",
    "holdfast.thread_values",
)
PARTITIONED = """
SELECT oid::regclass::text AS name FROM pg_class
WHERE relkind = 'p' AND oid = ANY(ARRAY(SELECT to_regclass(given) FROM unnest(%(tables)s::text[]) AS given))
ORDER BY name"""

BREAKING = "post_"
"""How the name of a migration begins after which older versions cannot work; all others only add (docs/replicas.md)."""
POLL_SECONDS = 0.05
_FILE = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    sql: str


def migrations() -> list[Migration]:
    """All migrations that ship with this version, in order."""
    found = [
        Migration(int(match[1]), match[2], entry.read_text("utf-8"))
        for entry in _directory().iterdir()
        if (match := _FILE.fullmatch(entry.name))
    ]
    return sorted(found, key=lambda migration: migration.version)


def schema() -> str:
    """The whole schema as one script."""
    return _directory().joinpath("schema.sql").read_text("utf-8")


async def migrate(url: str, *, vector_dims: int | None = None) -> list[str]:
    """Bring the database up to date; returns the names of what was applied. Safe from any number of processes.

    Args:
        vector_dims: the size of the store's vectors, where items are to be found by meaning.

    Raises:
        DatabaseError: a statement failed, what came before it stays applied and recorded; or there is no place for
            vectors of this size; or a table is partitioned.
    """
    with translated():
        async with _alone(url), await _connect(url) as conn:
            await _check_whole(conn)
            applied = [migration async for migration in _apply(conn)]
            await AsyncPostgresSaver(conn).setup()
            async with AsyncPostgresStore(conn) as store:
                await store.setup()
            if vector_dims is not None:
                await vectors.prepare(conn, vector_dims)
    return applied


async def pending(url: str, *, vector_dims: int | None = None) -> list[str]:
    """The names of what `migrate` would apply."""
    with translated():
        async with await _connect(url) as conn:
            missing = await lacking(conn)
            if vector_dims is not None and await vectors.kept_type(conn) is None:
                missing.append("langgraph store vectors")
    return missing


async def lacking(conn: AsyncConnection[DictRow]) -> list[str]:
    """The names of migrations that this version knows and this database has not seen, vectors aside."""
    done = await _applied(conn)
    missing = [migration.name for migration in migrations() if migration.version not in done]
    if not await _langgraph_is_current(conn):
        missing.append("langgraph checkpoint and store tables")
    return missing


async def _connect(url: str) -> AsyncConnection[DictRow]:
    return await AsyncConnection.connect(
        url, autocommit=True, row_factory=dict_row, prepare_threshold=None, application_name="holdfast migrate"
    )


@asynccontextmanager
async def _alone(url: str) -> AsyncIterator[None]:
    async with await _connect(url) as keeper:
        while True:
            async with keeper.transaction():
                # Without a parameter: a parameter's portal would stay open, and with it a snapshot.
                row = await (await keeper.execute(TRY_LOCK)).fetchone()
                if row is not None and row["locked"]:
                    yield
                    return
            await asyncio.sleep(POLL_SECONDS)


async def _check_whole(conn: AsyncConnection[DictRow]) -> None:
    """Refuse partitioned tables: rows are removed by their place in the table (`ctid`), which each partition has."""
    rows = await (await conn.execute(PARTITIONED, {"tables": list(NEVER_PARTITIONED)})).fetchall()
    if rows:
        named = ", ".join(row["name"] for row in rows)
        raise DatabaseError(f"partitioned, which would lose rows of other threads: {named} (docs/sharding.md)")


async def _apply(conn: AsyncConnection[DictRow]) -> AsyncIterator[str]:
    done = await _applied(conn)
    known = {migration.version for migration in migrations()}
    if any(version not in known and name.startswith(BREAKING) for version, name in done.items()):
        raise DatabaseError("the database was migrated by a newer version of Holdfast")
    for migration in migrations():
        if migration.version in done:
            continue
        async with conn.transaction():
            await conn.execute(migration.sql)
            await conn.execute(
                "CREATE TABLE IF NOT EXISTS holdfast.migrations"
                " (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            await conn.execute(
                "INSERT INTO holdfast.migrations (version, name) VALUES (%s, %s)",
                [migration.version, migration.name],
            )
        yield migration.name


async def _applied(conn: AsyncConnection[DictRow]) -> dict[int, str]:
    row = await (await conn.execute("SELECT to_regclass('holdfast.migrations') AS found")).fetchone()
    if row is None or row["found"] is None:
        return {}
    rows = await (await conn.execute("SELECT version, name FROM holdfast.migrations")).fetchall()
    return {row["version"]: row["name"] for row in rows}


async def _langgraph_is_current(conn: AsyncConnection[DictRow]) -> bool:
    for table, newest in (
        ("checkpoint_migrations", len(CHECKPOINT_MIGRATIONS) - 1),
        ("store_migrations", len(AsyncPostgresStore.MIGRATIONS) - 1),
    ):
        row = await (await conn.execute("SELECT to_regclass(%s) AS found", [table])).fetchone()
        if row is None or row["found"] is None:
            return False
        query = f"SELECT max(v) AS newest FROM {table}"
        row = await (await conn.execute(query)).fetchone()
        if row is None or row["newest"] is None or row["newest"] < newest:
            return False
    return True


def _directory() -> Traversable | Path:
    packaged = resources.files("holdfast").joinpath("migrations")
    # A checkout keeps them at its top level; the wheel carries them inside the package.
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "migrations"
