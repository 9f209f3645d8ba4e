"""The only place where things are built and wired.

    serve   the API and a worker in one process (the default)
    api     the API alone; runs wait for a worker elsewhere
    worker  a worker alone

All three are the same code over the same tables. On SIGTERM or Ctrl-C the worker drains first: runs stop at their
next superstep and go back to the queue. Then streams are cut, so that their clients reconnect, and the process
leaves. A second signal hurries.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import uuid_utils.compat as uuids
import uvicorn
from starlette.types import ASGIApp

from holdfast.api.application import create_app, serving
from holdfast.api.auth import Gate, KeyGate
from holdfast.api.crons import fire
from holdfast.api.customapp import CustomApp
from holdfast.api.customauth import CustomGate
from holdfast.api.deps import Idle, Services
from holdfast.db.a2a import Tasks
from holdfast.db.admission import Admissions
from holdfast.db.assistants import Assistants
from holdfast.db.bell import Bell
from holdfast.db.copies import Copies
from holdfast.db.crons import Crons
from holdfast.db.embedded import EmbeddedPostgres
from holdfast.db.events import EventLog
from holdfast.db.idempotency import IdempotencyKeys
from holdfast.db.liveness import Liveness, Reports
from holdfast.db.migrate import migrate
from holdfast.db.pool import Database
from holdfast.db.runs import Runs
from holdfast.db.store import PooledStore
from holdfast.db.threads import Threads
from holdfast.db.trees import Stores
from holdfast.db.webhooks import Deliveries
from holdfast.errors import SettingsError
from holdfast.project import Project, load_project
from holdfast.rules.caller import LOCAL
from holdfast.rules.thread import Ttl
from holdfast.rules.webhook import UrlPolicy
from holdfast.sections import StoreTtl, ThreadTtl
from holdfast.settings import Settings
from holdfast.wire import sse
from holdfast.wire.webhooks import custom_headers
from holdfast.worker.catalog import GraphCatalog
from holdfast.worker.crons import keep_time
from holdfast.worker.execute import Workshop
from holdfast.worker.graphs import Graphs
from holdfast.worker.housekeeping import keep_house, sweep_store
from holdfast.worker.loop import Worker
from holdfast.worker.pruning import Pruner, sweep_expired
from holdfast.worker.states import States
from holdfast.worker.stores import opened_store
from holdfast.worker.webhooks import Courier, Post

logger = logging.getLogger(__name__)

Part = Literal["serve", "api", "worker"]


@dataclass(frozen=True, slots=True)
class Running:
    """The parts of a running process; `http` is what answers requests, None in a worker."""

    services: Services
    http: ASGIApp | None
    worker: Worker | None
    failed: asyncio.Event


async def run(settings: Settings, part: Part, announce: Callable[[str, str, str | None], None]) -> None:
    """Run until a signal comes.

    Args:
        announce: called once when ready, with the API's URL ("" for a worker), the database's, and the project's
            `auth.path`.
    """
    project = load_project(settings.config)
    for warning in project.warnings:
        logger.warning("%s", warning)
    if part != "worker":
        settings.check_door(has_custom_auth=project.sections.auth.path is not None)
    listener = _listen(settings) if part != "worker" else None
    async with _assembled(settings, project, part, _own_url(settings, listener)) as (running, database_url):
        stop = _signals()
        server = _Server(running.http, listener) if running.http and listener else None
        serving = asyncio.create_task(server.serve(), name="http") if server else None
        url = f"{server.url}{_mount_prefix(settings, project)}" if server else ""
        announce(url, database_url, project.sections.auth.path)
        await _first(stop, running.failed)
        await _leave(running, settings.drain_seconds, stop)
        if server and serving:
            server.should_exit = True
            await serving
        if running.failed.is_set():
            raise SystemExit(1)


async def _leave(running: Running, grace: float, stop: asyncio.Queue[None]) -> None:
    if running.worker is not None:
        draining = asyncio.create_task(running.worker.drain(grace), name="drain")
        hurry = asyncio.create_task(stop.get(), name="second-signal")
        await asyncio.wait([draining, hurry], return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            draining.cancel()
            await running.worker.drain(0)
        hurry.cancel()
    running.services.closing.set()


@asynccontextmanager
async def _assembled(
    settings: Settings, project: Project, part: Part, own_url: str
) -> AsyncIterator[tuple[Running, str]]:
    async with AsyncExitStack() as stack:
        post = _post(settings, project, own_url)
        failed = asyncio.Event()
        tasks = _Tasks(failed)
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(settings.slots + 8, "holdfast-sync"))
        _check_owners(project, settings)
        graphs, (url, listen_url) = await asyncio.gather(Graphs.load(project), _database_url(settings, stack, tasks))
        await migrate(listen_url or url, vector_dims=project.vector_dims)
        database = Database(url, size=settings.pool_size, transaction_pooler=settings.pooler == "transaction")
        await database.open()
        stack.push_async_callback(database.close)
        bell = Bell(database, listen_url)
        stack.push_async_callback(bell.close)
        ttl = project.sections.checkpointer.ttl or ThreadTtl()
        runs, threads, keys = Runs(database), Threads(database, _default_ttl(ttl)), IdempotencyKeys(database)
        events = EventLog(database, runs, bell, sse.split)
        crons, deliveries = Crons(database), Deliveries(database)
        store = await stack.enter_async_context(opened_store(project, graphs, database))
        stores = Stores(store, shared=project.sections.auth.path is not None)
        assistants = Assistants(database, graphs.ids())
        for graph_id in graphs.ids():
            await assistants.put_system(graph_id, graphs.name(graph_id), graphs.description(graph_id))
        pruner = Pruner(database, threads, graphs, store)
        worker = None
        if part != "api":
            worker_id = uuids.uuid7()
            courier = Courier(worker_id, deliveries, post) if post else None
            shop = Workshop(
                database,
                runs,
                events,
                bell,
                graphs,
                stores,
                settings.crash_budget,
                settings.run_timeout_seconds,
                courier,
            )
            worker = Worker(worker_id, shop, slots=settings.slots)
            await _start_worker(worker, settings, listen_url or url, listen_url is not None, stack, tasks)
            house = keep_house(worker, threads, events, keys, deliveries, event_ttl=settings.event_ttl_seconds)
            tasks.start("housekeeping", house)
            if courier is not None:
                tasks.start("webhooks", courier.run())
            if isinstance(store, PooledStore):
                every = (project.sections.store.ttl or StoreTtl()).sweep_interval_minutes * 60
                tasks.start("store-sweep", sweep_store(store, every=every))
            sweep = sweep_expired(pruner, interval=ttl.sweep_interval_minutes * 60, limit=ttl.sweep_limit)
            tasks.start("expiry", sweep)
        tasks.start("bell", bell.listen(), may_end=True)
        stack.push_async_callback(tasks.stop)
        services = Services(
            settings=settings,
            sections=project.sections,
            database=database,
            assistants=assistants,
            threads=threads,
            copies=Copies(database),
            admissions=Admissions(database, _default_ttl(ttl)),
            keys=keys,
            runs=runs,
            tasks=Tasks(database),
            events=events,
            bell=bell,
            states=States(database, threads, graphs, stores),
            pruner=pruner,
            stores=stores,
            catalog=GraphCatalog(graphs),
            dispatcher=worker or Idle(),
            gate=KeyGate(settings.api_keys) if part == "worker" else await _gate(settings, project, graphs),
            webhooks=post.policy if post else None,
            crons=crons,
        )
        if worker is not None:
            tasks.start("crons", keep_time(crons, partial(fire, services)))
        http = None if part == "worker" else await _http(services, project, graphs, stack)
        yield Running(services, http, worker, failed), url


async def _gate(settings: Settings, project: Project, graphs: Graphs) -> Gate:
    if (path := project.sections.auth.path) is None:
        return KeyGate(settings.api_keys)
    auth, place = await asyncio.to_thread(graphs.load_object, "auth.path", path)
    return CustomGate(auth, place, max_body_bytes=settings.max_body_bytes)


async def _http(services: Services, project: Project, graphs: Graphs, stack: AsyncExitStack) -> ASGIApp:
    """What answers requests; the lifespan of the project's own application begins here, before we are ready."""
    http = project.sections.http
    custom = None
    if http.app is not None:
        app, place = await asyncio.to_thread(graphs.load_object, "http.app", http.app)
        custom = CustomApp(app, place)
        try:
            await stack.enter_async_context(custom.running())
        except Exception as error:  # user code may raise anything
            raise graphs.failure("http.app", http.app, place, error) from error
    prefix = _mount_prefix(services.settings, project)
    api = create_app(services, http)
    return serving(api, services, http=http, auth=project.sections.auth, custom=custom, prefix=prefix)


