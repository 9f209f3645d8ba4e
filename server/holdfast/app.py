"""Where things are built and wired; `parts.py` has what everybody shares, `working.py` the worker.

    serve     the API and a worker in one process (the default), or in several (`supervisor.py`)
    api       the API alone; runs wait for a worker elsewhere
    worker    a worker alone

All are the same code over the same tables. On SIGTERM or Ctrl-C the worker drains first: runs stop at their
next superstep and go back to the queue. Answers that end in a moment are given; then streams are cut, so that their
clients reconnect, and the process leaves. A second signal hurries. Some ten seconds after the time that runs are given
to reach a superstep's end it is gone at the latest.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

from starlette.types import ASGIApp

from holdfast.api.application import create_app, health_of, not_ready, serving
from holdfast.api.approvals import expire
from holdfast.api.auth import Gate, OpenGate
from holdfast.api.crons import fire
from holdfast.api.customapp import CustomApp
from holdfast.api.customauth import CustomGate
from holdfast.api.deps import Dispatcher, Idle, Services
from holdfast.api.limits import Limits
from holdfast.api.responses import Closing
from holdfast.api.traffic import Traffic
from holdfast.db.a2a import Tasks as A2ATasks
from holdfast.db.admission import Admissions
from holdfast.db.copies import Copies
from holdfast.db.metrics import Figures, keep_figures
from holdfast.db.migrate import migrate
from holdfast.door import way_in
from holdfast.errors import Invalid, ProjectError, SettingsError
from holdfast.foundation import laid
from holdfast.parts import Parts, default_ttl, opened
from holdfast.patience import Patience
from holdfast.process import (
    Server,
    Tasks,
    Tether,
    allow_many_files,
    first,
    leave_within,
    listen,
    own_door,
    own_url,
    signals,
)
from holdfast.project import Project, load_project
from holdfast.rules.caller import LOCAL
from holdfast.rules.webhook import UrlPolicy
from holdfast.settings import Settings
from holdfast.telemetry.instruments import instrumented
from holdfast.telemetry.logs import configure_logging
from holdfast.telemetry.looplag import watching
from holdfast.wire.alerts import alert_plan
from holdfast.wire.webhooks import custom_headers
from holdfast.worker.alerting import check_channels
from holdfast.worker.approvals import act_on_due
from holdfast.worker.catalog import GraphCatalog
from holdfast.worker.checkup import Checkup
from holdfast.worker.clock import keep_looking
from holdfast.worker.crons import fire_due
from holdfast.worker.graphs import Graphs
from holdfast.worker.loop import Worker
from holdfast.worker.siblings import Board
from holdfast.worker.states import States
from holdfast.worker.webhooks import Courier, Post
from holdfast.working import LAST_SECONDS, leave, prepare, watch, working

logger = logging.getLogger(__name__)

Part = Literal["serve", "api", "worker"]
SERVING = ("serve", "api")

LAST_ANSWERS_SECONDS = 1.0
"""What answers under way get to end by themselves: a short run that went elsewhere is over by then, and its client
need not ask again."""


@dataclass(frozen=True, slots=True)
class Running:
    """The parts of a running process; `http` is what answers requests."""

    services: Services
    http: ASGIApp
    worker: Worker | None
    failed: asyncio.Event


@dataclass(frozen=True, slots=True)
class Sibling:
    """What one of several processes shares with the others (`supervisor.py`)."""

    tether: Tether
    door: socket.socket
    board: Board


async def run(
    settings: Settings,
    part: Part,
    announce: Callable[[str, str, str | None], None],
    sibling: Sibling | None = None,
) -> None:
    """Run until a signal comes.

    Args:
        announce: called once when ready, with the API's URL ("" for a worker), the database's, and the project's
            `auth.path`.
        sibling: this is one of several processes of a `serve`.
    """
    project = load_project(settings.config)
    configure_logging(settings, project.environment(), sys.stdout)
    for warning in project.warnings:
        logger.warning("%s", warning)
    if part in SERVING:
        has_custom_auth = project.sections.auth.path is not None
        settings.check_door(has_custom_auth=has_custom_auth)
        project.check_approvers(has_callers=has_custom_auth or settings.authenticates)
    project.check_sharing(alone=part == "serve" and sibling is None)
    allow_many_files()
    listener = _listener(settings, part, sibling)
    prefix = _mount_prefix(settings, project)
    base_url = own_url(settings, listener if part in SERVING else None) + prefix
    async with _assembled(settings, project, part, base_url, listener, sibling) as (running, database_url):
        stop = sibling.tether.signals() if sibling else signals()
        server = Server(running.http, listener, _patience(settings)) if listener else None
        answering = asyncio.create_task(server.serve(), name="http") if server else None
        url = f"{server.url}{prefix}" if server and part in SERVING else ""
        announce(url, database_url, project.sections.auth.path)
        await first(stop, running.failed)
        running.services.leaving.set()
        if running.worker is not None:
            await leave(running.worker, settings.drain_seconds, stop)
        leave_within(LAST_ANSWERS_SECONDS + LAST_SECONDS, status=int(running.failed.is_set()))
        if server and answering:
            # From now on connections are refused, so that who sends nothing yet goes elsewhere.
            server.should_exit = True
            await _last_answers(running, stop)
            await answering
        if running.failed.is_set():
            raise SystemExit(1)


async def _last_answers(running: Running, stop: asyncio.Queue[None]) -> None:
    """Give answers under way a moment, then break off what is left of them."""
    closing = running.services.closing
    with suppress(TimeoutError):
        async with asyncio.timeout(LAST_ANSWERS_SECONDS):
            await first(stop, running.failed, closing.all_ended)
    closing.set()


def _patience(settings: Settings) -> Patience:
    return Patience(settings.head_seconds, settings.body_seconds, settings.unread_seconds, settings.max_head_bytes)


def _listener(settings: Settings, part: Part, sibling: Sibling | None) -> socket.socket | None:
    if part in SERVING:
        return own_door(sibling.door) if sibling else listen(settings.host, settings.port)
    return None if settings.health_port is None else listen(settings.host, settings.health_port, "HOLDFAST_HEALTH_PORT")


@asynccontextmanager
async def _assembled(
    settings: Settings,
    project: Project,
    part: Part,
    base_url: str,
    listener: socket.socket | None,
    sibling: Sibling | None,
) -> AsyncIterator[tuple[Running, str]]:
    async with AsyncExitStack() as stack:
        instruments = stack.enter_context(instrumented(settings, project.environment()))
        post = _post(settings, project, base_url)
        _check_escalations(project, post)
        _check_owners(project, settings)
        failed = asyncio.Event()
        tasks = Tasks(failed)
        prepare(settings)
        graphs, (url, listen_url) = await asyncio.gather(
            Graphs.load(project), _database_url(settings, stack, tasks, listener)
        )
        gate, custom = await _own_code(settings, project, graphs, part, stack)
        await migrate(listen_url or url, vector_dims=project.vector_dims)
        parts = await opened(settings, project, graphs, post, (url, listen_url), stack, instruments)
        if settings.authenticates and part in SERVING:
            gate = await way_in(settings, project, parts.database, stack, tasks)
        board = sibling.board if sibling else None
        worker = await working(parts, stack, tasks, board) if part != "api" else None
        if worker is None:
            _tell_alerts(parts, stack, tasks)
        tasks.start("bell", parts.bell.listen(), may_end=True)
        tasks.start("news", parts.events.watch())
        if parts.fanout is not None:
            tasks.start("fanout", parts.fanout.listen())
        tasks.start("figures", keep_figures(parts.instruments.metrics, parts.database, parts.replica))
        if parts.replica is not None:
            tasks.start("replica", parts.replica.watch())
        stack.push_async_callback(tasks.stop)
        stack.enter_context(watching(settings.loop_lag_seconds, parts.instruments.metrics.lag_seconds))
        services = _services(parts, worker or Idle(), gate)
        if worker is not None:
            tasks.start("crons", keep_looking(partial(fire_due, parts.crons, partial(fire, services)), "crons"))
            deadlines = partial(act_on_due, parts.approvals, partial(expire, services))
            tasks.start("deadlines", keep_looking(deadlines, "deadlines"))
        http = _http(services, project, custom) if part in SERVING else health_of(services)
        yield Running(services, http, worker, failed), url


def _tell_alerts(parts: Parts, stack: AsyncExitStack, tasks: Tasks) -> None:
    """Watch, and send alerts, without a worker: that none is alive has to be told, too."""
    if parts.post is None or parts.post.alerts is None:
        return
    courier = Courier(None, parts.deliveries, parts.post, parts.instruments.metrics)
    tasks.start("webhooks", courier.run())
    watch(parts, courier, stack, tasks)


def _services(parts: Parts, dispatcher: Dispatcher, gate: Gate) -> Services:
    closing = Closing()
    return Services(
        settings=parts.settings,
        sections=parts.project.sections,
        database=parts.database,
        figures=Figures(parts.database),
        assistants=parts.assistants,
        threads=parts.threads,
        copies=Copies(parts.database),
        admissions=Admissions(parts.database, default_ttl(parts.ttl)),
        keys=parts.keys,
        runs=parts.runs,
        tasks=A2ATasks(parts.database),
        events=parts.events,
        bell=parts.bell,
        states=States(parts.database, parts.threads, parts.graphs, parts.stores),
        pruner=parts.pruner,
        checkup=Checkup(parts.database, parts.threads, parts.graphs, parts.stores),
        stores=parts.stores,
        catalog=GraphCatalog(parts.graphs),
        dispatcher=dispatcher,
        gate=gate,
        webhooks=parts.post.policy if parts.post else None,
        crons=parts.crons,
        approvals=parts.approvals,
        policies=parts.policies,
        closing=closing,
        limits=Limits(parts.settings, parts.runs.count_active, closing, parts.instruments.metrics),
        traffic=Traffic(parts.instruments.metrics),
        traces=parts.instruments.traces,
    )


async def _own_code(
    settings: Settings, project: Project, graphs: Graphs, part: Part, stack: AsyncExitStack
) -> tuple[Gate, CustomApp | None]:
    """The project's authentication and its application, whose lifespan begins here: before anything is at work.

    Raises:
        ProjectError: one of them does not load, or its lifespan fails.
    """
    gate: Gate = OpenGate()
    auth_path, app_path = project.sections.auth.path, project.sections.http.app
    if part not in SERVING:
        return gate, None
    if auth_path is not None:
        auth, place = await asyncio.to_thread(graphs.load_object, "auth.path", auth_path)
        gate = CustomGate(auth, place, max_body_bytes=settings.max_body_bytes)
    if app_path is None:
        return gate, None
    app, place = await asyncio.to_thread(graphs.load_object, "http.app", app_path)
    custom = CustomApp(app, place)
    try:
        await stack.enter_async_context(custom.running())
    except Exception as error:  # user code may raise anything
        raise graphs.failure("http.app", app_path, place, error) from error
    return gate, custom


def _http(services: Services, project: Project, custom: CustomApp | None) -> ASGIApp:
    """What answers requests."""
    http = project.sections.http
    prefix = _mount_prefix(services.settings, project)
    api = create_app(services, http)
    return serving(api, services, http=http, auth=project.sections.auth, custom=custom, prefix=prefix)


def _mount_prefix(settings: Settings, project: Project) -> str:
    """Below which path everything lies, as "/prefix"; "" for none. The environment wins over the project."""
    prefix = (settings.mount_prefix or project.sections.http.mount_prefix).strip("/")
    return f"/{prefix}" if prefix else ""


def _post(settings: Settings, project: Project, base_url: str) -> Post | None:
    """How webhooks are sent; None: not at all."""
    section, around = project.sections.webhooks, project.environment()
    headers = custom_headers(section, around)
    alerts = alert_plan(project.sections.alerts, settings, section.env_prefix, around)
    if project.sections.http.disable_webhooks:
        if alerts is not None:
            raise ProjectError("alerts are to be told, but 'http.disable_webhooks' is set")
        return None
    given = {name: getattr(section.url, name) for name in type(section.url).model_fields}
    policy = UrlPolicy(**given, own_url=base_url)
    if alerts is not None:
        try:
            check_channels(alerts.channels, policy)
        except Invalid as invalid:
            raise ProjectError(f"alerts: {invalid}") from None
    return Post(policy, headers, settings.webhook_secrets, section.allowed_fields, alerts)


def _check_escalations(project: Project, post: Post | None) -> None:
    """Questions that nobody answers are to be told to somebody who can be told."""
    policies = project.sections.approvals.policies
    for policy in (policies.default, *policies.graphs.values()):
        if policy.deadline is None or policy.deadline.webhook is None:
            continue
        if post is None:
            raise ProjectError("'approvals.deadline' is to escalate, but 'http.disable_webhooks' is set")
        try:
            if post.policy.checked(policy.deadline.webhook) != policy.deadline.webhook:
                raise Invalid("it must be a whole URL")
        except Invalid as invalid:
            raise ProjectError(f"'approvals.deadline.webhook': {invalid}") from None


def _check_owners(project: Project, settings: Settings) -> None:
    """The local owner is given a store of the project's own as it is, other owners' trees included (ADR 5)."""
    if project.sections.store.path and LOCAL.owner in settings.api_keys.values():
        raise SettingsError(f"HOLDFAST_API_KEYS: beside store.path no key may be named {LOCAL.owner!r}")


def _answer_meanwhile(listener: socket.socket | None, meanwhile: AsyncExitStack) -> None:
    """Say that we are here and not ready, until the database is."""
    if listener is None:
        return
    server = Server(not_ready, listener.dup())
    answering = asyncio.create_task(server.serve(), name="http-not-ready")

    async def stop() -> None:
        server.should_exit = True
        await answering

    meanwhile.push_async_callback(stop)


async def _database_url(
    settings: Settings, stack: AsyncExitStack, tasks: Tasks, listener: socket.socket | None
) -> tuple[str, str | None]:
    async with AsyncExitStack() as meanwhile:
        return await laid(settings, stack, tasks, partial(_answer_meanwhile, listener, meanwhile))
