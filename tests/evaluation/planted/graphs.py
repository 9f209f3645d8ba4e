"""An agent of two sentences, and the same with one fault each, which an evaluation has to find."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, ToolCall, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

SENDING: dict[str, Any] = {"recipient": "Ada", "body": "hello"}


def _call(name: str, args: dict[str, Any]) -> ToolCall:
    return ToolCall(type="tool_call", name=name, args=args, id=uuid.uuid4().hex)


def _used(name: str, args: dict[str, Any], result: str) -> list[AnyMessage]:
    call = _call(name, args)
    return [AIMessage("", tool_calls=[call]), ToolMessage(result, tool_call_id=call["id"], name=name)]


def _computed(result: str) -> list[AnyMessage]:
    return [*_used("calculator", {"expression": "6 * 7"}, result), AIMessage(f"It is {result}.")]


def _asked() -> None:
    interrupt({"action_requests": [{"name": "send_message", "args": SENDING, "description": "Send it?"}]})


def _sent() -> list[AnyMessage]:
    return [*_used("send_message", SENDING, "sent"), AIMessage("Sent to Ada.")]


def _soundly(text: str) -> list[AnyMessage]:
    if not text.startswith("send"):
        return _computed("42")
    _asked()
    return _sent()


def _wrongly(text: str) -> list[AnyMessage]:
    return _soundly(text) if text.startswith("send") else _computed("43")


def _meddling(text: str) -> list[AnyMessage]:
    return [*_used("lookup_knowledge", {"query": text}, "nothing"), *_soundly(text)]


def _carelessly(text: str) -> list[AnyMessage]:
    return _sent() if text.startswith("send") else _soundly(text)


def _raising(text: str) -> list[AnyMessage]:
    raise RuntimeError(f"cannot answer {text!r}")


def _agent(reply: Callable[[str], list[AnyMessage]], detours: int = 0) -> StateGraph[Any, Any, Any, Any]:
    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": reply(state["messages"][-1].text)}

    def linger(state: MessagesState) -> dict[str, Any]:
        return {}

    builder = StateGraph(MessagesState)
    names = [START, *(f"detour_{number}" for number in range(detours)), "answer"]
    for name in names[1:-1]:
        builder.add_node(name, linger)
    builder.add_node("answer", answer)
    for left, right in itertools.pairwise(names):
        builder.add_edge(left, right)
    return builder


sound = _agent(_soundly)
wrong = _agent(_wrongly)
meddling = _agent(_meddling)
careless = _agent(_carelessly)
wordy = _agent(_soundly, detours=5)
broken = _agent(_raising)
