"""The store of a project: ours, set up as `store` in langgraph.json says, or one that the project brings along."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langgraph.store.base import BaseStore, TTLConfig

from holdfast.db.pool import Database
from holdfast.db.store import PooledStore
from holdfast.db.vectors import Index
from holdfast.project import Project
from holdfast.sections import StoreSection, StoreTtl
from holdfast.worker.embeddings import load_embeddings
from holdfast.worker.graphs import Graphs
from holdfast.worker.objects import opened_object


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
    async with opened_object(graphs, "store.path", section.path, BaseStore) as store:  # type: ignore[type-abstract]
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
