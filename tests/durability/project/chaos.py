"""A graph whose input says what it does: the plan that a schedule of `tests/durability/chaos` has drawn.

Every step of a plan is as many tasks at once as it is wide, and a task leaves traces in the effect log, the file that
EFFECT_LOG names: that it started, which question it asks under which interrupt id, with which answer it goes on, that
it finished. The state remembers the executions that counted, so that state and log can be compared.
"""

from __future__ import annotations

import asyncio
import json
import operator
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import uuid4

from langchain_core.messages import ToolCall
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Interrupt, RetryPolicy, Send, interrupt
from typing_extensions import TypedDict

from graph.ledger import Effect, UnknownEffectError, happens_once


class Planned(Exception):
    """What a failing step raises while it is to be tried again."""


class Chaos(TypedDict):
    mark: str
    """Which input is worked on."""
    plan: list[dict[str, Any]]
    place: int
    """Which step of the plan is next."""
    inputs: Annotated[list[str], operator.add]
    """The marks of all inputs that were taken, and of state updates."""
    done: Annotated[list[str], operator.add]
    """`<key> <execution>` of every task that is done, in order."""
    answers: Annotated[list[str], operator.add]
    """`<interrupt id> <answer id>` of every answer that was taken."""


class Task(TypedDict):
    mark: str
    place: int
    number: int
    step: dict[str, Any]


class Traces:
    """What one execution of a task writes into the effect log."""

    def __init__(self, task: Task, config: RunnableConfig) -> None:
        ids = config["configurable"]
        self.execution = uuid4().hex
        self.key = f"{ids['thread_id']}:{task['mark']}:{task['place']}:{task['number']}"
        self._entry = {
            "thread": ids["thread_id"],
            "run": ids["run_id"],
            "mark": task["mark"],
            "place": task["place"],
            "kind": task["step"]["kind"],
            "key": self.key,
            "execution": self.execution,
            "pid": os.getpid(),
        }

    def write(self, event: str, **more: Any) -> None:
        line = json.dumps({**self._entry, "event": event, "at": time.monotonic(), **more}) + "\n"
        log = os.open(os.environ["EFFECT_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(log, line.encode())
        finally:
            os.close(log)

    @asynccontextmanager
    async def effect(self, **more: Any) -> AsyncIterator[None]:
        """The body of the block is the effect."""
        self.write("started", **more)
        yield
        self.write("finished")

    @property
    def done(self) -> list[str]:
        return [f"{self.key} {self.execution}"]


def _next(state: Chaos) -> list[Send] | str:
    if state["place"] >= len(state["plan"]):
        return END
    step = state["plan"][state["place"]]
    node = "ask" if step["kind"] == "ask" else "act"
    return [
        Send(node, {"mark": state["mark"], "place": state["place"], "number": number, "step": step})
        for number in range(step["width"])
    ]


async def _act(task: Task, config: RunnableConfig, runtime: Runtime) -> dict[str, Any]:
    traces, step = Traces(task, config), task["step"]
    if step["kind"] == "once":
        return {"done": [await _once(traces, task, runtime)]}
    async with traces.effect():
        if step["kind"] == "block":
            time.sleep(step["seconds"])  # noqa: ASYNC251 - the mistake that users make is the point
        await asyncio.sleep(step["seconds"])
        _fail(traces.key, step)
    return {"done": traces.done}


_failed: dict[str, int] = {}


def _fail(key: str, step: dict[str, Any]) -> None:
    if step["kind"] == "fail":
        raise ValueError("planned")
    if step["kind"] == "flaky":
        _failed[key] = _failed.get(key, 0) + 1
        if _failed[key] <= step["times"]:
            raise Planned


async def _once(traces: Traces, task: Task, runtime: Runtime) -> str:
    """The effect, under the ledger; one that was started before and never ended is left alone, as unknown."""
    call_id = f"{task['mark']}:{task['place']}:{task['number']}"
    call = ToolCall(type="tool_call", name="effect", args={}, id=call_id)

    async def act() -> str:
        async with traces.effect():
            await asyncio.sleep(task["step"]["seconds"])
        return traces.execution

    try:
        effect = Effect.of(call, runtime.execution_info)
        execution = await happens_once(effect, act, store=runtime.store, if_unknown="tell")
    except UnknownEffectError:
        execution = "unknown"
    return f"{traces.key} {execution}"


async def _ask(task: Task, config: RunnableConfig) -> dict[str, Any]:
    traces = Traces(task, config)
    asked = Interrupt.from_ns("", ns=config["configurable"]["checkpoint_ns"]).id
    traces.write("asked", interrupt=asked)
    answer = interrupt({"question": traces.key})
    async with traces.effect(interrupt=asked, answer=answer):
        await asyncio.sleep(task["step"]["seconds"])
    answered = answer.get("id") if isinstance(answer, dict) else None
    return {"done": traces.done, "answers": [f"{asked} {answered}"]}


async def _joined(state: Chaos) -> dict[str, Any]:
    return {"place": state["place"] + 1}


_again = RetryPolicy(max_attempts=3, initial_interval=0.05, backoff_factor=1.0, jitter=False, retry_on=Planned)

chaos = (
    StateGraph(Chaos)
    .add_node("act", _act, retry_policy=_again)
    .add_node("ask", _ask)
    .add_node("joined", _joined)
    .add_conditional_edges(START, _next, ["act", "ask", END])
    .add_edge("act", "joined")
    .add_edge("ask", "joined")
    .add_conditional_edges("joined", _next, ["act", "ask", END])
)
