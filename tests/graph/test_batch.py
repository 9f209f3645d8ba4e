"""Many inputs at once, in process and over HTTP: each has its own outcome. The code is that of docs/agent.md."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import tool
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import InvalidUpdateError
from langgraph_sdk import get_client

from graph.agent import build
from graph.nodes import Nodes
from graph.tools import AgentTool, standard_tools
from tests.support.server import Elsewhere

pytestmark = pytest.mark.anyio
DOCUMENT = (Path(__file__).parents[2] / "docs" / "agent.md").read_text()


def documented(name: str) -> Callable[..., Awaitable[Any]]:
    """A function as it stands in docs/agent.md."""
    [block] = re.findall(rf"```python\n(async def {name}\(.*?)```", DOCUMENT, re.DOTALL)
    said: dict[str, Any] = {}
    exec(block, said)
    function: Callable[..., Awaitable[Any]] = said[name]
    return function


def human(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


async def test_A19_every_input_of_a_batch_has_an_outcome_of_its_own(saver: BaseCheckpointSaver[Any]) -> None:
    inputs = [
        human("what is 6 * 7"),
        {"messages": [42]},
        human("send hello to Ada"),
        "nonsense",
        human("what is 1 + 1"),
    ]
    agent = build().compile(checkpointer=saver)
    summed, refused, asks, broken, last = await documented("in_bulk")(agent, inputs, 2)
    assert (summed[0], refused[0], asks[0], broken[0], last[0]) == (
        "answered",
        "gave up",
        "asks",
        "could not be run",
        "answered",
    )
    assert "6 * 7 = 42" in summed[1]
    assert refused[1] == "business_validation"
    assert asks[1][0].value["action_requests"][0]["name"] == "send_message"
    assert isinstance(broken[1], InvalidUpdateError)
    assert "1 + 1 = 2" in last[1]


async def test_A19_a_batch_runs_as_many_inputs_at_once_as_it_may(saver: BaseCheckpointSaver[Any]) -> None:
    under_way, most, gate = 0, 0, asyncio.Event()

    @tool
    async def calculator(expression: str) -> str:
        """Wait for a second caller, once, and count how many there are."""
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == 2:
            gate.set()
        await gate.wait()
        under_way -= 1
        return "42"

    tools = {**standard_tools(), "calculator": AgentTool(calculator)}
    agent = build(Nodes(tools_by_name=tools)).compile(checkpointer=saver)
    outcomes = await documented("in_bulk")(agent, [human(f"what is {number} + 1") for number in range(8)], 2)
    assert most == 2
    assert [kind for kind, _ in outcomes] == ["answered"] * 8
    assert [f"{number} + 1 = 42" in answer for number, (_, answer) in enumerate(outcomes)] == [True] * 8


async def test_A19_every_run_of_a_batch_over_http_has_an_outcome_of_its_own(server: Elsewhere) -> None:
    async with get_client(url=server.url) as client:
        inputs = [human("one"), {"messages": []}, human("two")]
        first, broken, last = await documented("in_bulk_over_http")(client, "echo", inputs)
    assert [status for status, _ in (first, broken, last)] == ["success", "error", "success"]
    assert [values["messages"][-1]["content"] for _, values in (first, last)] == ["you said: one", "you said: two"]
    assert broken[1]["__error__"]["error"] == "IndexError"
