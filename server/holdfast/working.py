"""The worker of a process and what works beside it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuids

from holdfast.db.alerts import Alerts
from holdfast.db.healing import Healing
from holdfast.db.liveness import Liveness, Reports
from holdfast.db.metrics import Sizes
from holdfast.db.store import PooledStore
from holdfast.errors import SettingsError
from holdfast.parts import Parts, opened
from holdfast.process import Tasks, first, leave_within, signals
from holdfast.project import load_project
from holdfast.rules.recovery import SUSPECT_AFTER
from holdfast.sections import StoreTtl
from holdfast.settings import Settings
from holdfast.telemetry.instruments import instrumented
from holdfast.telemetry.logs import configure_logging
from holdfast.wire.alerts import alert_plan
from holdfast.worker import exits
from holdfast.worker.alerting import Raised, Watch
from holdfast.worker.checkpointers import forgets
from holdfast.worker.clock import keep_looking
from holdfast.worker.execute import Workshop
from holdfast.worker.graphs import Graphs
from holdfast.worker.housekeeping import heal, keep_house, sweep_store
from holdfast.worker.isolation import Isolation
from holdfast.worker.loop import Worker
from holdfast.worker.measuring import measure_threads
from holdfast.worker.pruning import sweep_expired
from holdfast.worker.siblings import Board
from holdfast.worker.webhooks import Courier

LAST_SECONDS = 5.0
"""How long a process that has drained may take to leave."""


async def working(parts: Parts, stack: AsyncExitStack, tasks: Tasks, board: Board | None) -> Worker:
    """The worker and its side tasks, at work; `board` if there are siblings."""
    settings, worker_id = parts.settings, uuids.uuid7()
    courier = Courier(worker_id, parts.deliveries, parts.post, parts.instruments.metrics) if parts.post else None
    places = {"HOLDFAST_CONFIG": str(settings.config), "HOLDFAST_DATA_DIR": str(settings.data_dir)}
    isolation = Isolation(parts.queue, places | {"DATABASE_URL": parts.urls[0]})
    shop = _workshop(parts, courier)
    worker = Worker(worker_id, shop, slots=settings.slots, suspect_found=isolation.wake, board=board)
    await _start_worker(worker, settings, parts.urls, stack)
    tasks.start("worker", worker.run(), may_end=True)
    tasks.start("isolation", isolation.run())
    stack.push_async_callback(isolation.close)
    keep_days = parts.project.sections.approvals.keep_days
    house = keep_house(
        worker,
        parts.threads,
        parts.events,
        parts.keys,
        parts.deliveries,
        parts.approvals,
        event_ttl=settings.event_ttl_seconds,
        keep_approvals=keep_days * 86_400 if keep_days else None,
    )
    tasks.start("housekeeping", house)
    tasks.start("healing", heal(Healing(parts.database), parts.revisions, parts.graphs))
    tasks.start("measuring", measure_threads(Sizes(parts.database)))
    if courier is not None:
        tasks.start("webhooks", courier.run())
        watch(parts, courier, stack, tasks)
    if isinstance(parts.store, PooledStore):
        every = (parts.project.sections.store.ttl or StoreTtl()).sweep_interval_minutes * 60
        tasks.start("store-sweep", sweep_store(parts.store, every=every))
    ttl = parts.ttl
    sweep = sweep_expired(
        parts.pruner,
        interval=ttl.sweep_interval_minutes * 60,
        limit=ttl.sweep_limit,
        interrupted=ttl.include_interrupted,
    )
    tasks.start("expiry", sweep)
    return worker


def watch(parts: Parts, courier: Courier, stack: AsyncExitStack, tasks: Tasks) -> None:
    """Look out for what operators want to be told of, if they want to."""
    if parts.post is None or parts.post.alerts is None:
        return
    alerts = Alerts(parts.database)
    take_up_raised(alerts, stack, tasks)
    tasks.start("alerts", keep_looking(Watch(alerts, parts.post.alerts, courier).look, "alerts"))


def take_up_raised(alerts: Alerts, stack: AsyncExitStack, tasks: Tasks) -> None:
    """Take up alerts that the project's code raises, until the stack closes; what was raised by then is kept."""
    handler = Raised(alerts, asyncio.get_running_loop())
    logging.getLogger().addHandler(handler)
    stack.push_async_callback(handler.keep)
    stack.callback(logging.getLogger().removeHandler, handler)
    tasks.start("raised-alerts", handler.run())


