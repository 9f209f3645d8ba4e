"""A server as the client process sees it: connections, threads, and what runs on this wire look like."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import uuid4

from bench.client import Connection

T = TypeVar("T")
CREATING_CLIENTS = 16


@dataclass
class Site:
    """One server. `rates` remembers what it managed of each kind of work, in runs per second; `conversations` the
    threads of those that go on from one play to the next."""

    url: str
    rates: dict[str, float] = field(default_factory=dict)
    conversations: dict[str, str] = field(default_factory=dict)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        connection = Connection(self.url)
        try:
            yield connection
        finally:
            await connection.close()

    async def each(self, clients: int, things: Sequence[T], act: Callable[[Connection, T], Awaitable[None]]) -> None:
        """Do something with every thing, with so many clients at a time."""
        waiting = iter(things)

        async def client() -> None:
            async with self.connection() as connection:
                for thing in waiting:
                    await act(connection, thing)

        await asyncio.gather(*(client() for _ in range(min(clients, len(things)))))

    async def threads(self, count: int) -> list[str]:
        """New threads."""
        made: list[str] = []

        async def create(connection: Connection, _: int) -> None:
            made.append(str((await connection.ask("POST", "/threads", {})).json()["thread_id"]))

        await self.each(CREATING_CLIENTS, range(count), create)
        return made


async def loop(
    site: Site, clients: int, seconds: float, things: list[T], act: Callable[[Connection, T], Awaitable[None]]
) -> float:
    """Clients that do one thing after the other, each at least one, until time or things are used up.

    What is under way at the end is finished; the seconds until then.
    """
    began = time.perf_counter()

    async def client() -> None:
        async with site.connection() as connection:
            while things:
                await act(connection, things.pop())
                if time.perf_counter() - began > seconds:
                    return

    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - began


def conversation(
    text: str = "hello", *, graph: str = "agent", tokens: int = 200, pace: float = 0.0, **asked: Any
) -> dict[str, Any]:
    """The body of a run: a turn whose final answer has so many tokens, one every `pace` seconds."""
    said = {"role": "user", "content": text, "id": str(uuid4())}
    configurable = {"tokens": tokens, "pace": pace}
    return {"assistant_id": graph, "input": {"messages": [said]}, "config": {"configurable": configurable}, **asked}


def streamed(text: str = "hello", **asked: Any) -> dict[str, Any]:
    """The same as a stream of the model's messages."""
    return conversation(text, stream_mode=["messages-tuple"], **asked)
