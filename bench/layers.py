"""What the layers around the model cost: the offline stand-in bare, and through a `Model` (`python -m bench.layers`).

One call, and a whole run of the agent in this process (a question, a tool call, an answer; memory saver). CPU of the
process, not the clock. A model is made for each call, as the agent does.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from graph.agent import build
from graph.models import chat_model, close
from graph.nodes import Nodes
from graph.standin import OfflineStandIn
from graph.state import Context

CALLS = 200
ROUNDS = 5
ALL_LAYERS = {
    "MODEL_RPM": "1e9",
    "MODEL_TPM": "1e12",
    "MODEL_CONCURRENCY": "64",
    "MODEL_CACHE": "exact",
    "CACHE_TOOL_CALLS": "on",
}


async def cpu_per_call(make: Callable[..., BaseChatModel], words: int, salt: int) -> float:
    """Milliseconds of CPU for one answer of about `words` tokens."""
    began = time.process_time()
    for call in range(CALLS):
        # No two are the same, so that a cache is asked and told, but never saves the work.
        await make().ainvoke(f"{salt} {call} {'word ' * words}")
    return (time.process_time() - began) / CALLS * 1_000


async def cpu_per_run(make: Callable[..., BaseChatModel], words: int, salt: int) -> float:
    """Milliseconds of CPU for one run of the agent that is asked about so many words; two calls of the model."""
    agent = build(Nodes(model=make)).compile(checkpointer=InMemorySaver())
    began = time.process_time()
    for call in range(CALLS):
        given: Any = {"messages": [{"role": "user", "content": f"look up {salt} {call} {'word ' * words}"}]}
        config: RunnableConfig = {"configurable": {"thread_id": f"{salt} {call}"}}
        async for _ in agent.astream(given, config, stream_mode=["messages", "values"]):
            pass
    return (time.process_time() - began) / CALLS * 1_000


def bare_model(*_: Any, **__: Any) -> BaseChatModel:
    return OfflineStandIn(streaming=True)


def layered_model(context: Context | None = None, **asked: Any) -> BaseChatModel:
    return chat_model(replace(context or Context(), temperature=0.0), **asked)


async def compare(title: str, words: int, cpu: Callable[..., Awaitable[float]]) -> None:
    """Print one line: the best of several rounds, by turns, because a machine's speed changes."""
    rounds = [(await cpu(bare_model, words, salt), await cpu(layered_model, words, salt)) for salt in range(ROUNDS)]
    bare, layered = (min(figures) for figures in zip(*rounds, strict=True))
    added = layered - bare
    print(f"{title:20} {words:4} words: bare {bare:.2f} ms, layers add {added:.2f} ms ({added / bare:.0%})", flush=True)
    await close()


async def main() -> None:
    """The defaults, and then with every layer at work."""
    for title, settings in (("defaults", {}), ("all layers", ALL_LAYERS)):
        os.environ.update(settings)
        for words in (20, 200):
            await compare(f"{title}, a call", words, cpu_per_call)
        await compare(f"{title}, a run", 20, cpu_per_run)


if __name__ == "__main__":
    asyncio.run(main())
