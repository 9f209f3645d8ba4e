"""The tools, which of them need approval, and the one place where a call is executed."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import ToolCall, ToolMessage
from langchain_core.tools import BaseTool, InjectedToolArg, tool
from langgraph.runtime import ExecutionInfo
from langgraph.store.base import BaseStore
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graph import knowledge, outbox, web
from graph.approvals import Grant
from graph.calculator import calculate
from graph.errors import FailureClass, classify, retry_after
from graph.ledger import Effect, IfUnknown, happens_once
from graph.routing import backoff

RESULT_LIMIT = 8_000
LONGEST_RETRY_AFTER = 5.0
"""Seconds that the other side may ask a tool to wait; after a longer wish it is not tried again."""
_KEY = "idempotency_key"
_STORE = "store"


class NotGrantedError(PermissionError):
    """A call that needs approval arrived without a grant for exactly this call."""


class BadArgumentsError(OutputParserException):
    """The arguments do not fit the tool's schema; the text says how, for the model or the human."""


@dataclass(frozen=True, slots=True)
class Above:
    """Approval is needed where the argument `field` is more than `limit`, or is no number."""

    field: str
    limit: float


Approval = Literal["always", "never"] | Above


@dataclass(frozen=True, slots=True)
class Retry:
    """Which failures of a tool are followed by another attempt, and by how many; the first after `pause` seconds."""

    on: frozenset[FailureClass] = frozenset({"timeout", "connection", "service_unavailable", "rate_limit"})
    times: int = 2
    pause: float = 0.2


@dataclass(frozen=True, slots=True)
class AgentTool:
    """A LangChain tool and what this agent has to know about it. `timeout` in seconds, of each attempt.

    `if_unknown` makes a tool one with an effect, and says what follows when nobody knows whether it happened. None =
    it only looks and computes, may run any number of times, and costs no ledger.

    A tool whose schema has an `idempotency_key` (an InjectedToolArg, which the model neither sees nor sets)
    is handed the key under which its effect may happen once; without one it cannot be "run_again". In the same way a
    `store` is that of the graph, or None.

    `retry` is for tools without an effect; what becomes of a failed effect is said by `if_unknown`.
    """

    spec: BaseTool
    approval: Approval = "never"
    if_unknown: IfUnknown | None = None
    timeout: float = 30.0
    retry: Retry | None = None

    def __post_init__(self) -> None:
        if self.if_unknown == "run_again" and not self.wants(_KEY):
            raise TypeError(f"{self.name} takes no {_KEY}, so that running it again might do it twice")
        if self.if_unknown is not None and self.retry is not None:
            raise TypeError(f"{self.name} has an effect, which no failure makes safe to try again")

    @property
    def name(self) -> str:
        """The tool's name, as the model calls it."""
        return self.spec.name

    def wants(self, injected: str) -> bool:
        """Is this argument, which the model does not see, handed to the tool?"""
        return injected in self.spec.get_input_jsonschema()["properties"]

    def needs_approval(self, args: Mapping[str, Any], strict: bool = False) -> bool:
        """Has a human to approve a call with `args`?

        `strict`, or TOOL_APPROVALS=always in the environment, asks about everything that has an effect. Nothing asks
        about less than the tool's own policy.
        """
        # A word that is not known must not loosen what its author meant to tighten.
        always = strict or os.environ.get("TOOL_APPROVALS", "policy") not in ("", "policy")
        if always and self.if_unknown is not None:
            return True
        if isinstance(self.approval, Above):
            value = args.get(self.approval.field)
            # Said the other way round, NaN would pass.
            return not (isinstance(value, int | float) and value <= self.approval.limit)
        return self.approval == "always"

    def check(self, args: object) -> dict[str, Any]:
        """`args` unchanged, if they fit the schema exactly. Raises BadArgumentsError."""
        if not isinstance(args, dict):
            raise BadArgumentsError(f"the arguments of {self.name} are not a JSON object")
        schema = self.spec.tool_call_schema
        if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
            raise TypeError(f"tool {self.name} has no pydantic schema")
        # Silently dropped extras would be shown to a human who approves, but not be part of what runs.
        if unknown := sorted(map(str, set(args) - set(schema.model_fields))):
            raise BadArgumentsError(f"{self.name} does not take {', '.join(unknown)}")
        # The schema that the model sees is a copy which has lost the strictness of the tool's own.
        strict = getattr(self.spec.args_schema, "model_config", {}).get("strict")
        try:
            schema.model_validate(args, strict=strict)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise BadArgumentsError(f"wrong arguments for {self.name}: {problems}") from error
        return args


Toolbox = Mapping[str, AgentTool]


