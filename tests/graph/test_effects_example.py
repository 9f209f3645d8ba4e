"""The tool in docs/effects.md, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolCall
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.store.memory import InMemoryStore

[BLOCK] = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs" / "effects.md").read_text(), re.DOTALL)
ARGS = {"customer": "Ada", "cents": 500}


class Bank:
    def __init__(self) -> None:
        self.charged: list[tuple[str, int]] = []

    async def charge(self, customer: str, cents: int) -> str:
        self.charged.append((customer, cents))
        return f"receipt {len(self.charged)}"


@pytest.mark.anyio
async def test_the_documents_tool_charges_a_call_once_however_often_it_is_executed() -> None:
    assert len([line for line in BLOCK.splitlines() if line.strip()]) <= 10
    bank = Bank()
    said: dict[str, Any] = {"bank": bank, "__name__": "example"}
    exec(BLOCK, said)
    call = ToolCall(type="tool_call", name="charge", args=ARGS, id="call-1")
    asks = {"messages": [AIMessage("", id="asks", tool_calls=[call])]}
    built = StateGraph(MessagesState).add_node("tools", ToolNode([said["charge"]]))
    graph = built.add_edge(START, "tools").add_edge("tools", END).compile(InMemorySaver(), store=InMemoryStore())
    results = [await graph.ainvoke(asks, {"configurable": {"thread_id": "one"}}) for _ in range(2)]
    assert {result["messages"][-1].text for result in results} == {"receipt 1"}
    await graph.ainvoke(asks, {"configurable": {"thread_id": "another"}})
    assert bank.charged == [("Ada", 500)] * 2
