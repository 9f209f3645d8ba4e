"""MCP's operations, by the official SDK; imported with the first request (see `jsonrpc.loaded`).

A server object lives for one request and knows its caller. A call is a stateless run, or one on the thread that it
names. A run that asks something keeps its thread: clients of the protocol's latest revision are sent the question as a
form for their user and repeat the call with the answer, all others find in the result how to answer.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    CallToolRequestParams,
    PaginatedRequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from holdfast import __version__
from holdfast.api import following
from holdfast.api.assistants import resolve
from holdfast.api.deps import Services, uuid_of
from holdfast.api.jsonrpc import described, handed_on, permitted, refusal
from holdfast.api.problems import invalid
from holdfast.api.starting import Origin, Started, origin, start
from holdfast.db.assistants import AssistantFilter, system_assistant_id
from holdfast.errors import DatabaseUnavailable, Forbidden, HoldfastError, Invalid, Missing, Refusal, Unsaveable
from holdfast.rules.caller import Caller
from holdfast.rules.command import is_answer_map
from holdfast.rules.run import RunStatus
from holdfast.wire import codec
from holdfast.wire import mcp as wire
from holdfast.wire.runs import RunCreate, graph_output

logger = logging.getLogger(__name__)

PAGE = 100
"""Tools in an answer to `tools/list`."""

MOST_TOOLS = 10_000
"""Assistants that are tools; a name is made unique among all of them."""


async def answer(with_: Services, who: Caller, request: Request, message: Any) -> Response:
    """The answer to one message of a client."""
    if not isinstance(message, dict) or type(message.get("id", "")) not in (int, str):
        # The SDK takes a request whose id it cannot use for a notification, and would let its client wait.
        return refusal(INVALID_REQUEST, "The body must be one JSON-RPC message, its id text or an integer", status=400)
    tools = _Tools(with_, who, origin(request))
    server: Server[Any] = Server("Holdfast", version=__version__, get_tool_input_schema=lambda _: None)
    server.add_request_handler("tools/list", PaginatedRequestParams, tools.page)
    server.add_request_handler("tools/call", CallToolRequestParams, tools.call)
    manager = StreamableHTTPSessionManager(
        server, json_response=True, stateless=True, max_request_body_size=sys.maxsize
    )
    handed = handed_on(request, message)
    said: list[Message] = []

    async def send(message: Message) -> None:
        said.append(message)

    async with manager.run():
        await manager.handle_request(handed.scope, handed.receive, send)
    head, *rest = said
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head["headers"]}
    return Response(b"".join(part.get("body", b"") for part in rest), head["status"], headers)


@dataclass(frozen=True, slots=True)
class _Tool:
    """An assistant as a tool."""

    assistant: Mapping[str, Any]
    input: wire.ToolInput
    output: Mapping[str, Any] | None
    """The graph's output schema."""


