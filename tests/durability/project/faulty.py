"""Graphs for processes that die: tours of short steps, and nodes that take their process down.

A tour's run brings a token. Its steps belong to the token, so that the state shows which runs of the thread have been
there, in which order and how often, and the effect log when.
"""

from __future__ import annotations

import asyncio
import operator
import os
import signal
import sys
from typing import Annotated, Any

from graphs import _effect as effect
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict


class Tour(TypedDict):
    asked: Annotated[list[str], operator.add]
    """The tokens of the runs, in order; an input that is applied twice is here twice."""
    count: int
    """How many steps this run has."""
    pause: float
    """Seconds that a step takes."""
    done: Annotated[list[str], operator.add]
    """`token/step/execution` of every step, in order."""


def _place(state: Tour) -> tuple[str, int]:
    token = state["asked"][-1]
    return token, sum(each.startswith(f"{token}/") for each in state["done"])


async def _step(state: Tour, config: RunnableConfig) -> dict[str, Any]:
    token, number = _place(state)
    with effect(config, f"{token}/{number}") as execution:
        await asyncio.sleep(state["pause"])
    return {"done": [f"{token}/{number}/{execution}"]}


def _more(state: Tour) -> str:
    return "step" if _place(state)[1] < state["count"] else END


tour = (
    StateGraph(Tour).add_node("step", _step).add_edge(START, "step").add_conditional_edges("step", _more, ["step", END])
)


POISON_WORKS_SECONDS = 0.7
"""How long the poisonous node takes until it does harm."""


class Poison(TypedDict):
    how: str
    """Which end the node brings about; "none" for a harmless run."""
    done: Annotated[list[str], operator.add]


def _kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


ENDS = {"_exit": lambda: os._exit(3), "abort": os.abort, "kill": _kill_itself, "sys.exit": sys.exit}


async def _prepare(state: Poison, config: RunnableConfig) -> dict[str, Any]:
    with effect(config, "prepare") as execution:
        pass
    return {"done": [execution]}


async def _end(state: Poison, config: RunnableConfig) -> dict[str, Any]:
    await asyncio.sleep(POISON_WORKS_SECONDS)
    with effect(config, "fatal") as execution:
        ENDS.get(state["how"], lambda: None)()
    return {"done": [execution]}


poison = (
    StateGraph(Poison)
    .add_node("prepare", _prepare)
    .add_node("end", _end)
    .add_edge(START, "prepare")
    .add_edge("prepare", "end")
)
