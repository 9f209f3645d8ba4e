"""What every server of the benchmark serves. The model is inside the graph, so that the server is measured.

Imports are langchain-core and langgraph only: every server of this wire has them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    BaseMessage,
    ToolCallChunk,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict

TOKENS = 200
LAST_WORD = "done."
SNAPSHOT_EVERY = 1_000


class FakeModel(BaseChatModel):
    """Calls a tool when it is asked something, and answers with `tokens` tokens, one every `pace` seconds, then."""

    tokens: int = TOKENS
    pace: float = 0.0

    @property
    def _llm_type(self) -> str:
        return "fake"

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for message in self._chunks(messages):
            if self.pace:
                await asyncio.sleep(self.pace)
            chunk = ChatGenerationChunk(message=message)
            if run_manager is not None:
                await run_manager.on_llm_new_token(str(message.content), chunk=chunk)
            yield chunk

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> ChatResult:
        if self.pace:
            await asyncio.sleep(self.pace * self.tokens)
        return self._generate(messages)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> ChatResult:
        if _is_answered(messages):
            said = AIMessage("".join(self._words(messages)))
        else:
            said = AIMessage("", tool_calls=[{"name": "look", "args": {"at": "it"}, "id": "call", "type": "tool_call"}])
        return ChatResult(generations=[ChatGeneration(message=said)])

    def _words(self, messages: list[BaseMessage]) -> list[str]:
        """Other words in every turn, or Postgres would compress them away; the last one says that it is."""
        start = 200 * len(messages)
        words = [f"{(start + number) * 7919 % 99991:05d} " for number in range(self.tokens - 1)]
        return [*words, LAST_WORD]

    def _chunks(self, messages: list[BaseMessage]) -> list[AIMessageChunk]:
        if _is_answered(messages):
            return [AIMessageChunk(content=word) for word in self._words(messages)]
        call = ToolCallChunk(name="look", args='{"at": "it"}', id="call", index=0, type="tool_call_chunk")
        return [AIMessageChunk(content="", tool_call_chunks=[call])]


def _is_answered(messages: list[BaseMessage]) -> bool:
    return isinstance(messages[-1], ToolMessage)


class Conversation(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def _folded(current: list[AnyMessage] | None, writes: Sequence[Any]) -> list[AnyMessage]:
    """Messages by their ids, in one pass: `add_messages` for every write would be quadratic."""
    merged: list[Any] = list(current or [])
    places = {message.id: place for place, message in enumerate(merged) if message.id}
    came = [message for write in writes for message in (write if isinstance(write, list) else [write])]
    for message in convert_to_messages(came):
        if message.id in places:
            merged[places[message.id]] = message
            continue
        if message.id:
            places[message.id] = len(merged)
        merged.append(message)
    return merged


class DeltaConversation(TypedDict):
    messages: Annotated[list[AnyMessage], DeltaChannel(_folded, snapshot_frequency=SNAPSHOT_EVERY)]


async def _agent(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
    asked = config.get("configurable", {})
    model = FakeModel(tokens=int(asked.get("tokens", TOKENS)), pace=float(asked.get("pace", 0.0)))
    return {"messages": [await model.ainvoke(state["messages"], config)]}


async def _tools(state: dict[str, Any]) -> dict[str, Any]:
    last = state["messages"][-1]
    calls = last.tool_calls if isinstance(last, AIMessage) else []
    return {"messages": [ToolMessage("seen", tool_call_id=call["id"]) for call in calls]}


def _next(state: dict[str, Any]) -> str:
    last = state["messages"][-1]
    return "tools" if isinstance(last, AIMessage) and last.tool_calls else END


def _conversation(schema: type[Any]) -> StateGraph[Any, Any, Any, Any]:
    """agent -> tools -> agent: three supersteps, five checkpoints."""
    builder = StateGraph(schema)
    builder.add_node("agent", _agent, input_schema=schema)
    builder.add_node("tools", _tools, input_schema=schema)
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", _next, ["tools", END])
    builder.add_edge("tools", "agent")
    return builder


class Blob(TypedDict, total=False):
    size: int
    blob: str
    count: int


async def _keep(state: Blob) -> Blob:
    """Makes a blob of `size` bytes where that is not its size already, and counts."""
    counted: Blob = {"count": state.get("count", 0) + 1}
    if len(state.get("blob", "")) != state["size"]:
        counted["blob"] = "x" * state["size"]
    return counted


agent = _conversation(Conversation).compile()
delta = _conversation(DeltaConversation).compile()
state = StateGraph(Blob).add_node("keep", _keep).add_edge(START, "keep").add_edge("keep", END).compile()
