"""What the layers around the model cost: the offline stand-in bare, and through a `Model` (`python -m bench.layers`).

CPU of the process, not the clock. A model is made for each call, as the agent does.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from langchain_core.language_models import BaseChatModel

from graph.models import chat_model, close
from graph.standin import OfflineStandIn
from graph.state import Context

CALLS = 300
ROUNDS = 5
ALL_LAYERS = {"MODEL_RPM": "1e9", "MODEL_TPM": "1e12", "MODEL_CONCURRENCY": "64", "MODEL_CACHE": "exact"}


async def cpu_per_call(make: Callable[[], BaseChatModel], words: int, salt: int) -> float:
    """Milliseconds of CPU for one answer of about `words` tokens."""
    began = time.process_time()
    for call in range(CALLS):
        # No two are the same, so that a cache is asked and told, but never saves the work.
        await make().ainvoke(f"{salt} {call} {'word ' * words}")
    return (time.process_time() - began) / CALLS * 1_000


async def compare(title: str, words: int) -> None:
    """Print one line: the best of several rounds, by turns, because a machine's speed changes."""
    rounds = [
        (
            await cpu_per_call(lambda: OfflineStandIn(streaming=True), words, salt),
            await cpu_per_call(lambda: chat_model(Context(temperature=0.0)), words, salt),
        )
        for salt in range(ROUNDS)
    ]
    bare, layered = (min(figures) for figures in zip(*rounds, strict=True))
    added = layered - bare
    print(f"{title:12} {words:4} words: bare {bare:.2f} ms, layers add {added:.2f} ms ({added / bare:.0%})")
    await close()


async def main() -> None:
    """The defaults, and then with every layer at work."""
    for words in (20, 200):
        await compare("defaults", words)
    os.environ.update(ALL_LAYERS)
    for words in (20, 200):
        await compare("all layers", words)


if __name__ == "__main__":
    asyncio.run(main())
