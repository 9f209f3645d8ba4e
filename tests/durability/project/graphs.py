"""Graphs whose every step leaves a trace in the effect log, the file that EFFECT_LOG names.

A step writes one JSON line when it starts and one when it is finished: who it is (thread, call, idempotency key),
which execution of the step this is, which process, and when (the monotonic clock, which all processes of a machine
share). What the graph remembers of a step is the id of the execution that did it: state and log can be compared.
"""

from __future__ import annotations

import asyncio
import json
import operator
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NotRequired
from uuid import uuid4

from langchain_core.messages import AIMessage, AnyMessage, ToolCall, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from langgraph.types import Send, interrupt
from typing_extensions import TypedDict

from graph.ledger import Effect, IfUnknown, UnknownEffectError, happens_once

PLAN = (("fetch",), ("read", "compare"), ("draft",), ("send",), ("file",))
"""What the agent of `errand` calls, answer by answer."""
NEEDS_APPROVAL = "send"
SHORTEST, LONGEST = 0.05, 0.3
"""How long a tool call takes, in seconds."""
UNKNOWN = "unknown"
"""What `ledgered` remembers of a step that was started before and never ended."""


@contextmanager
def _effect(config: RunnableConfig, call: str) -> Iterator[str]:
    """The body of the block is the effect; yields the execution's id."""
    thread = config["configurable"]["thread_id"]
    entry = {"thread": thread, "call": call, "key": f"{thread}:{call}", "execution": uuid4().hex, "pid": os.getpid()}
    _log(entry, "started")
    yield entry["execution"]
    _log(entry, "finished")


def _log(entry: dict[str, Any], event: str) -> None:
    line = json.dumps({**entry, "event": event, "at": time.monotonic()}) + "\n"
    log = os.open(os.environ["EFFECT_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(log, line.encode())
    finally:
        os.close(log)


class Errand(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


class Call(TypedDict):
    call: ToolCall


def _agent(state: Errand) -> Errand:
    turn = sum(isinstance(message, AIMessage) for message in state["messages"])
    if turn == len(PLAN):
        return {"messages": [AIMessage("all done")]}
    calls = [ToolCall(name=name, args={}, id=name, type="tool_call") for name in PLAN[turn]]
    return {"messages": [AIMessage(f"answer {turn}", tool_calls=calls)]}


def _next(state: Errand) -> list[Send] | str:
    last = state["messages"][-1]
    calls = last.tool_calls if isinstance(last, AIMessage) else []
    return [Send("tool", {"call": call}) for call in calls] or END


async def _tool(state: Call, config: RunnableConfig) -> Errand:
    name = state["call"]["name"]
    if name == NEEDS_APPROVAL and not _approved(state["call"]):
        return {"messages": [ToolMessage("rejected", tool_call_id=name)]}
    with _effect(config, name) as execution:
        await asyncio.sleep(random.uniform(SHORTEST, LONGEST))
    return {"messages": [ToolMessage(execution, tool_call_id=name)]}


def _approved(call: ToolCall) -> bool:
    answer = interrupt(
        {
            "action_requests": [{"name": call["name"], "args": call["args"], "description": "may I?"}],
            "review_configs": [{"action_name": call["name"], "allowed_decisions": ["approve", "reject"]}],
        }
    )
    return bool(answer["decisions"][0]["type"] == "approve")


errand = (
    StateGraph(Errand)
    .add_node("agent", _agent)
    .add_node("tool", _tool)
    .add_edge(START, "agent")
    .add_conditional_edges("agent", _next, ["tool", END])
    .add_edge("tool", "agent")
)


class Interview(TypedDict):
    stages: list[list[str]]
    """Names of questions; those of one stage are asked at the same time."""
    stage: int
    pause: float
    """Seconds that what was approved takes at most."""


class Question(TypedDict):
    name: str
    pause: float


def _next_stage(state: Interview) -> Interview:
    return {"stage": state.get("stage", -1) + 1}


def _questions(state: Interview) -> list[Send] | str:
    if state["stage"] >= len(state["stages"]):
        return END
    return [Send("ask", {"name": name, "pause": state["pause"]}) for name in state["stages"][state["stage"]]]


async def _ask(state: Question, config: RunnableConfig) -> None:
    """Asks, and notes under which answer it then acts; the question knows its task, and so does an honest answer."""
    task, configurable = config["metadata"]["langgraph_checkpoint_ns"], config["configurable"]
    answer = interrupt({"name": state["name"], "task": task})
    entry = {"thread": configurable["thread_id"], "run": configurable["run_id"], "task": task, "answer": answer}
    if answer["verdict"] == "yes":
        _log(entry, "started")
        await asyncio.sleep(random.uniform(0, state["pause"]))
        _log(entry, "finished")
    else:
        _log(entry, "declined")


interview = (
    StateGraph(Interview)
    .add_node("next_stage", _next_stage)
    .add_node("ask", _ask)
    .add_edge(START, "next_stage")
    .add_conditional_edges("next_stage", _questions, ["ask", END])
    .add_edge("ask", "next_stage")
)


class Walk(TypedDict):
    count: int
    """How many steps."""
    pause: float
    """Seconds that a step takes."""
    done: Annotated[list[str], operator.add]
    """The executions that did the steps, in order."""


async def _step(state: Walk, config: RunnableConfig) -> dict[str, Any]:
    with _effect(config, f"step {len(state['done'])}") as execution:
        await asyncio.sleep(state["pause"])
    return {"done": [execution]}


async def _blocking_step(state: Walk, config: RunnableConfig) -> dict[str, Any]:
    with _effect(config, f"step {len(state['done'])}") as execution:
        time.sleep(state["pause"])  # noqa: ASYNC251 - the mistake that users make is the point
    return {"done": [execution]}


def _more(state: Walk) -> str:
    return "step" if len(state["done"]) < state["count"] else END


walk = (
    StateGraph(Walk).add_node("step", _step).add_edge(START, "step").add_conditional_edges("step", _more, ["step", END])
)
blocking = (
    StateGraph(Walk)
    .add_node("step", _blocking_step)
    .add_edge(START, "step")
    .add_conditional_edges("step", _more, ["step", END])
)


class Ledgered(Walk):
    if_unknown: NotRequired[IfUnknown]
    """What follows from a step of which nobody knows whether it happened; "tell" if nothing is said."""


async def _ledgered_step(state: Ledgered, config: RunnableConfig, runtime: Runtime) -> dict[str, Any]:
    call = ToolCall(type="tool_call", name="step", args={}, id=f"step {len(state['done'])}")

    async def act() -> str:
        with _effect(config, call["id"] or "") as execution:
            await asyncio.sleep(state["pause"])
        return execution

    effect = Effect.of(call, runtime.execution_info)
    try:
        done = await happens_once(effect, act, store=runtime.store, if_unknown=state.get("if_unknown", "tell"))
    except UnknownEffectError:
        done = UNKNOWN
    return {"done": [done]}


ledgered = (
    StateGraph(Ledgered)
    .add_node("step", _ledgered_step)
    .add_edge(START, "step")
    .add_conditional_edges("step", _more, ["step", END])
)


class Kept(TypedDict, total=False):
    said: Any
    ask: bool


def _keep(state: Kept) -> Kept:
    return {"said": interrupt("what?")["said"]} if state.get("ask") else {"said": state.get("said")}


keep = StateGraph(Kept).add_node("keep", _keep).add_edge(START, "keep").add_edge("keep", END)
