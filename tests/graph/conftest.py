"""The agent on a checkpointer, the way a server runs it, and a model's service that can be broken on purpose."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.messages import AIMessageChunk, AnyMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph.state import CompiledStateGraph
from langgraph.store.base import BaseStore
from langgraph.types import Command, Interrupt
from llmock.testing import LLMockServer

from graph import outbox
from graph.agent import build
from graph.models import close
from graph.nodes import Limits, Nodes

QUICK = Limits(model=5.0, model_idle=5.0, first_backoff=0.001, quick_retry=0.001)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, nothing set for models, an empty outbox."""
    for name in os.environ:
        if name.startswith(("OPENAI_", "MODEL_", "BREAKER_", "CACHE_", "OFFLINE_")) or name.endswith("_MODEL"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OUTBOX_PATH", str(tmp_path / "outbox.sqlite3"))


@pytest.fixture
def llmock_server() -> Iterator[LLMockServer]:
    """One server per test: the OpenAI SDK keeps connections of a base URL, and with them a test's event loop."""
    with LLMockServer() as server:
        yield server


@pytest.fixture
def saver() -> BaseCheckpointSaver[Any]:
    """A checkpointer that refuses every type that strict msgpack does not know."""
    return InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None))


@dataclass
class Conversation:
    """One thread of an agent, and what a client does with it."""

    agent: CompiledStateGraph[Any, Any, Any, Any]
    thread_id: str = "thread-1"
    context: Any = None
    streamed: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def config(self) -> RunnableConfig:
        return {"configurable": {"thread_id": self.thread_id}}

    async def run(self, given: Any, config: RunnableConfig | None = None) -> None:
        self.streamed.clear()
        async for chunk in self.agent.astream(
            given,
            {**(config or self.config), "run_id": uuid4()},
            stream_mode=["messages", "updates", "custom"],
            context=self.context,
        ):
            self.streamed.append(chunk)

    async def say(self, text: str) -> None:
        await self.run({"messages": [{"role": "user", "content": text}]})

    async def answer(self, decision: Any) -> None:
        """Answer the first pending question, by its id."""
        (question, *_) = await self.questions()
        await self.run(Command(resume={question.id: decision}))

    async def decide(self, kind: str, **extra: Any) -> None:
        await self.answer({"decisions": [{"type": kind, **extra}]})

    async def questions(self) -> list[Interrupt]:
        return list((await self.agent.aget_state(self.config)).interrupts)

    async def state(self) -> dict[str, Any]:
        return dict((await self.agent.aget_state(self.config)).values)

    async def messages(self) -> list[AnyMessage]:
        return list((await self.state())["messages"])

    async def last_words(self) -> str:
        return (await self.messages())[-1].text

    async def results(self) -> list[ToolMessage]:
        return [message for message in await self.messages() if isinstance(message, ToolMessage)]

    def tokens(self) -> list[AIMessageChunk]:
        """The model's chunks of the latest run, in order."""
        messages = [chunk for mode, chunk in self.streamed if mode == "messages"]
        return [message for message, _ in messages if isinstance(message, AIMessageChunk)]

    def nodes_run(self) -> list[str]:
        return [
            name for mode, chunk in self.streamed if mode == "updates" for name in chunk if not name.startswith("__")
        ]


@pytest.fixture
async def talk(saver: BaseCheckpointSaver[Any]) -> AsyncIterator[Callable[..., Conversation]]:
    """Start a conversation: `talk(tools_by_name=..., limits=...)` are the fields of `Nodes`, `store` the graph's."""

    def start(store: BaseStore | None = None, **parts: Any) -> Conversation:
        nodes = Nodes(**{"limits": QUICK, **parts})
        return Conversation(build(nodes).compile(checkpointer=saver, store=store))

    yield start
    # The SDK keeps its connections for the process; here they end with the test's event loop.
    await close()


@pytest.fixture
def sent() -> Callable[[], list[tuple[str, str]]]:
    """What is in the outbox: (recipient, body)."""
    return lambda: [(message.recipient, message.body) for message in outbox.sent()]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
