"""The store of a project: ours, set up as `store` in langgraph.json says, or one that the project brings along."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langgraph.store.base import BaseStore, TTLConfig

from holdfast.db.pool import Database
from holdfast.db.store import PooledStore
from holdfast.db.vectors import Index
from holdfast.project import Project
from holdfast.sections import StoreSection, StoreTtl
from holdfast.worker.embeddings import load_embeddings
from holdfast.worker.factory import Factory
from holdfast.worker.graphs import Graphs

_WHAT = "store.path"


@asynccontextmanager
async def opened_store(project: Project, graphs: Graphs, database: Database) -> AsyncIterator[BaseStore]:
    """The store, for as long as the process runs.

    Raises:
        ProjectError: the project's own store, or what embeds the items of ours, does not load.
    """
    section = project.sections.store
    if section.path is None:
        yield await _ours(section, graphs, database)
        return
    async with _of_the_project(section.path, graphs) as store:
        yield store


async def _ours(section: StoreSection, graphs: Graphs, database: Database) -> PooledStore:
    ttl = section.ttl or StoreTtl()
    index = None
    if section.index is not None:
        embeddings = await load_embeddings(graphs, section.index)
        index = Index(embeddings, dims=section.index.dims, fields=section.index.fields)
    return PooledStore(
        database, ttl=TTLConfig(default_ttl=ttl.default_ttl, refresh_on_read=ttl.refresh_on_read), index=index
    )


@asynccontextmanager
async def _of_the_project(path: str, graphs: Graphs) -> AsyncIterator[BaseStore]:
    value, place = await asyncio.to_thread(graphs.load_object, _WHAT, path)
    if isinstance(value, BaseStore):
        yield value
        return
    if not inspect.isroutine(value):
        raise graphs.failure(_WHAT, path, place, f"{value!r} is neither a BaseStore nor a function that makes one")
    try:
        manager = Factory(value).made({}, None)
        made = await manager.__aenter__()
    except Exception as error:  # user code may raise anything
        raise graphs.failure(_WHAT, path, place, error) from error
    try:
        if not isinstance(made, BaseStore):
            raise graphs.failure(_WHAT, path, place, f"what it made is {made!r}, not a BaseStore")
        yield made
    finally:
        await manager.__aexit__(None, None, None)
