"""The tools, which of them need approval, and the one place where a call is executed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import ToolCall, ToolMessage
from langchain_core.tools import BaseTool, InjectedToolArg, tool
from langgraph.runtime import ExecutionInfo
from langgraph.store.base import BaseStore
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graph import knowledge, outbox
from graph.approvals import Grant
from graph.calculator import calculate
from graph.ledger import Effect, IfUnknown, happens_once

RESULT_LIMIT = 8_000
_KEY = "idempotency_key"


class NotGrantedError(PermissionError):
    """A call that needs approval arrived without a grant for exactly this call."""


class BadArgumentsError(OutputParserException):
    """The arguments do not fit the tool's schema; the text says how, for the model or the human."""


@dataclass(frozen=True, slots=True)
class AgentTool:
    """A LangChain tool and what this agent has to know about it. `timeout` in seconds.

    `if_unknown` makes a tool one with an effect, and says what follows when nobody knows whether it happened. None =
    it only looks and computes, may run any number of times, and costs no ledger.

    A tool whose schema has an `idempotency_key` (an InjectedToolArg, which the model neither sees nor sets)
    is handed the key under which its effect may happen once; without one it cannot be "run_again".
    """

    spec: BaseTool
    needs_approval: bool = False
    if_unknown: IfUnknown | None = None
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if self.if_unknown == "run_again" and not self.wants_key:
            raise TypeError(f"{self.name} takes no {_KEY}, so that running it again might do it twice")

    @property
    def name(self) -> str:
        """The tool's name, as the model calls it."""
        return self.spec.name

    @property
    def wants_key(self) -> bool:
        """Is an idempotency key handed to this tool?"""
        return _KEY in self.spec.get_input_jsonschema()["properties"]

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
        try:
            schema.model_validate(args)
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
) -> str:
    """Run one call and return its result as text, cut to RESULT_LIMIT characters with a note.

    `info` and `store` are those of the node's runtime.

    Raises NotGrantedError if the tool needs approval and `grant` is not for exactly this call,
    BadArgumentsError, what `happens_once` raises, and whatever the tool raises.
    """
    args = agent_tool.check(call["args"])
    if agent_tool.needs_approval and not (grant is not None and grant.covers(agent_tool.name, args)):
        raise NotGrantedError(f"{agent_tool.name} was called without approval of this call")
    effect = Effect.of(call, info)
    if agent_tool.wants_key:
        args = {**args, _KEY: effect.key}
    given = ToolCall(type="tool_call", name=call["name"], args=args, id=call["id"])

    async def act() -> str:
        async with asyncio.timeout(agent_tool.timeout):
            result = await agent_tool.spec.ainvoke(given)
        return capped(result.text if isinstance(result, ToolMessage) else str(result))

    if agent_tool.if_unknown is None:
        return await act()
    return await happens_once(effect, act, store=store, if_unknown=agent_tool.if_unknown)


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


class _Sending(BaseModel):
    model_config = ConfigDict(strict=True)

    recipient: str = Field(description="Who gets the message", min_length=1, max_length=200)
    body: str = Field(description="The text of the message", min_length=1, max_length=10_000)
    idempotency_key: Annotated[str, InjectedToolArg]


@tool(args_schema=_Calculation)
async def calculator(expression: str) -> str:
    """Work out an arithmetic expression exactly."""
    return str(calculate(expression))


@tool(args_schema=_Question)
async def lookup_knowledge(query: str) -> str:
    """Look something up in the notes about Holdfast and LangGraph."""
    found = knowledge.look_up(query)
    if found:
        return "\n\n".join(f"{note.title}: {note.text}" for note in found)
    return f"Nothing found. There are notes on: {', '.join(note.title for note in knowledge.NOTES)}."


@tool(args_schema=_Sending)
async def send_message(recipient: str, body: str, idempotency_key: str) -> str:
    """Send a message to somebody. A human approves it first."""
    added = await asyncio.to_thread(outbox.put, outbox.Message(idempotency_key, recipient, body))
    return f"Sent to {recipient}." if added else f"Was already sent to {recipient}; nothing was sent twice."


def toolbox(*tools: AgentTool) -> Toolbox:
    """The tools by name."""
    return {agent_tool.name: agent_tool for agent_tool in tools}


def standard_tools() -> Toolbox:
    """What the reference agent can do."""
    return toolbox(
        AgentTool(calculator, timeout=5.0),
        AgentTool(lookup_knowledge, timeout=10.0),
        AgentTool(send_message, needs_approval=True, if_unknown="run_again", timeout=30.0),
    )
