"""Sixty runs of the fault goal (`make agent-faults` has thousands), and proofs that its judges see their faults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import StateGraph
from langgraph.runtime import Runtime

from graph import outbox
from graph.agent import build
from graph.nodes import Nodes
from graph.state import Context, State
from graph.tools import Toolbox
from tests.graph.faults import RUNS_EACH, TOOL_FAULTS, Campaign, failing_tools, surroundings
from tests.support.faulty_model import FAULTS, Schedule

pytestmark = pytest.mark.anyio
SEED = 7578
"""A schedule with every class of failure within its first requests."""


@pytest.fixture(autouse=True)
def own_surroundings(environment: None) -> Iterator[None]:
    """The campaign's own environment, over that of the other tests."""
    with surroundings():
        yield


async def test_A2_every_class_of_failure_ends_well_and_the_thread_goes_on() -> None:
    verdict = await Campaign(SEED, runs=60).play()
    assert len(verdict.runs) == 60
    assert [goal for goal, met in verdict.goals().items() if not met] == []
    seldom = {
        fault: verdict.injected[fault] for fault in (*FAULTS, *TOOL_FAULTS.values()) if not verdict.injected[fault]
    }
    assert not seldom, "never injected"
    ends = {run.end for run in verdict.runs}
    assert ends == {"answer", "handler", "question"}


async def test_A2_without_its_error_handler_the_agent_is_found_out() -> None:
    def unguarded(nodes: Nodes) -> StateGraph[Any, Any, Any, Any]:
        builder = build(nodes)
        builder.nodes["agent"] = replace(builder.nodes["agent"], error_handler_node=None)
        return builder

    verdict = await Campaign(SEED, runs=30, build=unguarded).play()
    assert verdict.raised
    assert verdict.ended_well < 0.9


async def test_A2_an_effect_that_happens_twice_is_found_out() -> None:
    def doubled() -> Toolbox:
        tools = failing_tools()
        once = tools["send_message"]

        @tool("send_message", args_schema=once.spec.args_schema)
        async def twice(recipient: str, body: str, idempotency_key: str) -> str:
            """Send, and send again."""
            for key in (idempotency_key, f"{idempotency_key} again"):
                outbox.put(outbox.Message(key, recipient, body))
            return "sent"

        return {**tools, "send_message": replace(once, spec=twice)}

    verdict = await Campaign(SEED, runs=30, rate=0.0, tools=doubled).play()
    assert verdict.repeated
    assert not verdict.raised


async def test_A2_an_agent_that_answers_something_else_is_found_out() -> None:
    class Shrugging(Nodes):
        async def agent(self, state: State, runtime: Runtime[Context]) -> dict[str, Any]:  # noqa: ARG002 - a fixed signature
            """Say something, whatever the model would."""
            return {"messages": [AIMessage("Whatever.")]}

    def shrugging(nodes: Nodes) -> StateGraph[Any, Any, Any, Any]:
        return build(Shrugging(tools_by_name=nodes.tools_by_name, model=nodes.model, limits=nodes.limits))

    verdict = await Campaign(SEED, runs=RUNS_EACH, build=shrugging).play()
    assert {run.end for run in verdict.runs} == {"bad"}
    assert len(verdict.stuck) == 1


def test_A2_a_schedule_is_the_same_for_its_seed_and_keeps_its_rate() -> None:
    def faults(seed: int) -> list[Any]:
        schedule = Schedule(seed, 0.3)
        return [schedule.fault(conversation, request) for conversation in range(50) for request in range(40)]

    assert faults(1) == faults(1) != faults(2)
    assert 0.27 < sum(fault is not None for fault in faults(1)) / 2_000 < 0.33
    assert set(faults(1)) == {None, *FAULTS}
