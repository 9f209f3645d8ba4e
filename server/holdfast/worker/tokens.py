"""The model's messages on their way out, without the detour over the graph's queue.

LangGraph's `messages` mode puts every token into the queue of `astream` and wakes whoever reads it: a task made and
waited for, and a byte through a pipe, for each. Its own handler does not need the queue; it calls whatever it is given.
So where nothing of subgraphs is streamed, the handler is given to the run as a callback and calls the journal.

Two things are then ours to do. LangGraph takes handlers that stream one graph only away from every graph that begins at
the root, as its own are put in later: ours says so once the run has begun. And a model that a node calls in a thread
speaks there.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from langgraph.pregel._messages import StreamMessagesHandler


class Tokens(StreamMessagesHandler):
    """Tells `say` of the messages of one graph, each with its metadata, on the event loop that made this."""

    def __init__(self, say: Callable[[tuple[Any, Any]], None]) -> None:
        super().__init__(_at_home(say), subgraphs=True, parent_ns=())

    def on_chain_start(self, *args: Any, **kwargs: Any) -> Any:
        self.subgraphs = False
        return super().on_chain_start(*args, **kwargs)


def _at_home(say: Callable[[tuple[Any, Any]], None]) -> Callable[[tuple[Any, ...]], None]:
    """`say` for the message in what LangGraph streams, called on this event loop whoever calls.

    No method of the handler, which would be garbage in a circle with all that the run has made.
    """
    loop, home = asyncio.get_running_loop(), threading.get_ident()

    def put(part: tuple[Any, ...]) -> None:
        _, _, message = part
        if threading.get_ident() == home:
            say(message)
        else:
            loop.call_soon_threadsafe(say, message)

    return put
