"""What the API and a worker share, opened once in a process."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from langgraph.store.base import BaseStore

from holdfast.db.approvals import Approvals
from holdfast.db.assistants import Assistants
from holdfast.db.bell import Bell
from holdfast.db.crons import Crons
from holdfast.db.events import EventLog
from holdfast.db.fanout import Fanout
from holdfast.db.idempotency import IdempotencyKeys
from holdfast.db.pool import Database
from holdfast.db.queue import Queue
from holdfast.db.replica import Replica
from holdfast.db.revisions import Revisions
from holdfast.db.runs import Runs
from holdfast.db.saves import Saves
from holdfast.db.threads import Threads
from holdfast.db.trees import Stores
from holdfast.db.webhooks import Deliveries
from holdfast.project import Project
from holdfast.rules.approval import Policies
from holdfast.rules.thread import Ttl
from holdfast.sections import ThreadTtl
from holdfast.settings import Settings
from holdfast.telemetry.instruments import Instruments
from holdfast.wire import sse
from holdfast.worker.checkpointers import opened_checkpointer
from holdfast.worker.graphs import Graphs
from holdfast.worker.pruning import Pruner
from holdfast.worker.stores import opened_store
from holdfast.worker.webhooks import Post


@dataclass(frozen=True, slots=True)
class Parts:
    """What the API and a worker share."""

    project: Project
    settings: Settings
    urls: tuple[str, str | None]
    """The pool's, and the one for LISTEN and session locks if there are sessions."""
    graphs: Graphs
    database: Database
    replica: Replica | None
    bell: Bell
    fanout: Fanout | None
    queue: Queue
    runs: Runs
    threads: Threads
    keys: IdempotencyKeys
    events: EventLog
    crons: Crons
    approvals: Approvals
    policies: Policies
    deliveries: Deliveries
    assistants: Assistants
    revisions: Revisions
    saves: Saves
    store: BaseStore
    stores: Stores
    pruner: Pruner
    post: Post | None
    ttl: ThreadTtl
    instruments: Instruments


async def opened(
    settings: Settings,
    project: Project,
    graphs: Graphs,
    post: Post | None,
    urls: tuple[str, str | None],
    stack: AsyncExitStack,
    instruments: Instruments,
) -> Parts:
    """Open what the API and a worker share; it closes with the stack."""
    url, listen_url = urls
    is_pooled = settings.pooler == "transaction"
    database = Database(url, size=settings.pool_size, transaction_pooler=is_pooled, metrics=instruments.metrics)
    await database.open()
    stack.push_async_callback(database.close)
    database.reader = replica = await _replica(settings, database, stack)
    database.checkpoints_elsewhere = await stack.enter_async_context(opened_checkpointer(project, settings, graphs))
    bell = Bell(database, listen_url)
    stack.push_async_callback(bell.close)
    ttl = project.sections.checkpointer.ttl or ThreadTtl()
    policies = project.sections.approvals.policies
    saves = Saves(database)
    runs, threads = Runs(database, policies, saves), Threads(database, default_ttl(ttl))
    fanout = _fanout(settings, bell, stack)
    events = EventLog(database, runs, bell, sse.split, fanout)
    store = await stack.enter_async_context(opened_store(project, graphs, database))
    assistants = Assistants(database, graphs.ids())
    for graph_id in graphs.ids():
        await assistants.put_system(graph_id, graphs.name(graph_id), graphs.description(graph_id))
    revisions = Revisions(database)
    for graph_id, revision in graphs.revisions().items():
        await revisions.record(graph_id, revision)
    return Parts(
        project=project,
        settings=settings,
        urls=urls,
        graphs=graphs,
        database=database,
        replica=replica,
        bell=bell,
        fanout=fanout,
        queue=Queue(database),
        runs=runs,
        threads=threads,
        keys=IdempotencyKeys(database),
        events=events,
        crons=Crons(database),
        approvals=Approvals(database),
        policies=policies,
        deliveries=Deliveries(database),
        assistants=assistants,
        revisions=revisions,
        saves=saves,
        store=store,
        stores=Stores(store, shared=project.sections.auth.path is not None),
        pruner=Pruner(database, threads, graphs, store, events),
        post=post,
        ttl=ttl,
        instruments=instruments,
    )


async def _replica(settings: Settings, database: Database, stack: AsyncExitStack) -> Replica | None:
    """What reads in the database's place; nothing, before it is watched."""
    if settings.database_read_url is None:
        return None
    pooled = settings.pooler == "transaction"
    replica = Replica(database, settings.database_read_url, wait=settings.read_wait_seconds, transaction_pooler=pooled)
    await replica.open()
    stack.push_async_callback(replica.close)
    return replica


def _fanout(settings: Settings, bell: Bell, stack: AsyncExitStack) -> Fanout | None:
    if settings.fanout_url is None:
        return None
    fanout = Fanout(settings.fanout_url, bell)
    stack.push_async_callback(fanout.close)
    return fanout


def default_ttl(section: ThreadTtl) -> Ttl | None:
    """Of threads that are given none of their own."""
    return Ttl(section.default_ttl, section.strategy) if section.default_ttl else None
