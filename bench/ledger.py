"""What a server asked of its database: statements, transactions, bytes of WAL, bytes kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from bench.figures import Figures

COUNTED = """
SELECT coalesce((SELECT sum(calls) FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
                 WHERE d.datname = %(database)s AND query NOT IN ('BEGIN', 'COMMIT', 'ROLLBACK')), 0)::bigint,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
       pg_current_wal_insert_lsn() - '0/0'::pg_lsn,
       (SELECT xact_commit FROM pg_stat_database WHERE datname = %(database)s)"""
TABLES = """
SELECT schemaname, relname FROM pg_stat_user_tables ORDER BY schemaname, relname"""


@dataclass(frozen=True, slots=True)
class Counts:
    """Totals since the cluster was made.

    `statements` are the database's own, at once, without BEGIN and COMMIT: pg_stat_statements misses a COMMIT that is
    a prepared statement. `commits` are transactions that took an
    id (they wrote), of the whole cluster, at once; reading ones are statements only. `wal_bytes` are the cluster's.
    `transactions` are all that the database has committed, as idle sessions report them: up to ten seconds late.
    """

    statements: int
    commits: int
    wal_bytes: int
    transactions: int

    def since(self, before: Counts, *, runs: float) -> Figures:
        """For one run."""
        return {
            "statements": (self.statements - before.statements) / runs,
            "transactions": (self.transactions - before.transactions) / runs,
            "commits": (self.commits - before.commits) / runs,
            "wal_kb": (self.wal_bytes - before.wal_bytes) / 1024 / runs,
        }


class Ledger:
    """Reads the counts; its own statements are not among them, as it sits in a database of its own."""

    def __init__(self, url: str) -> None:
        self._conn = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        self._conn.close()

    def read(self, database_url: str) -> Counts:
        row = self._conn.execute(COUNTED, {"database": _database_of(database_url)}).fetchone()
        assert row is not None
        return Counts(*(int(value) for value in row))

    def calls(self, database_url: str) -> dict[str, int]:
        """How often each statement was executed, by its normalised text; the same statements."""
        rows = self._conn.execute(
            "SELECT query, sum(calls)::bigint FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid"
            " WHERE d.datname = %s AND query NOT IN ('BEGIN', 'COMMIT', 'ROLLBACK') GROUP BY query",
            [_database_of(database_url)],
        ).fetchall()
        return {str(query): int(calls) for query, calls in rows}


def live_bytes(database_url: str) -> dict[str, int]:
    """The bytes of all rows by table: what vacuumed tables would hold, without their indexes."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        return {
            f"{schema}.{table}": _bytes_of(conn, schema, table) for schema, table in conn.execute(TABLES).fetchall()
        }


def _bytes_of(conn: psycopg.Connection[Any], schema: str, table: str) -> int:
    query = sql.SQL("SELECT coalesce(sum(pg_column_size(t.*)), 0) FROM {} t").format(sql.Identifier(schema, table))
    row = conn.execute(query).fetchone()
    return int(row[0]) if row else 0


def _database_of(url: str) -> str:
    return urlsplit(url).path.lstrip("/")
