"""The Postgres that all servers of a benchmark share, one database for each; it counts statements.

The embedded one runs with Holdfast's shipped settings (synchronous_commit=on among them) and pg_stat_statements.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from holdfast.db.cluster import PidFile
from holdfast.db.embedded import EmbeddedPostgres

SHOWN = ("server_version", "synchronous_commit", "fsync", "full_page_writes", "wal_compression", "shared_buffers")


class Postgres:
    """A running cluster. `url` is one of its databases; `pid` its postmaster's, None where that is elsewhere."""

    def __init__(self, url: str, pid: int | None) -> None:
        self.url = url
        self.pid = pid
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    @classmethod
    @contextmanager
    def embedded(cls, data_dir: Path) -> Iterator[Postgres]:
        """A new cluster in `data_dir`, gone afterwards; the directory stays."""
        _preload(data_dir)
        postgres = EmbeddedPostgres(data_dir)
        try:
            url = postgres.start_sync()
            known = PidFile.read(data_dir / "postgres")
            yield cls(url, known.pid if known else None)
        finally:
            postgres.stop_sync()

    def fresh_database(self, name: str) -> str:
        """The URL of an empty database of that name."""
        named = sql.Identifier(name)
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(named))
            conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(named))
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def settings(self) -> dict[str, str]:
        with psycopg.connect(self.url) as conn:
            rows = conn.execute("SELECT name, setting FROM pg_settings WHERE name = ANY (%s)", [list(SHOWN)]).fetchall()
        return {f"postgres {name}": str(setting) for name, setting in rows}


def _preload(data_dir: Path) -> None:
    """What has to be there when Postgres starts stands in the cluster itself: it is started twice."""
    postgres = EmbeddedPostgres(data_dir)
    try:
        with psycopg.connect(postgres.start_sync(), autocommit=True) as conn:
            conn.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
    finally:
        postgres.stop_sync()
