"""The slow rounds: what has had its time goes (events, keys, webhooks, items, approvals, deleted threads), lost claims
return."""

from __future__ import annotations

import asyncio
import logging

from holdfast.db.approvals import Approvals
from holdfast.db.events import EventLog
from holdfast.db.healing import STUCK, Healing
from holdfast.db.idempotency import IdempotencyKeys
from holdfast.db.revisions import Revisions
from holdfast.db.store import PooledStore
from holdfast.db.threads import Threads
from holdfast.db.webhooks import Deliveries
from holdfast.errors import DatabaseError
from holdfast.worker.graphs import Graphs
from holdfast.worker.loop import Worker

logger = logging.getLogger(__name__)

ROUND_SECONDS = 10.0
BATCH = 500
DELETED_GRACE_SECONDS = 120.0
"""A stateless run's thread is kept this long for clients that still wait for its result."""

SETTLED_KEEP_SECONDS = 7 * 86_400.0
"""How long delivered and given up webhooks can be looked at."""


HEAL_EVERY = 600.0
"""Seconds between two looks at all threads for rows that do not agree; the first is taken at the start."""


async def keep_house(
    worker: Worker,
    threads: Threads,
    events: EventLog,
    keys: IdempotencyKeys,
    deliveries: Deliveries,
    approvals: Approvals,
    *,
    event_ttl: float,
    keep_approvals: float | None = None,
) -> None:
    """Go round until cancelled; `keep_approvals` are seconds, None is for ever."""
    while True:
        try:
            await worker.reconcile()
            await worker.adopt_orphans()
            while await threads.sweep(grace=DELETED_GRACE_SECONDS, batch=BATCH) == BATCH:
                continue
            while await deliveries.sweep(keep=SETTLED_KEEP_SECONDS, batch=BATCH) == BATCH:
                continue
            while await events.expire(ttl=event_ttl, batch=BATCH) == BATCH:
                continue
            await approvals.withdraw()
            while keep_approvals is not None and await approvals.sweep(keep=keep_approvals, batch=BATCH) == BATCH:
                continue
            while await keys.sweep(batch=BATCH) == BATCH:
                continue
        except DatabaseError as error:
            logger.warning("housekeeping postponed: %s", error)
        await asyncio.sleep(ROUND_SECONDS)


async def heal(healing: Healing, revisions: Revisions, graphs: Graphs) -> None:
    """Mend rows that do not agree, at the start and every `HEAL_EVERY` seconds, until cancelled; note what graphs
    factories have made meanwhile."""
    while True:
        try:
            for kind, mended in (await healing.heal_all()).items():
                logger.warning("mended on %d threads: %s (%s)", len(mended), STUCK[kind], ", ".join(map(str, mended)))
            for graph_id, revision in graphs.revisions().items():
                await revisions.record(graph_id, revision)
        except DatabaseError as error:
            logger.warning("healing postponed: %s", error)
        await asyncio.sleep(HEAL_EVERY)


async def sweep_store(store: PooledStore, *, every: float) -> None:
    """Remove the store's expired items every so many seconds, until cancelled. Nobody sees them before either."""
    while True:
        try:
            while await store.sweep(batch=BATCH) == BATCH:
                continue
        except DatabaseError as error:
            logger.warning("the store is swept later: %s", error)
        await asyncio.sleep(every)
