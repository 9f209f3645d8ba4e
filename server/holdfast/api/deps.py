"""What the routes work with, and how a request is read.

The API room imports neither the worker nor its graphs; what it needs of them is written down here as protocols, and
`app.py` puts the real parts in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, TypeVar
from uuid import UUID

from fastapi import Depends, Request
from pydantic import BaseModel, RootModel, ValidationError
from starlette.requests import HTTPConnection

from holdfast.api import reading
from holdfast.api.access import recognised
from holdfast.api.asking import Asking
from holdfast.api.auth import Action, Gate, Resource, demand
from holdfast.api.limits import Limits
from holdfast.api.problems import invalid
from holdfast.api.responses import CALLER, Closing
from holdfast.api.traffic import Traffic
from holdfast.db.a2a import Tasks
from holdfast.db.admission import Admissions
from holdfast.db.approvals import Approvals
from holdfast.db.assistants import Assistants
from holdfast.db.bell import Bell
from holdfast.db.copies import Copies
from holdfast.db.crons import Crons
from holdfast.db.events import EventLog
from holdfast.db.idempotency import IdempotencyKeys, Key, Made
from holdfast.db.metrics import Figures
from holdfast.db.pool import Database
from holdfast.db.queue import Claimed
from holdfast.db.runs import Runs
from holdfast.db.threads import Threads
from holdfast.db.trees import Stores
from holdfast.errors import Invalid
from holdfast.rules.approval import Policies
from holdfast.rules.caller import Caller
from holdfast.rules.scope import Scope, needed
from holdfast.rules.thread import Strategy, Ttl
from holdfast.rules.webhook import UrlPolicy
from holdfast.sections import Sections
from holdfast.settings import Settings
from holdfast.telemetry.traces import Traces

Body = TypeVar("Body", bound=BaseModel)


class Dispatcher(Protocol):
    """The worker of this process, as far as requests are concerned."""

    def reserve(self) -> UUID | None: ...
    def release(self) -> None: ...
    def start(self, claim: Claimed) -> None: ...
    def wake(self) -> None: ...
    def is_alive(self) -> bool | None: ...
    def look_for_cancels(self) -> None: ...


class StateReader(Protocol):
    """Reads and updates thread states (see `worker/states.py`)."""

    async def get(
        self, caller: Caller, thread_id: UUID, checkpoint: Mapping[str, Any] | None = None, *, subgraphs: bool = False
    ) -> dict[str, Any]: ...

    async def history(
        self,
        caller: Caller,
        thread_id: UUID,
        *,
        limit: int,
        before: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]: ...

    async def update(
        self,
        caller: Caller,
        thread_id: UUID,
        values: Any,
        *,
        as_node: str | None = None,
        checkpoint: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]: ...

    async def create(
        self,
        caller: Caller,
        thread_id: UUID,
        metadata: Mapping[str, Any],
        supersteps: Sequence[Sequence[Any]],
        *,
        or_keep: bool,
        ttl: Ttl | None = None,
        key: Key | None = None,
    ) -> Made | None: ...

    async def copy(self, caller: Caller, thread_id: UUID) -> UUID: ...


class Pruner(Protocol):
    """Makes threads smaller (see `worker/pruning.py`)."""

    async def prune(
        self, caller: Caller, thread_ids: Sequence[UUID], strategy: Strategy, *, interrupted: bool = True
    ) -> list[UUID]: ...

    async def estimate(
        self, caller: Caller, thread_ids: Sequence[UUID], strategy: Strategy, *, interrupted: bool = True
    ) -> tuple[int, int]: ...


class Checkup(Protocol):
    """Finds and mends what is wrong with a thread (see `worker/checkup.py`)."""

    async def repair(self, caller: Caller, thread_id: UUID, *, dry_run: bool) -> dict[str, Any]: ...


class Catalog(Protocol):
    """Describes the project's graphs; `configurable` is for graphs that are made for each use."""

    def ids(self) -> tuple[str, ...]: ...
    async def drawing(
        self, graph_id: str, *, xray: bool | int, configurable: Mapping[str, Any] | None = None
    ) -> dict[str, Any]: ...
    async def schemas(self, graph_id: str, *, configurable: Mapping[str, Any] | None = None) -> dict[str, Any]: ...
    async def subgraphs(
        self, graph_id: str, *, recurse: bool, namespace: str | None, configurable: Mapping[str, Any] | None = None
    ) -> dict[str, Any]: ...


