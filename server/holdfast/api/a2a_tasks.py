"""A2A's operations, by the official SDK; imported with the first request (see `jsonrpc.loaded`).

The SDK speaks the protocol in both generations, ours is what it calls: a context is a thread, a task a run with the
answers that continued it, and nothing is kept about either but the runs themselves (`db/a2a.py`). A message to a task
that asks something is the answer, bound to the question like any other; a message that comes twice (its id tells) finds
the task that it made the first time.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuids
from a2a.server.context import ServerCallContext
from a2a.server.events import Event
from a2a.server.request_handlers.request_handler import RequestHandler, validate_request_params
from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.server.routes.common import DefaultServerCallContextBuilder
from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
from a2a.types.a2a_pb2 import (
    AgentCard,
    Artifact,
    CancelTaskRequest,
    GetExtendedAgentCardRequest,
    GetTaskRequest,
    ListTasksRequest,
    ListTasksResponse,
    Part,
    SendMessageConfiguration,
    SendMessageRequest,
    SubscribeToTaskRequest,
    Task,
    TaskArtifactUpdateEvent,
    TaskStatusUpdateEvent,
)
from a2a.utils.constants import DEFAULT_LIST_TASKS_PAGE_SIZE, VERSION_HEADER
from a2a.utils.errors import (
    ExtendedAgentCardNotConfiguredError,
    InternalError,
    InvalidParamsError,
    InvalidRequestError,
    PushNotificationNotSupportedError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from a2a.utils.task import apply_history_length, validate_history_length, validate_page_size
from pydantic import ValidationError
from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response

from holdfast.api import following
from holdfast.api.assistants import resolve
from holdfast.api.deps import Services, uuid_of
from holdfast.api.jsonrpc import described, handed_on, in_time, permitted, refusal
from holdfast.api.problems import invalid
from holdfast.api.responses import Json, event_stream
from holdfast.api.starting import Origin, Started, origin, start
from holdfast.errors import (
    Conflict,
    DatabaseUnavailable,
    Forbidden,
    HoldfastError,
    Invalid,
    Missing,
    Refusal,
    Unsaveable,
)
from holdfast.rules.caller import Caller
from holdfast.rules.scope import Scope
from holdfast.wire import a2a as wire
from holdfast.wire import codec, sse
from holdfast.wire.runs import RunCreate, graph_output
from holdfast.wire.threads import searchable

logger = logging.getLogger(__name__)

STREAMED = frozenset({"message/stream", "tasks/resubscribe", "SendStreamingMessage", "SubscribeToTask"})


async def answer(with_: Services, who: Caller, assistant_id: str, request: Request, message: Any) -> Response:
    """The answer to one message of a client: JSON, or a stream of events."""
    head = message if isinstance(message, dict) else {}
    try:
        reader = await permitted(with_, who, "assistants", "read", {"assistant_id": assistant_id})
        assistant = await with_.assistants.get(reader, resolve(with_, assistant_id))
    except (Invalid, Missing) as error:
        return refusal(-32602, str(error), head.get("id"))
    agent = _Agent(with_, who, assistant, origin(request))
    method = str(head.get("method"))
    # A client that names no version is known by its method's name: those of v0.3 have a slash.
    context = _Context("0.3" if "/" in method else "1.0")
    dispatcher = JsonRpcDispatcher(agent, context, enable_v0_3_compat=True)
    coming = dispatcher.handle_requests(handed_on(request, message))
    if method not in STREAMED:
        return await in_time(with_, coming)
    response = await coming
    if not isinstance(response, EventSourceResponse):
        return response
    return event_stream(_frames(response.body_iterator), headers={}, closing=with_.closing)


def card(with_: Services, assistant: Mapping[str, Any], request: Request) -> Response:
    """An assistant's agent card."""
    url = f"{request.base_url}a2a/{assistant['assistant_id']}"
    made = wire.card(assistant, url, f"{assistant['version']}", with_key=with_.settings.authenticates)
    return Json(agent_card_to_dict(made))


