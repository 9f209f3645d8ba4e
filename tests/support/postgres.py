"""A Postgres for tests: one cluster per session, one database per test, cloned from a migrated template."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from holdfast.db.embedded import EmbeddedPostgres
from holdfast.db.migrate import migrate


@dataclass
class Cluster:
    """A running Postgres; `url` is its maintenance database."""

    url: str
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _template: str | None = None

    @classmethod
    @contextmanager
    def embedded(cls, data_dir: Path) -> Iterator[Cluster]:
        postgres = EmbeddedPostgres(data_dir)
        try:
            yield cls(postgres.start_sync())
        finally:
            postgres.stop_sync()

    @classmethod
    @contextmanager
    def at(cls, url: str) -> Iterator[Cluster]:
        yield cls(url)

    @contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[str]:
        """The URL of a fresh database, dropped afterwards whoever is still connected."""
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        self._create(name, self._migrated_template() if migrated else None)
        try:
            yield self._url_of(name)
        finally:
            self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _migrated_template(self) -> str:
        if self._template is None:
            name = f"test_{os.getpid()}_template"
            self._create(name, None)
            asyncio.run(migrate(self._url_of(name)))
            self._template = name
        return self._template

    def _create(self, name: str, template: str | None) -> None:
        self._execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template or "template0")
            )
        )

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute(statement)

    def _url_of(self, name: str) -> str:
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(path=f"/{name}"))