async def execute(
    agent_tool: AgentTool,
    call: ToolCall,
    grant: Grant | None,
    info: ExecutionInfo | None = None,
    store: BaseStore | None = None,
    strict: bool = False,
) -> str:
    """Run one call and return its result as text, cut to RESULT_LIMIT characters with a note.

    `info` and `store` are those of the node's runtime, `strict` is for `AgentTool.needs_approval`.

    Raises NotGrantedError if the tool needs approval and `grant` is not for exactly this call,
    BadArgumentsError, what `happens_once` raises, and whatever the tool raises.
    """
    args = agent_tool.check(call["args"])
    if agent_tool.needs_approval(args, strict) and not (grant is not None and grant.covers(agent_tool.name, args)):
        raise NotGrantedError(f"{agent_tool.name} was called without approval of this call")
    effect = Effect.of(call, info)
    injected = {name: value for name, value in ((_KEY, effect.key), (_STORE, store)) if agent_tool.wants(name)}
    given = ToolCall(type="tool_call", name=call["name"], args={**args, **injected}, id=call["id"])

    async def act() -> str:
        async with asyncio.timeout(agent_tool.timeout):
            result = await agent_tool.spec.ainvoke(given)
        return capped(result.text if isinstance(result, ToolMessage) else str(result))

    if agent_tool.if_unknown is None:
        return await _patiently(act, agent_tool.retry or Retry(times=0))
    return await happens_once(effect, act, store=store, if_unknown=agent_tool.if_unknown)


async def _patiently(act: Callable[[], Awaitable[str]], retry: Retry) -> str:
    attempt = 1
    while True:
        try:
            return await act()
        except Exception as error:
            asked_for = retry_after(error) or 0.0
            if attempt > retry.times or classify(error) not in retry.on or asked_for > LONGEST_RETRY_AFTER:
                raise
        await asyncio.sleep(backoff(attempt, asked_for, retry.pause, random.random()))  # noqa: S311 - spreads callers
        attempt += 1


def capped(text: str) -> str:
    """`text`, or its beginning and a note on how much is missing: every result is read, paid for and kept."""
    if len(text) <= RESULT_LIMIT:
        return text
    return f"{text[:RESULT_LIMIT]}\n[cut: the first {RESULT_LIMIT} of {len(text)} characters]"


class _Calculation(BaseModel):
    model_config = ConfigDict(strict=True)

    expression: str = Field(description="Numbers, + - * / // % ** and parentheses, for example (2 + 3) * 4")


class _Question(BaseModel):
    model_config = ConfigDict(strict=True)

    query: str = Field(description="What to look up, in a few words", min_length=1, max_length=500)
    store: Annotated[Any, InjectedToolArg] = None


class _Page(BaseModel):
    model_config = ConfigDict(strict=True)

    url: str = Field(description="The address, with http:// or https://", min_length=1, max_length=2_000)


class _Sending(BaseModel):
    model_config = ConfigDict(strict=True)

    recipient: str = Field(description="Who gets the message", min_length=1, max_length=200)
    body: str = Field(description="The text of the message", min_length=1, max_length=10_000)
    idempotency_key: Annotated[str, InjectedToolArg]


class _Refund(BaseModel):
    model_config = ConfigDict(strict=True)

    order: str = Field(description="The order's number", min_length=1, max_length=100)
    amount: float = Field(description="How much is paid back", gt=0, allow_inf_nan=False)
    idempotency_key: Annotated[str, InjectedToolArg]


@tool(args_schema=_Calculation)
async def calculator(expression: str) -> str:
    """Work out an arithmetic expression exactly."""
    return str(calculate(expression))


@tool(args_schema=_Question)
async def lookup_knowledge(query: str, store: BaseStore | None = None) -> str:
    """Look something up in the notes about Holdfast and LangGraph, and in the documents that were ingested."""
    found = await knowledge.search(query, store)
    if found:
        return "\n\n".join(f"{note.title}: {note.text}" for note in found)
    return f"Nothing found. There are notes on: {', '.join(note.title for note in knowledge.notes())}."


@tool(args_schema=_Page)
async def fetch_page(url: str) -> str:
    """Read a page of the public web as plain text."""
    return await web.fetch(url)


@tool(args_schema=_Sending)
async def send_message(recipient: str, body: str, idempotency_key: str) -> str:
    """Send a message to somebody. A human approves it first."""
    added = await asyncio.to_thread(outbox.put, outbox.Message(idempotency_key, recipient, body))
    return f"Sent to {recipient}." if added else f"Was already sent to {recipient}; nothing was sent twice."


@tool(args_schema=_Refund)
async def refund(order: str, amount: float, idempotency_key: str) -> str:
    """Pay back money for an order. A human approves larger amounts first."""
    message = outbox.Message(idempotency_key, "refunds", f"{amount} for order {order}")
    added = await asyncio.to_thread(outbox.put, message)
    return (
        f"Refunded {amount} for order {order}." if added else f"Order {order} was already refunded; nothing was paid."
    )


def toolbox(*tools: AgentTool) -> Toolbox:
    """The tools by name."""
    return {agent_tool.name: agent_tool for agent_tool in tools}


def standard_tools() -> Toolbox:
    """What the reference agent can do. REFUND_APPROVAL_ABOVE (default 50) is read here."""
    limit = float(os.environ.get("REFUND_APPROVAL_ABOVE") or 50)
    return toolbox(
        AgentTool(calculator, timeout=5.0),
        AgentTool(lookup_knowledge, timeout=10.0, retry=Retry()),
        AgentTool(fetch_page, timeout=20.0, retry=Retry()),
        AgentTool(send_message, approval="always", if_unknown="run_again", timeout=30.0),
        AgentTool(refund, approval=Above("amount", limit), if_unknown="run_again", timeout=30.0),
    )