class _Context(DefaultServerCallContextBuilder):
    """What the SDK knows of a call."""

    def __init__(self, version: str) -> None:
        self._version = version

    def build(self, request: Request) -> ServerCallContext:
        context = super().build(request)
        context.state["headers"].setdefault(VERSION_HEADER.lower(), self._version)
        return context


@dataclass(frozen=True, slots=True)
class _Accepted:
    """The task that a message belongs to, and the run that it started; None if it came before."""

    thread_id: UUID
    task_id: UUID
    run: Started | None


class _Agent(RequestHandler):
    """One assistant, for one caller."""

    def __init__(self, with_: Services, who: Caller, assistant: Mapping[str, Any], origin: Origin) -> None:
        self._with = with_
        self._who = who
        self._assistant = assistant
        self._assistant_id: UUID = assistant["assistant_id"]
        self._origin = origin

    @validate_request_params
    async def on_message_send(self, params: SendMessageRequest, context: ServerCallContext) -> Task:
        del context
        config = params.configuration
        with _as_a2a_errors():
            validate_history_length(config)
            accepted = await self._accept(params, followed=config.return_immediately)
            if accepted.run is not None and not config.return_immediately:
                await following.result(self._with, await self._reader(accepted.thread_id), accepted.run)
            return await self._read(accepted.thread_id, accepted.task_id, config)

    @validate_request_params
    async def on_message_send_stream(
        self, params: SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event]:
        del context
        with _as_a2a_errors():
            accepted = await self._accept(params, followed=True)
            async for event in self._follow(accepted.thread_id, accepted.task_id):
                yield event

    @validate_request_params
    async def on_subscribe_to_task(
        self, params: SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event]:
        del context
        with _as_a2a_errors():
            row = await self._task(params.id)
            if row["state"] not in wire.IN_PROGRESS:
                raise UnsupportedOperationError(f"The task is {row['state']}: nothing more will happen to it.")
            async for event in self._follow(row["thread_id"], row["task_id"]):
                yield event

    @validate_request_params
    async def on_get_task(self, params: GetTaskRequest, context: ServerCallContext) -> Task:
        del context
        with _as_a2a_errors():
            validate_history_length(params)
            row = await self._task(params.id)
            return await self._read(row["thread_id"], row["task_id"], params)

    @validate_request_params
    async def on_list_tasks(self, params: ListTasksRequest, context: ServerCallContext) -> ListTasksResponse:
        del context
        with _as_a2a_errors():
            validate_history_length(params)
            size = params.page_size if params.HasField("page_size") else DEFAULT_LIST_TASKS_PAGE_SIZE
            validate_page_size(size)
            who = await permitted(self._with, self._who, "threads", "search")
            rows = await self._with.tasks.page(
                who,
                self._assistant_id,
                thread_id=uuid_of(params.context_id, "context") if params.context_id else None,
                state=wire.state_name(params.status),
                since=wire.moment(params.status_timestamp_after) if params.HasField("status_timestamp_after") else None,
                after=wire.parse_page_token(params.page_token) if params.page_token else None,
                limit=size + 1,
            )
            tasks = [await self._view(who, row, params, whole=params.include_artifacts) for row in rows[:size]]
        return ListTasksResponse(
            tasks=tasks,
            page_size=size,
            total_size=rows[0]["total"] if rows else 0,
            next_page_token=wire.page_token(rows[size - 1]) if len(rows) > size else "",
        )

    @validate_request_params
    async def on_cancel_task(self, params: CancelTaskRequest, context: ServerCallContext) -> Task:
        del context
        with _as_a2a_errors():
            row = await self._task(params.id)
            run = Started(row["run_id"], row["thread_id"])
            thread = {"thread_id": str(run.thread_id)}
            who = await permitted(self._with, self._who, "threads", "update", thread, scopes=(Scope.RUN,))
            if row["state"] not in wire.IN_PROGRESS:
                raise TaskNotCancelableError(f"The task is {row['state']}: there is nothing to cancel.")
            try:
                await following.cancel(self._with, who, run, "interrupt")
            except Missing:
                raise TaskNotCancelableError("The task has ended: there is nothing to cancel.") from None
            await following.result(self._with, who, run)
            return await self._read(row["thread_id"], row["task_id"], SendMessageConfiguration())

    async def _no_push(self, params: Any, context: ServerCallContext) -> Any:
        del params, context
        raise PushNotificationNotSupportedError

    on_create_task_push_notification_config = _no_push
    on_get_task_push_notification_config = _no_push
    on_list_task_push_notification_configs = _no_push
    on_delete_task_push_notification_config = _no_push

    async def on_get_extended_agent_card(
        self, params: GetExtendedAgentCardRequest, context: ServerCallContext
    ) -> AgentCard:
        del params, context
        raise ExtendedAgentCardNotConfiguredError

    async def _accept(self, params: SendMessageRequest, *, followed: bool) -> _Accepted:
        """The task of a message: the one that it answers or repeats, or a new one."""
        message = params.message
        searchable(message.message_id, "messageId")
        given = uuid_of(message.context_id, "context") if message.context_id else None
        if message.task_id:
            row = await self._task(message.task_id)
            if given not in (None, row["thread_id"]):
                raise Invalid("taskId and contextId do not belong together")
            given = row["thread_id"]
        if given is None:
            return await self._begin(params, uuids.uuid7(), followed=followed)
        who = await self._reader(given)
        known = await self._with.tasks.of_message(who, self._assistant_id, given, message.message_id)
        if known is not None:
            return _Accepted(given, known, None)
        if message.task_id:
            return await self._continue(params, row, followed=followed)
        asking = await self._with.tasks.page(who, self._assistant_id, thread_id=given, state="input-required", limit=1)
        if asking:
            return await self._continue(params, asking[0], followed=followed)
        return await self._begin(params, given, followed=followed)

    async def _begin(self, params: SendMessageRequest, thread_id: UUID, *, followed: bool) -> _Accepted:
        schema = (await described(self._with, self._assistant["graph_id"])).get("input_schema") or {}
        given = wire.run_input(params.message.parts, schema.get("properties", {}).keys())
        body = {"input": given, "if_not_exists": "create"}
        run = await self._start(params, thread_id, body, {}, followed=followed)
        return _Accepted(thread_id, run.run_id, run)

    async def _continue(self, params: SendMessageRequest, row: Mapping[str, Any], *, followed: bool) -> _Accepted:
        if row["state"] != "input-required":
            raise Conflict(f"The task is {row['state']} and asks nothing. Send a message without taskId for a new one.")
        body = {"command": {"resume": wire.answer_value(params.message.parts)}}
        stamp = {"a2a_task_id": str(row["task_id"])}
        run = await self._start(params, row["thread_id"], body, stamp, followed=followed)
        return _Accepted(row["thread_id"], row["task_id"], run)

    async def _start(
        self,
        params: SendMessageRequest,
        thread_id: UUID,
        body: dict[str, Any],
        stamp: dict[str, str],
        *,
        followed: bool,
    ) -> Started:
        asked = {
            **body,
            "assistant_id": str(self._assistant_id),
            "thread_id": str(thread_id),
            "stream_mode": ["messages-tuple"] if followed else ["values"],
            "metadata": {**stamp, "a2a_message_id": params.message.message_id},
        }
        who = await permitted(self._with, self._who, "threads", "create_run", asked)
        try:
            create = RunCreate.model_validate(asked)
        except ValidationError as error:
            raise invalid(error) from None
        return await start(self._with, who, create, thread_id=thread_id, followed=followed, origin=self._origin)

    async def _task(self, task: str) -> Mapping[str, Any]:
        thread_id, run_id = wire.parse_task_id(task)
        return await self._with.tasks.get(await self._reader(thread_id), self._assistant_id, thread_id, run_id)

    async def _reader(self, thread_id: UUID) -> Caller:
        """The caller, who may read this thread."""
        return await permitted(self._with, self._who, "threads", "read", {"thread_id": str(thread_id)})

    async def _read(self, thread_id: UUID, task_id: UUID, config: Any) -> Task:
        who = await self._reader(thread_id)
        row = await self._with.tasks.get(who, self._assistant_id, thread_id, task_id)
        return await self._view(who, row, config)

    async def _view(self, who: Caller, row: Mapping[str, Any], config: Any, *, whole: bool = True) -> Task:
        output = await self._output(who, row) if whole and row["state"] in ("completed", "input-required") else None
        return apply_history_length(wire.task_view(row, output), config)

    async def _output(self, who: Caller, row: Mapping[str, Any]) -> Any:
        """What the graph put out at the end of the task's last run."""
        if row["newest"]:
            thread = await self._with.threads.result(who, row["thread_id"])
            values = codec.loads(thread["values"]) if thread else {}
        else:
            left = {"run_id": str(row["run_id"])}
            states = await self._with.states.history(who, row["thread_id"], limit=1, metadata=left)
            values = codec.loads(codec.dumps(states[0]["values"])) if states else {}
        schemas = await described(self._with, self._assistant["graph_id"])
        return graph_output(values, schemas.get("output_schema"))

    async def _follow(self, thread_id: UUID, task_id: UUID) -> AsyncIterator[Event]:
        """A task from now on: as it stands, what the agent says piece by piece, and how it ends."""
        who = await self._reader(thread_id)
        row = await self._with.tasks.get(who, self._assistant_id, thread_id, task_id)
        first = await self._view(who, row, SendMessageConfiguration())
        yield first
        if row["state"] not in wire.IN_PROGRESS:
            return
        said = _Said(first)
        async for frames in self._with.events.follow(who, row["run_id"], following.FROM_THE_START):
            for frame in frames:
                if (event := said.piece(frame)) is not None:
                    yield event
        last = await self._read(thread_id, task_id, SendMessageConfiguration())
        for artifact in last.artifacts:
            yield said.whole(artifact)
        yield TaskStatusUpdateEvent(task_id=last.id, context_id=last.context_id, status=last.status)