def _mount_prefix(settings: Settings, project: Project) -> str:
    """Below which path everything lies, as "/prefix"; "" for none. The environment wins over the project."""
    prefix = (settings.mount_prefix or project.sections.http.mount_prefix).strip("/")
    return f"/{prefix}" if prefix else ""


def _post(settings: Settings, project: Project, own_url: str) -> Post | None:
    """How webhooks are sent; None: not at all."""
    section = project.sections.webhooks
    headers = custom_headers(section, {**project.env, **os.environ})
    if project.sections.http.disable_webhooks:
        return None
    given = {name: getattr(section.url, name) for name in type(section.url).model_fields}
    policy = UrlPolicy(**given, own_url=own_url)
    return Post(policy, headers, settings.webhook_secrets, section.allowed_fields)


def _check_owners(project: Project, settings: Settings) -> None:
    """The local owner is given a store of the project's own as it is, other owners' trees included (ADR 5)."""
    if project.sections.store.path and LOCAL.owner in settings.api_keys.values():
        raise SettingsError(f"HOLDFAST_API_KEYS: beside store.path no key may be named {LOCAL.owner!r}")


async def _start_worker(
    worker: Worker, settings: Settings, url: str, sessions: bool, stack: AsyncExitStack, tasks: _Tasks
) -> None:
    loop = asyncio.get_running_loop()
    liveness = Liveness(
        url,
        worker_id=worker.worker_id,
        lease=settings.lease_seconds,
        sessions=sessions,
        reports=Reports(
            dead=lambda dead: _from_thread(loop, worker.dead_workers, dead),
            lost=lambda: _from_thread(loop, worker.lease_lost),
        ),
    )
    await asyncio.to_thread(liveness.start)
    stack.push_async_callback(asyncio.to_thread, liveness.stop)
    tasks.start("worker", worker.run(), may_end=True)


