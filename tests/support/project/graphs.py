"""Small graphs that show one behaviour each."""

from __future__ import annotations

import asyncio
import operator
import time
from typing import Annotated, Any

from langchain_core.language_models.fake_chat_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from langgraph.types import Send, interrupt
from typing_extensions import TypedDict

STORY = "once upon a time there was a stream that nobody could cut"


class Chat(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


class Log(TypedDict, total=False):
    log: Annotated[list[Any], operator.add]
    """What happened, in order."""
    pause: float
    """Seconds that every step of `steps` takes."""
    count: int
    """How many steps `steps` has."""
    blocking: bool
    """`steps` blocks its thread instead of waiting on the loop."""


async def _answer(state: Chat) -> dict[str, Any]:
    said = state["messages"][-1].text
    get_stream_writer()({"heard": said})
    model = GenericFakeChatModel(messages=iter([AIMessage(f"you said: {said}")]))
    return {"messages": [await model.ainvoke(state["messages"])]}


echo = StateGraph(Chat).add_node("answer", _answer).add_edge(START, "answer").add_edge("answer", END)


def _ask(state: Log) -> Log:
    return {"log": [interrupt({"question": "may I?"})]}


def _done(state: Log) -> Log:
    return {"log": ["done"]}


approve = (
    StateGraph(Log)
    .add_node("ask", _ask)
    .add_node("done", _done)
    .add_edge(START, "ask")
    .add_edge("ask", "done")
    .add_edge("done", END)
)


def _ask_first(state: Log) -> Log:
    return {"log": [{"first": interrupt({"question": "may I?"})}]}


def _ask_again(state: Log) -> Log:
    return {"log": [{"second": interrupt({"question": "and this?"})}]}


twice = (
    StateGraph(Log)
    .add_node("ask", _ask_first)
    .add_node("ask_again", _ask_again)
    .add_edge(START, "ask")
    .add_edge("ask", "ask_again")
    .add_edge("ask_again", END)
)


def _fan_out(state: Log) -> list[Send]:
    return [Send("ask_one", {"log": [], "count": number}) for number in (1, 2)]


def _ask_one(state: Log) -> Log:
    number = state["count"]
    return {"log": [{f"q{number}": interrupt({"question": number})}]}


parallel = (
    StateGraph(Log)
    .add_node("ask_one", _ask_one)
    .add_node("done", _done)
    .add_conditional_edges(START, _fan_out, ["ask_one"])
    .add_edge("ask_one", "done")
    .add_edge("done", END)
)


async def _step(state: Log) -> Log:
    number = len([entry for entry in state["log"] if isinstance(entry, int)])
    if state.get("blocking"):
        await asyncio.to_thread(time.sleep, state.get("pause", 0))
    else:
        await asyncio.sleep(state.get("pause", 0))
    return {"log": [number]}


def _more(state: Log) -> str:
    done = len([entry for entry in state["log"] if isinstance(entry, int)])
    return "step" if done < state.get("count", 3) else END


steps = (
    StateGraph(Log).add_node("step", _step).add_edge(START, "step").add_conditional_edges("step", _more, ["step", END])
)

_inner = StateGraph(Chat).add_node("inside", _answer).add_edge(START, "inside").add_edge("inside", END).compile()
nested = StateGraph(Chat).add_node("child", _inner).add_edge(START, "child").add_edge("child", END)


def _fail(state: Log) -> Log:
    raise ValueError("as told")


failing = StateGraph(Log).add_node("fail", _fail).add_edge(START, "fail").add_edge("fail", END)


async def _remember(state: Log, runtime: Runtime[None]) -> Log:
    """Notes what it was told, and says what is noted by now, whoever did."""
    for entry in state["log"]:
        await runtime.store.aput(("notes", "by node"), str(entry), {"text": entry})
    return {"log": [item.value["text"] for item in await runtime.store.asearch(("notes",), limit=100)]}


def _remember_in_a_thread(state: Log, runtime: Runtime[None]) -> Log:
    runtime.store.put(("notes", "by thread"), "last", {"text": len(state["log"])})
    noted = runtime.store.get(("notes", "by thread"), "last")
    return {"log": [noted.value["text"]]}


memory = (
    StateGraph(Log)
    .add_node("remember", _remember)
    .add_node("remember_in_a_thread", _remember_in_a_thread)
    .add_edge(START, "remember")
    .add_edge("remember", "remember_in_a_thread")
    .add_edge("remember_in_a_thread", END)
)


class Text(TypedDict, total=False):
    text: str
    codes: list[int]
    """The code points of `text`: what the graph was really given."""


mirror = (
    StateGraph(Text)
    .add_node("look", lambda state: {"codes": [ord(character) for character in state["text"]]})
    .add_edge(START, "look")
    .add_edge("look", END)
)

_asking = StateGraph(Log).add_node("inside", _ask).add_edge(START, "inside").add_edge("inside", END).compile()
nested_ask = StateGraph(Log).add_node("child", _asking).add_edge(START, "child").add_edge("child", END)


async def _tell(state: Chat) -> dict[str, Any]:
    model = FakeListChatModel(responses=[STORY], sleep=0.03)
    return {"messages": [await model.ainvoke(state["messages"])]}


story = StateGraph(Chat).add_node("tell", _tell).add_edge(START, "tell").add_edge("tell", END)


async def _tell_on(state: Chat) -> dict[str, Any]:
    model = FakeListChatModel(responses=[STORY * 20], sleep=0.03)
    return {"messages": [await model.ainvoke(state["messages"])]}


saga = StateGraph(Chat).add_node("tell", _tell_on).add_edge(START, "tell").add_edge("tell", END)


def _joined(log: list[Any], writes: list[list[Any]]) -> list[Any]:
    return [*log, *(entry for write in writes for entry in write)]


class Growing(TypedDict, total=False):
    log: Annotated[list[Any], DeltaChannel(_joined, snapshot_frequency=1000)]
    """Kept as what was added, never as a whole."""
    count: int


async def _grow(state: Growing) -> Growing:
    return {"log": [len(state["log"])]}


def _still_small(state: Growing) -> str:
    return "step" if len(state["log"]) < state.get("count", 3) else END


growing = (
    StateGraph(Growing)
    .add_node("step", _grow)
    .add_edge(START, "step")
    .add_conditional_edges("step", _still_small, ["step", END])
)


def _ask_after(state: Growing) -> Growing:
    return {"log": [interrupt({"so far": state["log"]})]}


_growing_child = (
    StateGraph(Growing)
    .add_node("inside", _grow)
    .add_node("ask", _ask_after)
    .add_edge(START, "inside")
    .add_edge("inside", "ask")
    .add_edge("ask", END)
    .compile()
)
growing_nested = StateGraph(Growing).add_node("child", _growing_child).add_edge(START, "child").add_edge("child", END)


def _ask_with_schema(state: Log) -> Log:
    schema = {
        "type": "object",
        "properties": {"approved": {"type": "boolean"}, "note": {"type": "string"}},
        "required": ["approved"],
    }
    return {"log": [interrupt({"question": "may I?"}, response_schema=schema)]}


typed_ask = StateGraph(Log).add_node("ask", _ask_with_schema).add_edge(START, "ask").add_edge("ask", END)


@entrypoint()
async def shout(text: str) -> str:
    return text.upper()
