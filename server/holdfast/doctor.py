"""`holdfast migrate` and `holdfast doctor`."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from holdfast.db.embedded import EmbeddedPostgres
from holdfast.db.migrate import migrate, pending
from holdfast.db.pool import Database
from holdfast.db.store import PooledStore
from holdfast.db.threads import Threads
from holdfast.db.trees import Stores
from holdfast.errors import HoldfastError
from holdfast.project import load_project
from holdfast.rules.caller import LOCAL
from holdfast.settings import Settings
from holdfast.worker.checkpointers import opened_checkpointer
from holdfast.worker.checkup import Checkup
from holdfast.worker.graphs import Graphs

OLDEST_POSTGRES = 140000
MOST_FINDINGS = 100
"""More do not fit into an exit status."""


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


@dataclass(frozen=True, slots=True)
class Depth:
    """How far `examined` looks at threads: the newest `threads` (None: all), `graphs`: only those that wait, all of
    them. `fix`: mend what can be mended."""

    threads: int | None = 100
    graphs: bool = False
    fix: bool = False


async def examined(settings: Settings, depth: Depth) -> int:
    """Look at project, graphs, database and threads; one line each. Returns the exit status: the findings left."""
    findings = _Findings()
    graphs = None
    try:
        graphs = await _loaded(settings)
    except HoldfastError as error:
        findings.add(error)
    try:
        await _examine_stored(settings, graphs, depth, findings)
    except HoldfastError as error:
        findings.add(error)
    finally:
        if graphs is not None:
            graphs.close()
    return min(findings.count, MOST_FINDINGS)


class _Findings:
    """Counts what is wrong, and says it."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, text: object) -> None:
        self.count += 1
        _say(f"WRONG {text}")


async def _loaded(settings: Settings) -> Graphs:
    project = load_project(settings.config)
    _say(f"ok    {settings.config}: {len(project.graphs)} graphs")
    for warning in project.warnings:
        _say(f"ok    note: {warning}")
    graphs = await Graphs.load(project)
    for graph_id in graphs.ids():
        _say(f"ok    graph {graph_id} loads")
    return graphs


async def _examine_stored(settings: Settings, graphs: Graphs | None, depth: Depth, findings: _Findings) -> None:
    async with opened_database(settings) as url, AsyncExitStack() as stack:
        async for line in _examine_database(settings, url):
            _say(f"ok    {line}")
        if graphs is None or await pending(url):
            return
        database = Database(url, size=4)
        await database.open()
        try:
            checkpointer = opened_checkpointer(load_project(settings.config), settings, graphs)
            database.checkpoints_elsewhere = await stack.enter_async_context(checkpointer)
            stores = Stores(PooledStore(database), shared=False)
            checkup = Checkup(database, Threads(database), graphs, stores)
            await _examine_rows(checkup, depth, findings)
            await _examine_states(checkup, depth, findings)
        finally:
            await database.close()


async def _examine_rows(checkup: Checkup, depth: Depth, findings: _Findings) -> None:
    if depth.fix and (mended := await checkup.unstick()):
        _say(f"fixed rows that did not agree, on {mended} threads")
    stuck = await checkup.stuck()
    for finding in stuck:
        findings.add(f"thread {finding.thread_id}: {finding.text}")
    if not stuck:
        _say("ok    the rows of threads and runs agree")


async def _examine_states(checkup: Checkup, depth: Depth, findings: _Findings) -> None:
    limit = None if depth.graphs else depth.threads
    looked, found = await checkup.states(LOCAL, live_only=depth.graphs, limit=limit)
    for finding in found:
        marked = depth.fix and await checkup.mark(finding)
        findings.add(f"thread {finding.thread_id}: {finding.text}" + (" (its status says so now)" if marked else ""))
    broken = Counter(str(finding.graph_id) for finding in found)
    for graph_id, number in sorted(broken.items()):
        _say(f"      graph {graph_id}: {number} threads cannot go on")
    what = "threads that wait or run" if depth.graphs else "threads, the newest first"
    _say(f"ok    {looked - len(found)} of {looked} {what}: their state can be read, and what they wait in is there")


async def _examine_database(settings: Settings, url: str) -> AsyncIterator[str]:
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