def _from_thread(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: Any) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, *args)


def _default_ttl(section: ThreadTtl) -> Ttl | None:
    return Ttl(section.default_ttl, section.strategy) if section.default_ttl else None


async def _database_url(settings: Settings, stack: AsyncExitStack, tasks: _Tasks) -> tuple[str, str | None]:
    """The pool's URL, and the one for LISTEN and session locks if there are sessions."""
    if settings.database_url is not None:
        return settings.database_url, settings.listen_url
    postgres = EmbeddedPostgres(settings.data_dir)
    url = await postgres.start()
    stack.push_async_callback(postgres.stop)
    tasks.start("embedded-postgres", postgres.watch())
    return url, url


class _Tasks:
    """The background tasks of the process; one that dies stops the process loudly."""

    def __init__(self, failed: asyncio.Event) -> None:
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, work: Coroutine[Any, Any, None], *, may_end: bool = False) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(lambda done: self._ended(done, may_end=may_end))
        self._tasks.append(task)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _ended(self, task: asyncio.Task[None], *, may_end: bool) -> None:
        if task.cancelled() or (may_end and task.exception() is None):
            return
        logger.critical("background task %s ended", task.get_name(), exc_info=task.exception())
        self._failed.set()


class _Server(uvicorn.Server):
    """uvicorn on our socket; signals are ours, not its."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=5,
        )
        super().__init__(config)
        self._listener = listener
        host, port = listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await super().serve(sockets or [self._listener])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {settings.host}:{settings.port} (set HOST, PORT): {error.strerror}"
        ) from error


def _own_url(settings: Settings, listener: socket.socket | None) -> str:
    """Where this machine reaches its server; a worker alone takes it for the one that its settings describe."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    port = listener.getsockname()[1] if listener else settings.port
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _signals() -> asyncio.Queue[None]:
    stop: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.put_nowait, None)
    return stop


async def _first(stop: asyncio.Queue[None], failed: asyncio.Event) -> None:
    waiting = [asyncio.create_task(stop.get()), asyncio.create_task(failed.wait())]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
