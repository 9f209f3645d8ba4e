"""Map and reduce as a graph: a long text, or many, summarised in parts at once and joined in order.

split -> summarise (one per part) -> combine. A part that fails is named in `failed` and costs only itself.
"""

from __future__ import annotations

import asyncio
import operator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired

from langchain_core.messages import HumanMessage
from langgraph.errors import NodeError
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Overwrite, RetryPolicy, Send
from typing_extensions import TypedDict

from graph.errors import classify, is_worth_a_quick_retry
from graph.knowledge import chunks
from graph.models import ModelFactory, chat_model
from graph.state import Context

PART_CHARACTERS = 4_000


class Outcome(TypedDict):
    """What became of a part (counted from 0): a summary, or the class of its failure."""

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
    return [Send("summarise", {"part": number, "text": text}) for number, text in enumerate(parts)] or "combine"


def part_failed(state: Any, error: NodeError) -> Command[Literal["combine"]]:
    """A failed part is an outcome too."""
    return Command(update={"outcomes": [Outcome(part=state["part"], error=classify(error.error))]}, goto="combine")


@dataclass(frozen=True)
class Steps:
    """The steps that ask the model."""

    model: ModelFactory = chat_model

    async def summarise(self, state: Any, runtime: Runtime[Context]) -> dict[str, Any]:
        """Summarise one part: `state` is its number and text, not the thread's state."""
        return {"outcomes": [Outcome(part=state["part"], summary=await self._summary(state["text"], runtime))]}

    async def combine(self, state: State, runtime: Runtime[Context]) -> dict[str, Any]:
        """One summary of the summaries, in the order of the text."""
        outcomes = sorted(state["outcomes"], key=lambda outcome: outcome["part"])
        failed = [outcome for outcome in outcomes if "error" in outcome]
        found = [outcome["summary"] for outcome in outcomes if "summary" in outcome]
        if len(found) > 1:
            return {"summary": await self._summary("\n\n".join(found), runtime), "failed": failed}
        return {"summary": found[0] if found else "There was nothing that could be summarised.", "failed": failed}

    async def _summary(self, text: str, runtime: Runtime[Context]) -> str:
        model = await asyncio.to_thread(self.model, runtime.context or Context())
        return (await model.ainvoke([HumanMessage(f"Summarise this text in a few sentences:\n\n{text}")])).text


def build(steps: Steps | None = None) -> StateGraph[State, Context, Given, Answer]:
    """The uncompiled graph over `steps` (default: the model of the environment)."""
    steps = steps or Steps()
    builder = StateGraph(State, context_schema=Context, input_schema=Given, output_schema=Answer)
    retry = RetryPolicy(max_attempts=2, retry_on=is_worth_a_quick_retry)
    builder.add_node("split", split)
    builder.add_node("summarise", steps.summarise, retry_policy=retry, error_handler=part_failed)
    builder.add_node("combine", steps.combine, retry_policy=retry)
    builder.add_edge(START, "split")
    builder.add_conditional_edges("split", to_parts, ["summarise", "combine"])
    builder.add_edge("summarise", "combine")
    builder.add_edge("combine", END)
    return builder


graph = build()