class _Said:
    """What an agent says in the course of a task, as pieces of one artifact; a new message replaces the last."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._message: Any = None
        self._text = ""

    def piece(self, frame: bytes) -> TaskArtifactUpdateEvent | None:
        """A frame of the run as the next piece; None if the agent says nothing in it."""
        if sse.event_name(frame) != "messages":
            return None
        message = codec.loads(sse.data(frame))[0]
        text = wire.message_text(message) if message.get("type") in ("ai", "AIMessageChunk") else ""
        if not text:
            return None
        goes_on = self._message == message.get("id") and self._message is not None
        self._message = message.get("id")
        self._text = self._text + text if goes_on else text
        return self._event(Artifact(artifact_id=wire.ANSWER, name="Answer", parts=[Part(text=text)]), append=goes_on)

    def whole(self, artifact: Artifact) -> TaskArtifactUpdateEvent:
        """The end of an artifact: nothing more if all of it was said, else the whole of it."""
        if artifact.artifact_id == wire.ANSWER and self._text and self._text == artifact.parts[0].text:
            end = Artifact(artifact_id=wire.ANSWER, name=artifact.name, parts=[Part(text="")])
            return self._event(end, append=True, last_chunk=True)
        return self._event(artifact, append=False, last_chunk=True)

    def _event(self, artifact: Artifact, *, append: bool, last_chunk: bool = False) -> TaskArtifactUpdateEvent:
        return TaskArtifactUpdateEvent(
            task_id=self._task.id,
            context_id=self._task.context_id,
            artifact=artifact,
            append=append,
            last_chunk=last_chunk,
        )


@contextmanager
def _as_a2a_errors() -> Iterator[None]:
    try:
        yield
    except Missing as error:
        raise TaskNotFoundError(str(error)) from None
    except Conflict as error:
        raise UnsupportedOperationError(str(error)) from None
    except Forbidden as error:
        raise InvalidRequestError(str(error)) from None
    except (Refusal, Unsaveable) as error:
        raise InvalidParamsError(str(error)) from None
    except DatabaseUnavailable as error:
        logger.warning("answered an error: %s", error)
        raise InternalError("The database is not available right now.") from None
    except HoldfastError as error:
        logger.error("an A2A operation failed", exc_info=error)
        raise InternalError("Internal error: the server's log has the details.") from None


async def _frames(events: AsyncIterable[Any]) -> AsyncIterator[list[bytes]]:
    async for event in events:
        yield [sse.frame(event.get("event", "message"), event["data"].encode(), None)]
