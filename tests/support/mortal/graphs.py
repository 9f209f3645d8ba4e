"""The reference agent with a tool that hangs, the first time in each thread, until its process is killed.

A message to Ada hangs after it was sent, before anybody knows; one to Bob when the ledger knows and the checkpointer
does not yet. SENT is the file of the messages that were sent, one line each; beside it is a file for each that hangs.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.runtime import Runtime

from graph.agent import build
from graph.nodes import Nodes
from graph.state import Context
from graph.tools import AgentTool, standard_tools


async def _hang(thread: str) -> None:
    if await asyncio.to_thread(_first_time, thread):
        await asyncio.Event().wait()


def _first_time(thread: str) -> bool:
    try:
        Path(f"{os.environ['SENT']}.{thread}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _send(line: str) -> None:
    with Path(os.environ["SENT"]).open("a") as sent:
        sent.write(line)


@tool
async def send_message(recipient: str, body: str, config: RunnableConfig) -> str:
    """Send a message to somebody who notices no key."""
    thread = config["configurable"]["thread_id"]
    await asyncio.to_thread(_send, f"{thread} {recipient} {body}\n")
    if recipient == "Ada":
        await _hang(thread)
    return f"Sent to {recipient}."


class MortalNodes(Nodes):
    async def tools(self, state: Any, runtime: Runtime[Context]) -> dict[str, Any]:
        update = await super().tools(state, runtime)
        if state["call"]["args"]["recipient"] == "Bob":
            await _hang(str(runtime.execution_info and runtime.execution_info.thread_id))
        return update


agent = build(
    MortalNodes({**standard_tools(), "send_message": AgentTool(send_message, approval="always", if_unknown="ask")})
)
