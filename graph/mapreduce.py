"""Map and reduce as a graph: a long text, or many, summarised in parts at once and joined in order.

split -> summarise (one per part) -> combine. A part that fails is named in `failed` and costs only itself.
"""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, NotRequired

from langchain_core.messages import HumanMessage
from langgraph.errors import NodeError
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Overwrite, RetryPolicy, Send
from typing_extensions import TypedDict

from graph.errors import classify, is_worth_a_quick_retry
from graph.knowledge import chunks
from graph.models import chat_model
from graph.state import Context

PART_CHARACTERS = 4_000


class Part(TypedDict):
    """What one task gets: the part's number, from 0, and its text."""

    part: int
    text: str


class Outcome(TypedDict):
    """What became of a part: a summary, or the class of its failure."""

    part: int
    summary: NotRequired[str]
    error: NotRequired[str]


class Given(TypedDict):
    """One text, which is cut into parts, or the parts themselves."""

    text: str | list[str]


class Answer(TypedDict):
    """The summary of the parts that worked, and what became of the others."""

    summary: str
    failed: list[Outcome]


class State(Given, Answer):
    """`outcomes` in the order in which the parts ended."""

    outcomes: Annotated[list[Outcome], operator.add]


def split(state: State) -> dict[str, Any]:  # noqa: ARG001 - a node gets it
    """Forget what an earlier run of the thread found."""
    return {"outcomes": Overwrite([]), "failed": []}


def to_parts(state: State) -> list[Send] | str:
    """One task per part."""
    given = state["text"]
    parts = chunks(given, PART_CHARACTERS) if isinstance(given, str) else given
    return [Send("summarise", Part(part=number, text=text)) for number, text in enumerate(parts)] or "combine"


async def summarise(state: Any, runtime: Runtime[Context]) -> dict[str, Any]:
    """Summarise one part. `state` is a `Part`, declared as Any for the reason that `Nodes.tools` has."""
    return {"outcomes": [Outcome(part=state["part"], summary=await _summary(state["text"], runtime))]}


def part_failed(state: Any, error: NodeError) -> Command[Any]:
    """A failed part is an outcome too."""
    return Command(update={"outcomes": [Outcome(part=state["part"], error=classify(error.error))]})


async def combine(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
    """One summary of the summaries, in the order of the text."""
    outcomes = sorted(state["outcomes"], key=lambda outcome: outcome["part"])
    summaries = [outcome["summary"] for outcome in outcomes if "summary" in outcome]
    failed = [outcome for outcome in outcomes if "error" in outcome]
    if len(summaries) > 1:
        return {"summary": await _summary("\n\n".join(summaries), runtime), "failed": failed}
    return {"summary": summaries[0] if summaries else "There was nothing that could be summarised.", "failed": failed}


async def _summary(text: str, runtime: Runtime[Context]) -> str:
    model = await asyncio.to_thread(chat_model, runtime.context or Context())
    return (await model.ainvoke([HumanMessage(f"Summarise this text in a few sentences:\n\n{text}")])).text


def build() -> StateGraph[State, Context, Given, Answer]:
    """The uncompiled graph."""
    builder = StateGraph(State, context_schema=Context, input_schema=Given, output_schema=Answer)
    retry = RetryPolicy(max_attempts=2, retry_on=is_worth_a_quick_retry)
    builder.add_node("split", split)
    builder.add_node("summarise", summarise, retry_policy=retry, error_handler=part_failed)
    builder.add_node("combine", combine, retry_policy=retry)
    builder.add_edge(START, "split")
    builder.add_conditional_edges("split", to_parts, ["summarise", "combine"])
    builder.add_edge("summarise", "combine")
    builder.add_edge("combine", END)
    return builder


graph = build()