async def run_alone(settings: Settings, suspect: UUID, ready: Callable[[], None]) -> None:
    """Execute a run that may take its process down, until it has got on or is over, or a signal comes.

    It needs nothing of the API; workers start it often where they are killed often (`worker/isolation.py`).

    Raises:
        SettingsError: it does not know the database; only workers start it.
        SystemExit: it could not do its work.
    """
    if settings.database_url is None:
        raise SettingsError("'holdfast isolated' is started by workers, which tell it DATABASE_URL")
    project = load_project(settings.config)
    configure_logging(settings, project.environment(), sys.stdout)
    async with AsyncExitStack() as stack:
        failed, over = asyncio.Event(), asyncio.Event()
        tasks = Tasks(failed)
        prepare(settings)
        instruments = stack.enter_context(instrumented(settings, project.environment()))
        graphs = await Graphs.load(project)
        urls = settings.database_url, settings.listen_url
        parts = await opened(settings, project, graphs, None, urls, stack, instruments)
        if alert_plan(project.sections.alerts, settings, project.sections.webhooks.env_prefix, project.environment()):
            take_up_raised(Alerts(parts.database), stack, tasks)
        worker = Worker(uuids.uuid7(), _workshop(parts, None), slots=1)
        await _start_worker(worker, settings, parts.urls, stack)

        async def work() -> None:
            await worker.run_suspect(suspect)
            over.set()

        tasks.start("worker", work(), may_end=True)
        tasks.start("bell", parts.bell.listen(), may_end=True)
        stack.push_async_callback(tasks.stop)
        stop = signals()
        ready()
        await first(stop, failed, over)
        await leave(worker, settings.drain_seconds, stop)
        leave_within(LAST_SECONDS, status=int(failed.is_set()))
    if failed.is_set():
        raise SystemExit(1)


def prepare(settings: Settings) -> None:
    """The event loop, for user code: its threads, and nothing in it that ends the process."""
    loop = asyncio.get_running_loop()
    exits.contain(loop)
    loop.set_default_executor(ThreadPoolExecutor(settings.slots + 8, "holdfast-sync"))


async def leave(worker: Worker, grace: float, stop: asyncio.Queue[None]) -> None:
    """Drain, until a second signal comes."""
    draining = asyncio.create_task(worker.drain(grace), name="drain")
    hurry = asyncio.create_task(stop.get(), name="second-signal")
    await asyncio.wait([draining, hurry], return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        draining.cancel()
        await worker.drain(0)
    hurry.cancel()


def _workshop(parts: Parts, courier: Courier | None) -> Workshop:
    budget = parts.settings.crash_budget
    if forgets(parts.database.checkpoints_elsewhere):
        # A suspect's own process would know nothing of its thread.
        budget = min(budget, SUSPECT_AFTER)
    return Workshop(
        parts.database,
        parts.queue,
        parts.runs,
        parts.events,
        parts.bell,
        parts.graphs,
        parts.stores,
        parts.revisions,
        parts.saves,
        budget,
        parts.settings.run_timeout_seconds,
        parts.project.sections.healing.dangling_tool_calls,
        courier,
        parts.instruments.metrics,
        parts.instruments.traces,
    )


async def _start_worker(
    worker: Worker, settings: Settings, urls: tuple[str, str | None], stack: AsyncExitStack
) -> None:
    url, listen_url = urls
    loop = asyncio.get_running_loop()
    liveness = Liveness(
        listen_url or url,
        worker_id=worker.worker_id,
        lease=settings.lease_seconds,
        sessions=listen_url is not None,
        reports=Reports(
            dead=lambda dead: _from_thread(loop, worker.dead_workers, dead),
            lost=lambda: _from_thread(loop, worker.check_claims),
            back=lambda: _from_thread(loop, worker.check_claims),
        ),
    )
    await asyncio.to_thread(liveness.start)
    worker.leased(liveness.has_lease)
    stack.push_async_callback(asyncio.to_thread, liveness.stop)


def _from_thread(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: Any) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, *args)