class Idle:
    """The dispatcher of a process that only serves: every run goes to the queue."""

    def reserve(self) -> UUID | None:
        return None

    def release(self) -> None:
        return None

    def start(self, claim: Claimed) -> None:
        raise AssertionError(f"nothing can be claimed without a slot: {claim.run_id}")

    def wake(self) -> None:
        return None

    def is_alive(self) -> bool | None:
        return None

    def look_for_cancels(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a route may use."""

    settings: Settings
    sections: Sections
    database: Database
    assistants: Assistants
    threads: Threads
    copies: Copies
    admissions: Admissions
    keys: IdempotencyKeys
    runs: Runs
    tasks: Tasks
    events: EventLog
    bell: Bell
    states: StateReader
    pruner: Pruner
    checkup: Checkup
    catalog: Catalog
    stores: Stores
    dispatcher: Dispatcher
    gate: Gate
    webhooks: UrlPolicy | None
    """Where webhooks may go; None: they are accepted and not sent."""
    crons: Crons
    approvals: Approvals
    policies: Policies
    """What the project decided about questions."""
    closing: Closing
    """The process stops: streams are cut."""
    limits: Limits
    traffic: Traffic
    traces: Traces
    figures: Figures
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    """The process was asked to stop; requests are still answered."""


def services(request: HTTPConnection) -> Services:
    found: Services = request.app.state.services
    return found


async def _given(request: HTTPConnection) -> Services:
    """`services` as a dependency; one that is no coroutine would be called in a thread, with every request."""
    return services(request)


With = Annotated[Services, Depends(_given)]


COUNTED = "holdfast.counted"
"""In the ASGI scope of a request that the limits know of."""

About = Callable[[Any], Awaitable[dict[str, Any]]]
"""What a request asks for, in the words of authorization handlers; the route works with what they leave of it."""


async def admitted(request: HTTPConnection, with_: With) -> Caller:
    """The caller behind a request, whom the gate was asked about once."""
    known = request.scope.get(CALLER) or await with_.gate.admit(request)
    # The project's middleware may have run since it was known, in a task and a context of its own.
    caller = recognised(request.scope, known)
    if not request.scope.get(COUNTED):
        request.scope[COUNTED] = True
        await with_.limits.request(caller.owner, request.url.path)
    return caller


@dataclass(frozen=True, slots=True)
class Permission:
    """The caller of a route, who may do this to this resource.

    `about` says what a request asks for; `scopes`, any of which will do, take the place of those that the action needs.
    """

    resource: Resource
    action: Action
    about: About | None = None
    scopes: tuple[Scope, ...] = ()

    async def __call__(self, request: HTTPConnection, with_: With) -> Caller:
        caller = await admitted(request, with_)
        demand(caller, self.scopes or needed(self.resource, self.action))
        if not with_.gate.asks:
            return caller
        if self.about is not None:
            asked = request.scope[reading.ASKED] = await self.about(request)
            return await with_.gate.allow(caller, self.resource, self.action, asked)
        asking = Asking(with_.gate, caller, self.resource, self.action, with_.catalog.ids())
        return await asking.request(request, with_.settings.max_body_bytes)


def may(resource: Resource, action: Action, about: About | None = None, *, scopes: tuple[Scope, ...] = ()) -> Any:
    """The annotation of a route's caller: `who: Annotated[Caller, may("threads", "read")]`."""
    return Depends(Permission(resource, action, about, scopes))


async def read(request: Request, model: type[Body]) -> Body:
    """The body as `model`, whatever its content type says (Studio sends text/plain).

    Raises:
        TooLarge: over the configured limit.
        Invalid: no JSON object (unless the model is a `RootModel`), or not of this shape.
    """
    return shaped(await read_json(request), model)


def shaped(value: Any, model: type[Body]) -> Body:
    """A value as `model`.

    Raises:
        Invalid: no JSON object (unless the model is a `RootModel`), or not of this shape.
    """
    if not isinstance(value, dict) and not issubclass(model, RootModel):
        raise Invalid("The request body must be a JSON object")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid(error) from None
    except RecursionError:
        raise Invalid("The request body is nested too deeply") from None


async def read_json(request: Request) -> Any:
    """The body as JSON; once the gate has seen it, as the gate left it.

    Raises:
        TooLarge: over the configured limit.
        Invalid: no JSON.
    """
    return await reading.json_of(request, services(request).settings.max_body_bytes)


def left_by_gate(request: Request) -> Any:
    """What the request asks for, if the gate has seen it: an authorization handler may have changed it."""
    return request.scope.get(reading.ASKED)


def uuid_of(value: str, what: str) -> UUID:
    """A path segment as an id.

    Raises:
        Invalid: it is no UUID.
    """
    try:
        return UUID(value)
    except ValueError:
        raise Invalid(f"Invalid {what} ID: must be a UUID") from None
