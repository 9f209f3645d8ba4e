"""Answers that were given before: in memory, in Redis, or by meaning in the graph's store.

A cache never fails a call: what goes wrong here, or takes longer than PATIENCE, is a miss. A hit is streamed in pieces
like any answer, keeps the usage of the original and says `cached` in its `response_metadata`, so that whoever adds up
costs can tell.

Same question means: same tenant, model, parameters and messages (ids and what providers noted about older answers do
not count). By meaning, only the last message of a human may differ, and only in its words: all before it, and every
number in it, is the same. An embedding hardly tells "refund 10" from "refund 1000".
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

from langchain_core.messages import AIMessageChunk, BaseMessage, HumanMessage, message_to_dict, messages_from_dict
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.outputs.chat_generation import merge_chat_generation_chunks
from langgraph.store.base import NOT_PROVIDED, BaseStore

from graph.ledger import label
from graph.metrics import CACHE_LOOKUPS

PATIENCE = 1.0
REDIS_SECONDS = 0.25
REDIS_REST = 10.0
_MEMORY_SIZE = 1_000
_SENT = ("type", "content", "name", "tool_calls", "invalid_tool_calls", "tool_call_id", "status")
_PIECE = re.compile(r"\s*\S+|\s+$")
_UNFINISHED = ("length", "content_filter")

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """`key`: all that was asked. `scope`: the same without the words in `text`, the last message of a human."""

    tenant: str
    scope: str
    key: str
    text: str

    @classmethod
    def of(cls, messages: Sequence[BaseMessage], tenant: str, parameters: Any) -> Question:
        """The question that `messages` are to a model with `parameters` (JSON-like)."""
        # Not by pydantic, which takes longer for a conversation than all other layers together.
        *earlier, last = [{name: getattr(message, name, None) for name in _SENT} for message in messages]
        plain = isinstance(messages[-1], HumanMessage) and isinstance(messages[-1].content, str)
        text = str(messages[-1].text) if plain else ""
        scope = _digest([tenant, parameters, earlier, re.findall(r"\d+", text)])
        return cls(tenant, scope, _digest([scope, last]), text)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


class MemoryCache:
    """The last answers of this process."""

    kind = "exact"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._answers: dict[str, tuple[float, str]] = {}

    async def get(self, question: Question) -> str | None:
        """The answer, unless it is too old."""
        until, answer = self._answers.get(question.key, (0.0, None))
        return answer if time.monotonic() < until else None

    async def put(self, question: Question, answer: str) -> None:
        """Keep the answer, and forget the oldest."""
        self._answers[question.key] = (time.monotonic() + self._seconds, answer)
        if len(self._answers) > _MEMORY_SIZE:
            del self._answers[next(iter(self._answers))]


class RedisCache:
    """Answers shared by all replicas, in any Redis. One that does not answer is left alone for REDIS_REST seconds."""

    kind = "redis"

    def __init__(self, url: str, seconds: float) -> None:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        limits: dict[str, Any] = {"socket_timeout": REDIS_SECONDS, "socket_connect_timeout": REDIS_SECONDS}
        self.client = Redis.from_url(url, decode_responses=True, retry=Retry(NoBackoff(), 0), **limits)
        self._seconds = seconds
        self._rests_until = 0.0

    async def get(self, question: Question) -> str | None:
        """The answer, if Redis has it."""
        return cast("str | None", await self._ask(lambda: self.client.get(f"cache:{question.key}")))

    async def put(self, question: Question, answer: str) -> None:
        """Keep the answer for the set time."""
        await self._ask(lambda: self.client.set(f"cache:{question.key}", answer, px=int(self._seconds * 1_000)))

    async def _ask(self, command: Callable[[], Awaitable[Any]]) -> Any:
        if time.monotonic() < self._rests_until:
            return None
        try:
            return await command()
        except Exception:
            self._rests_until = time.monotonic() + REDIS_REST
            raise


class SemanticCache:
    """Answers to questions that mean nearly the same, in a LangGraph store with an index for search by meaning."""

    kind = "semantic"

    def __init__(self, store: BaseStore, seconds: float, similarity: float) -> None:
        self._store = store
        self._minutes = seconds / 60 if store.supports_ttl else NOT_PROVIDED
        self._similarity = similarity

    async def get(self, question: Question) -> str | None:
        """The answer to the nearest question, if that is near enough."""
        if not question.text:
            return None
        for found in await self._store.asearch(_namespace(question), query=question.text, limit=1):
            if (found.score or 0.0) >= self._similarity:
                return str(found.value["answer"])
        return None

    async def put(self, question: Question, answer: str) -> None:
        """Keep the answer under what was asked."""
        if question.text:
            value = {"question": question.text, "answer": answer}
            await self._store.aput(_namespace(question), question.key, value, ["question"], ttl=self._minutes)


def _namespace(question: Question) -> tuple[str, ...]:
    # The tenant is for people to find its answers; `scope` keeps tenants apart.
    return ("cache", label(question.tenant), question.scope)


Cache: TypeAlias = MemoryCache | RedisCache | SemanticCache
"""Where answers (JSON) are kept. `get` and `put` may raise anything, and may be slow."""


async def remembered(
    cache: Cache,
    question: Question,
    chunks: AsyncGenerator[ChatGenerationChunk],
    worth_keeping: Callable[[AIMessageChunk], bool],
) -> AsyncGenerator[ChatGenerationChunk]:
    """The known answer in pieces; or `chunks`, which are kept once they are whole and `worth_keeping`."""
    async with aclosing(chunks):
        if known := await _look_up(cache, question):
            for chunk in _pieces(known):
                yield chunk
            return
        said: list[ChatGenerationChunk] = []
        async for chunk in chunks:
            said.append(chunk)
            yield chunk
    answer = _whole(said)
    if worth_keeping(answer) and answer.response_metadata.get("finish_reason") not in _UNFINISHED:
        await _guarded(cache, cache.put(question, json.dumps(message_to_dict(answer))))


async def _look_up(cache: Cache, question: Question) -> AIMessageChunk | None:
    async def read() -> AIMessageChunk | None:
        answer = await cache.get(question)
        message = messages_from_dict([json.loads(answer)])[0] if answer else None
        CACHE_LOOKUPS.labels(cache.kind, "hit" if message else "miss").inc()
        return message if isinstance(message, AIMessageChunk) else None

    return await _guarded(cache, read())


async def _guarded(cache: Cache, action: Awaitable[T]) -> T | None:
    try:
        async with asyncio.timeout(PATIENCE):
            return await action
    except Exception as error:  # noqa: BLE001 - a cache saves work; it must not cost an answer
        log.warning("the %s cache did not answer: %s", cache.kind, type(error).__name__)
        CACHE_LOOKUPS.labels(cache.kind, "error").inc()
        return None


def _whole(said: list[ChatGenerationChunk]) -> AIMessageChunk:
    merged = merge_chat_generation_chunks(said)
    assert merged is not None, "an endpoint that says nothing has failed"
    told = {**(merged.generation_info or {}), **merged.message.response_metadata}
    return cast("AIMessageChunk", merged.message.model_copy(update={"id": None, "response_metadata": told}))


def _pieces(answer: AIMessageChunk) -> Iterator[ChatGenerationChunk]:
    text = answer.content if isinstance(answer.content, str) else ""
    for piece in _PIECE.findall(text):
        yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
    told = {**answer.response_metadata, "cached": True}
    rest = answer.model_copy(update={"content": "" if text else answer.content, "response_metadata": told})
    yield ChatGenerationChunk(message=rest)
