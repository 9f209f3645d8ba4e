"""`holdfast migrate` and `holdfast doctor`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from holdfast.db.embedded import EmbeddedPostgres
from holdfast.db.migrate import migrate, pending
from holdfast.db.pool import Database
from holdfast.errors import HoldfastError
from holdfast.project import load_project
from holdfast.settings import Settings
from holdfast.worker.graphs import Graphs

OLDEST_POSTGRES = 140000


async def migrated(settings: Settings, *, check_only: bool) -> int:
    """Migrate; with `check_only` say what is pending. Returns the exit status."""
    dims = _vector_dims(settings)
    async with opened_database(settings) as url:
        if not check_only:
            applied = await migrate(url, vector_dims=dims)
            _say(f"applied: {', '.join(applied)}" if applied else "nothing to apply")
            return 0
        missing = await pending(url, vector_dims=dims)
    _say(f"pending: {', '.join(missing)}" if missing else "the database is up to date")
    return 1 if missing else 0


async def examined(settings: Settings) -> int:
    """Look at project, graphs and database; one line each. Returns the exit status: the number of findings."""
    findings = 0
    for look in (_examine_project, _examine_database):
        try:
            async for line in look(settings):
                _say(f"ok    {line}")
        except HoldfastError as error:
            findings += 1
            _say(f"WRONG {error}")
    return findings


async def _examine_project(settings: Settings) -> AsyncIterator[str]:
    project = load_project(settings.config)
    yield f"{settings.config}: {len(project.graphs)} graphs"
    for warning in project.warnings:
        yield f"note: {warning}"
    graphs = await Graphs.load(project)
    try:
        for graph_id in graphs.ids():
            yield f"graph {graph_id} loads"
    finally:
        graphs.close()


async def _examine_database(settings: Settings) -> AsyncIterator[str]:
    async with opened_database(settings) as url:
        database = Database(url, size=4)
        await database.open()
        try:
            async with database.connection("api") as conn:
                row = await (
                    await conn.execute(
                        "SELECT current_setting('server_version_num')::integer AS version,"
                        " current_setting('synchronous_commit') AS durable"
                    )
                ).fetchone()
        finally:
            await database.close()
        assert row is not None
        if row["version"] < OLDEST_POSTGRES:
            raise HoldfastError(f"Postgres {row['version'] // 10000} is too old: 14 is the oldest that works")
        yield f"Postgres {row['version'] // 10000} answers"
        if row["durable"] == "off":
            raise HoldfastError("synchronous_commit is off: a crash of Postgres loses acknowledged runs")
        missing = await pending(url, vector_dims=_vector_dims(settings))
        yield f"migrations pending (serve applies them): {', '.join(missing)}" if missing else "schema is up to date"


def _vector_dims(settings: Settings) -> int | None:
    """What the project's store needs; a database may be prepared without a project at hand."""
    return load_project(settings.config).vector_dims if settings.config.is_file() else None


@asynccontextmanager
async def opened_database(settings: Settings) -> AsyncIterator[str]:
    """The URL of the database with sessions; the embedded one runs as long as the block."""
    if settings.database_url is not None:
        yield settings.listen_url or settings.database_url
        return
    postgres = EmbeddedPostgres(settings.data_dir)
    url = await postgres.start()
    try:
        yield url
    finally:
        await postgres.stop()


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - this is what the command is for
