"""What outlives a run: the endpoints of models, with their breakers, limits, turns and connections.

All of it is on one `Switchboard` per event loop, because locks and connections belong to a loop, and per set of
settings, so that a changed environment begins anew.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeAlias, TypeVar

import httpx
from aiolimiter import AsyncLimiter
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.messages.utils import count_tokens_approximately
from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import CLOSED, HALF_OPENED, OPENED
from purgatory.service._async.circuitbreaker import AsyncCircuitBreaker
from pydantic import SecretStr

from graph.cache import Cache, MemoryCache, RedisCache
from graph.errors import POLICIES, classify
from graph.metrics import BREAKER_STATE, MODEL_CALLS
from graph.standin import OfflineStandIn

OPENAI, OFFLINE = "openai", "offline"
_CLIENTS = 64

Pool: TypeAlias = tuple["Endpoint", ...]
V = TypeVar("V", int, float, str)


class BreakerOpenError(Exception):
    """Nothing was called: the endpoint rests after failures, for some seconds more (as a Retry-After of a 503)."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no model may be called: too many failures in a row; the next try is in {seconds:.1f} s")
        self.seconds = seconds
        self.response = httpx.Response(503, headers={"retry-after": f"{seconds:.1f}"})


def _variable(name: str, default: V) -> V:
    kind = type(default)
    return field(default_factory=lambda: kind(os.environ.get(name) or default))


@dataclass(frozen=True, slots=True)
class Settings:
    """The numbers and switches of the table above, read from the environment when this is made."""

    requests_per_minute: float = _variable("MODEL_RPM", 0.0)
    tokens_per_minute: float = _variable("MODEL_TPM", 0.0)
    at_once: int = _variable("MODEL_CONCURRENCY", 0)
    idle: float = _variable("MODEL_IDLE_SECONDS", 30.0)
    failures: int = _variable("BREAKER_FAILURES", 10)
    rest: float = _variable("BREAKER_SECONDS", 30.0)
    probes: int = _variable("BREAKER_PROBES", 1)
    cache: str = _variable("MODEL_CACHE", "off")
    redis_url: str = _variable("REDIS_URL", "redis://localhost:6379")
    cache_seconds: float = _variable("CACHE_SECONDS", 3_600.0)
    cache_similarity: float = _variable("CACHE_SIMILARITY", 0.95)
    cache_tool_calls: str = _variable("CACHE_TOOL_CALLS", "off")
    offline_pause: float = _variable("OFFLINE_TOKEN_SECONDS", 0.0)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One way to one model. `name` is its label everywhere, so it comes from the environment, never from a run."""

    name: str
    provider: str
    model: str
    key: str = field(default="", repr=False)
    url: str = ""

    def connect(self, temperature: float | None, settings: Settings) -> BaseChatModel:
        """The provider's own chat model. Slow the first time: imports an SDK, reads certificates."""
        if self.provider == OFFLINE:
            return OfflineStandIn(token_seconds=settings.offline_pause, streaming=True)
        if self.provider != OPENAI:
            from langchain.chat_models import init_chat_model

            name = f"{self.provider}:{self.model}" if self.provider else self.model
            return init_chat_model(name, temperature=temperature, max_retries=0)
        from langchain_openai import ChatOpenAI

        return ChatOpenAI(
            model=self.model,
            api_key=SecretStr(self.key) if self.key else None,
            base_url=self.url or None,
            temperature=temperature,
            streaming=True,
            stream_usage=True,
            timeout=settings.idle,
            stream_chunk_timeout=None,
            max_retries=0,
            # What "OpenAI-compatible" servers have in common is the chat completions API.
            use_responses_api=False,
        )


class Line:
    """The breaker of an endpoint, with a limit on probes: purgatory's lets everybody through once it is half open."""

    def __init__(self, name: str, breaker: AsyncCircuitBreaker, probes: int) -> None:
        self._name = name
        self._breaker = breaker
        self._probes = max(1, probes)
        self._probing = 0

    def check(self) -> None:
        """Raises BreakerOpenError if the endpoint may not be called now."""
        circuit = self._breaker.context
        left = (circuit.opened_at or 0.0) + circuit.ttl - time.time()
        if circuit.state == OPENED and left >= 0:
            self._refuse(left)
        if circuit.state != CLOSED and self._probing >= self._probes:
            self._refuse(1.0)

    def _refuse(self, seconds: float) -> None:
        MODEL_CALLS.labels(self._name, "open").inc()
        raise BreakerOpenError(seconds)

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        """A call, which succeeds, fails, or says nothing about the endpoint: a bad request, a cancellation.

        The breaker would count the last as a success or a failure if it were left by `async with`.
        """
        self.check()
        probe = self._breaker.context.state != CLOSED
        self._probing += probe
        outcome = "cancelled"
        try:
            await self._breaker.__aenter__()
            yield
            await self._breaker.__aexit__(None, None, None)
            outcome = "ok"
        except Exception as error:
            outcome = classify(error)
            if POLICIES[outcome].elsewhere:
                await self._breaker.__aexit__(type(error), error, None)
            raise
        finally:
            self._probing -= probe
            MODEL_CALLS.labels(self._name, outcome).inc()
            BREAKER_STATE.labels(self._name).set((CLOSED, HALF_OPENED, OPENED).index(self._breaker.context.state))


