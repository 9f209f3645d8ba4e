"""Where a project keeps its checkpoints, if not in Postgres: LangGraph's own savers, or one that it brings along."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver

from holdfast.db.serde import StateSerializer
from holdfast.errors import ProjectError
from holdfast.project import Project
from holdfast.sections import Checkpointer
from holdfast.settings import Settings
from holdfast.worker.graphs import Graphs
from holdfast.worker.objects import opened_object

logger = logging.getLogger(__name__)

AnySaver = BaseCheckpointSaver[Any]

REACH_MILLISECONDS = 5000
"""How long MongoDB may take to answer at the start."""

_LOSSES = (
    "saves are fenced by a look before them, not in one transaction; runs cannot be rolled back, histories cannot be"
    " pruned to their latest state, storage is not measured (docs/checkpointers.md)"
)


@asynccontextmanager
async def opened_checkpointer(project: Project, settings: Settings, graphs: Graphs) -> AsyncIterator[AnySaver | None]:
    """The project's saver for as long as the process runs; None: checkpoints are in Postgres.

    Raises:
        ProjectError: it does not load, or what it needs is not there.
    """
    section = project.sections.checkpointer
    kind = section.kind
    if kind == "postgres":
        yield None
        return
    lost = "they are gone when this process ends; " if kind == "memory" else ""
    logger.warning("checkpoints are kept in %s, not in Postgres: %s%s", _NAMES[kind], lost, _LOSSES)
    if kind == "memory":
        yield InMemorySaver(serde=StateSerializer())
    elif section.path is not None and kind == "custom":
        async with opened_object(graphs, "checkpointer.path", section.path, BaseCheckpointSaver) as own:
            yield own
    elif kind == "sqlite":
        async with _sqlite(_file(project, section, settings)) as saver:
            yield saver
    else:
        url = settings.checkpointer_url or section.url
        if url is None:
            raise ProjectError(f"checkpointer.backend is {kind!r}: set HOLDFAST_CHECKPOINTER_URL or 'checkpointer.url'")
        async with (_redis if kind == "redis" else _mongo)(url) as saver:
            yield saver


def forgets(saver: AnySaver | None) -> bool:
    """Whether what it keeps dies with this process."""
    return isinstance(saver, InMemorySaver)


_NAMES = {"memory": "memory", "sqlite": "SQLite", "redis": "Redis", "mongo": "MongoDB", "custom": "'checkpointer.path'"}


def _file(project: Project, section: Checkpointer, settings: Settings) -> Path:
    return project.root / section.path if section.path else settings.data_dir / "checkpoints.sqlite"


@asynccontextmanager
async def _sqlite(file: Path) -> AsyncIterator[AnySaver]:
    try:
        import aiosqlite
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    except ModuleNotFoundError as missing:
        raise _without("sqlite") from missing
    try:
        await asyncio.to_thread(file.parent.mkdir, parents=True, exist_ok=True)
        connection = await aiosqlite.connect(file)
    except Exception as error:
        raise _unreachable("sqlite", error) from error
    try:
        saver = AsyncSqliteSaver(connection, serde=StateSerializer())
        try:
            await saver.setup()
        except Exception as error:
            raise _unreachable("sqlite", error) from error
        yield saver
    finally:
        await connection.close()


@asynccontextmanager
async def _redis(url: str) -> AsyncIterator[AnySaver]:
    try:
        from langgraph.checkpoint.redis.aio import AsyncRedisSaver
    except ModuleNotFoundError as missing:
        raise _without("redis") from missing
    manager = AsyncRedisSaver.from_conn_string(url)
    try:
        saver = await manager.__aenter__()
    except Exception as error:
        needs = " (it takes Redis 8, or one with the modules for search and JSON)"
        raise _unreachable("redis", error, needs) from error
    try:
        yield saver
    finally:
        await manager.__aexit__(None, None, None)


@asynccontextmanager
async def _mongo(url: str) -> AsyncIterator[AnySaver]:
    try:
        from langgraph.checkpoint.mongodb import MongoDBSaver
        from pymongo import MongoClient
    except ModuleNotFoundError as missing:
        raise _without("mongo") from missing
    try:
        name = urlsplit(url).path.strip("/") or "holdfast"
        client: Any = MongoClient(url, serverSelectionTimeoutMS=REACH_MILLISECONDS)
    except Exception as error:
        raise _unreachable("mongo", error) from error
    try:
        try:
            # It makes its indexes at once, and waits for them.
            saver = await asyncio.to_thread(MongoDBSaver, client, name, serde=StateSerializer())
        except Exception as error:
            raise _unreachable("mongo", error) from error
        yield saver
    finally:
        await asyncio.to_thread(client.close)


def _without(extra: str) -> ProjectError:
    return ProjectError(f"checkpointer.backend is {extra!r}, which is not installed: pip install 'holdfast[{extra}]'")


def _unreachable(kind: str, error: Exception, needs: str = "") -> ProjectError:
    """The URL is not told: it may hold a password."""
    return ProjectError(f"checkpointer.backend is {kind!r}, and cannot be opened{needs}: {error}")