class _Tools:
    """The tools of one caller."""

    def __init__(self, with_: Services, who: Caller, origin: Origin) -> None:
        self._with = with_
        self._who = who
        self._origin = origin

    async def page(self, _: ServerRequestContext[Any, Any], params: PaginatedRequestParams) -> dict[str, Any]:
        """`tools/list`; the cursor is the name of the last tool that was shown."""
        with _as_protocol_errors():
            who = await permitted(self._with, self._who, "assistants", "search")
            names = await self._names(who)
            left = list(names)
            if params.cursor is not None:
                if params.cursor not in names:
                    raise MCPError(code=INVALID_PARAMS, message="Unknown cursor")
                left = left[left.index(params.cursor) + 1 :]
            tools = [
                wire.tool_view(name, names[name], (await self._described(names[name])).input.schema)
                for name in left[:PAGE]
            ]
        return wire.page(tools, left[PAGE - 1] if len(left) > PAGE else None)

    async def call(self, ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams) -> dict[str, Any]:
        """`tools/call`: a `CallToolResult`, or an `InputRequiredResult`."""
        with _as_protocol_errors():
            tool = await self._tool(params.name)
            try:
                who, run = await self._start(*_run_of(tool, params))
            except Forbidden:
                raise
            except (Refusal, Unsaveable) as error:
                return wire.failed(str(error))
            return await self._result(ctx, tool, who, run)

    async def _names(self, who: Caller) -> dict[str, Mapping[str, Any]]:
        rows = await self._with.assistants.search(
            who, AssistantFilter(), limit=MOST_TOOLS, sort_by="created_at", descending=False
        )
        return wire.tool_names(rows, {system_assistant_id(graph_id) for graph_id in self._with.catalog.ids()})

    async def _tool(self, name: str) -> _Tool:
        """The tool of this name; a graph's name or an assistant's id will do.

        Raises:
            MCPError: no such tool.
        """
        who = await permitted(self._with, self._who, "assistants", "read", {"assistant_id": name})
        found = (await self._names(who)).get(name)
        try:
            return await self._described(found or await self._with.assistants.get(who, resolve(self._with, name)))
        except (Invalid, Missing):
            raise MCPError(code=INVALID_PARAMS, message=f"Unknown tool: {name}") from None

    async def _described(self, assistant: Mapping[str, Any]) -> _Tool:
        schemas = await described(self._with, assistant["graph_id"])
        return _Tool(assistant, wire.ToolInput.of(schemas.get("input_schema")), schemas.get("output_schema"))

    async def _start(self, body: dict[str, Any], thread_id: UUID | None) -> tuple[Caller, Started]:
        asked = {**body, **({"thread_id": str(thread_id)} if thread_id else {})}
        who = await permitted(self._with, self._who, "threads", "create_run", asked)
        try:
            create = RunCreate.model_validate(asked)
        except ValidationError as error:
            raise invalid(error) from None
        run = await start(self._with, who, create, thread_id=thread_id, followed=False, origin=self._origin)
        return who, run

    async def _result(
        self, ctx: ServerRequestContext[Any, Any], tool: _Tool, who: Caller, run: Started
    ) -> dict[str, Any]:
        values = codec.loads(await following.result(self._with, who, run))
        if error := values.get("__error__"):
            return wire.failed(f"{error['error']}: {error['message']}")
        row = await self._with.runs.find(who, run.run_id)
        if row is None or row["status"] == RunStatus.INTERRUPTED:
            return wire.failed("The run was cancelled.")
        interrupts = values.pop("__interrupt__", [])
        output = graph_output(values, tool.output)
        if not interrupts:
            return wire.completed(output)
        if _asks_its_user(ctx):
            return wire.input_required(run.thread_id, interrupts)
        return wire.asked(run.thread_id, interrupts, output, tool.input.controls)


def _run_of(tool: _Tool, params: CallToolRequestParams) -> tuple[dict[str, Any], UUID | None]:
    """The body of the run that a call asks for, and its thread.

    Raises:
        Invalid: no thread id, or an answer that is none.
    """
    body: dict[str, Any] = {
        "assistant_id": str(tool.assistant["assistant_id"]),
        "on_completion": "keep_interrupted",
    }
    if params.request_state is not None:
        asking, answers = _answered(params)
        return {**body, "command": {"resume": answers}}, asking
    arguments = params.arguments or {}
    # A model that fills in everything says "" where it means nothing.
    thread_id = uuid_of(str(given), "thread") if (given := arguments.get(tool.input.controls.thread_id)) else None
    resume = arguments.get(tool.input.controls.resume)
    if resume is None or (resume == "" and thread_id is None):
        return {**body, "input": tool.input.graph_input(arguments)}, thread_id
    return {**body, "command": {"resume": wire.meant(resume)}}, thread_id


def _answered(params: CallToolRequestParams) -> tuple[UUID, dict[str, Any]]:
    """The thread that asked, and the answers by interrupt id. All of it comes from the client, and is checked when
    it is bound to what the thread asks."""
    try:
        state = codec.loads((params.request_state or "").encode(errors="replace"))
        thread_id = uuid_of(state["thread_id"], "thread")
        responses = {key: response.model_dump() for key, response in (params.input_responses or {}).items()}
        resume = wire.answers(state, responses)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Invalid("requestState is not what this server sent") from None
    if resume is None:
        raise Invalid(f"The question was not answered; it stays open on thread {thread_id}.")
    if not is_answer_map(resume):
        raise Invalid("inputResponses must answer the questions that were sent")
    return thread_id, resume


def _asks_its_user(ctx: ServerRequestContext[Any, Any]) -> bool:
    """Whether the client shows forms to its user and repeats the call with what was filled in."""
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS or ctx.session.client_capabilities is None:
        return False
    elicitation = ctx.session.client_capabilities.elicitation
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


@contextmanager
def _as_protocol_errors() -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        raise MCPError(code=INVALID_REQUEST, message=str(refusal)) from None
    except DatabaseUnavailable as error:
        logger.warning("answered an error: %s", error)
        raise MCPError(code=INTERNAL_ERROR, message="The database is not available right now.") from None
    except HoldfastError as error:
        logger.error("an MCP operation failed", exc_info=error)
        raise MCPError(code=INTERNAL_ERROR, message="Internal error: the server's log has the details.") from None