class Limits:
    """What a provider may be asked. The lock makes it first come, first served: a limiter prefers small amounts."""

    def __init__(self, settings: Settings) -> None:
        per_minute = (settings.requests_per_minute, settings.tokens_per_minute)
        self._requests, self._tokens = (AsyncLimiter(rate, 60) if rate else None for rate in per_minute)
        self._slots: AbstractAsyncContextManager[Any] = (
            asyncio.Semaphore(settings.at_once) if settings.at_once else nullcontext()
        )
        self._queue = asyncio.Lock()
        self._owed = 0.0

    @asynccontextmanager
    async def turn(self, messages: Sequence[BaseMessage]) -> AsyncIterator[Callable[[int], None]]:
        """Wait for a turn. It is called back with the tokens that were really used; the next in line pay the rest."""
        estimate = 0
        async with self._slots:
            async with self._queue:
                if self._requests:
                    await self._requests.acquire()
                if self._tokens:
                    estimate = count_tokens_approximately(messages)
                    paid = min(estimate + self._owed, self._tokens.max_rate)
                    await self._tokens.acquire(paid)
                    self._owed = max(0.0, self._owed + estimate - paid)

            def settle(used: int) -> None:
                self._owed += max(0, used - estimate)

            yield settle


class Switchboard:
    """What outlives a run, for one event loop and one set of settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.limits: defaultdict[str, Limits] = defaultdict(lambda: Limits(settings))
        self.cache = _process_cache(settings)
        self._breakers = AsyncCircuitBreakerFactory(settings.failures, settings.rest)
        self._lines: dict[str, Line] = {}
        self._turns: defaultdict[str, Iterator[int]] = defaultdict(count)
        self._connecting = asyncio.Lock()
        self._clients: dict[tuple[Endpoint, float | None], BaseChatModel] = {}

    @classmethod
    def current(cls, settings: Settings) -> Switchboard:
        """The one of the running event loop."""
        loop = asyncio.get_running_loop()
        if loop not in _boards:
            for over in [known for known in _boards if known.is_closed()]:
                del _boards[over]
        boards = _boards.setdefault(loop, {})
        return boards.get(settings) or boards.setdefault(settings, cls(settings))

    def in_turn(self, chain: Sequence[Pool]) -> Iterator[Endpoint]:
        """Every endpoint of the chain once; each pool begins with another one than last time."""
        for pool in chain:
            first = next(self._turns[pool[0].name]) % len(pool)
            yield from pool[first:] + pool[:first]

    async def line(self, endpoint: Endpoint) -> Line:
        """The line to an endpoint."""
        if endpoint.name not in self._lines:
            breaker = await self._breakers.get_breaker(endpoint.name)
            self._lines.setdefault(endpoint.name, Line(endpoint.name, breaker, self.settings.probes))
        return self._lines[endpoint.name]

    async def client(self, endpoint: Endpoint, temperature: float | None) -> BaseChatModel:
        """The provider's chat model, made once."""
        wanted = (endpoint, temperature)
        async with self._connecting:
            if wanted not in self._clients:
                if len(self._clients) >= _CLIENTS:
                    del self._clients[next(iter(self._clients))]
                self._clients[wanted] = await asyncio.to_thread(endpoint.connect, temperature, self.settings)
            return self._clients[wanted]

    async def close(self) -> None:
        """Close the connections to models and to Redis."""
        for client in self._clients.values():
            if sdk := getattr(client, "root_async_client", None):
                await sdk.close()
        if isinstance(self.cache, RedisCache):
            await self.cache.client.aclose()


_boards: dict[asyncio.AbstractEventLoop, dict[Settings, Switchboard]] = {}


async def close() -> None:
    """Close what the running event loop's models hold. Whoever asks a model after that begins anew."""
    for board in _boards.pop(asyncio.get_running_loop(), {}).values():
        await board.close()


def _process_cache(settings: Settings) -> Cache | None:
    match settings.cache:
        case "exact":
            return MemoryCache(settings.cache_seconds)
        case "redis":
            return RedisCache(settings.redis_url, settings.cache_seconds)
        case "off" | "semantic":
            return None
    raise ValueError(f"MODEL_CACHE is off, exact, redis or semantic, not {settings.cache!r}")
