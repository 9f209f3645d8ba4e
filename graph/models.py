"""Which chat model answers, and what stands between it and the agent.

A `Model` is made for each run, which costs next to nothing; what outlives a run (breakers, limits, connections, whose
turn it is) is on the `Switchboard` of the event loop. A call goes through these layers, the outermost first:

1. **redaction**: personal data is hidden before anything else sees the prompt, and put back in what comes out;
2. **cache**: a known answer costs nothing (`cache.py`);
3. **routing and fallback**: the large model, or the small one for a simple question (`routing.model_size`); when that
   fails in a way that another might not (`Policy.elsewhere`), the other size, then FALLBACK_MODEL. Only until the first
   word is out: one stream never holds two answers;
4. **balancing**: the keys and URLs of one provider take turns;
5. **breaker**: an endpoint that failed several times in a row is left alone, without any call, until a probe succeeds;
6. **limits** of a provider: requests and tokens a minute, calls at once; who has to wait is served in order;
7. the provider's own chat model, which waits MODEL_IDLE_SECONDS for each piece of an answer, and has its retries off:
   LangGraph retries, where it can be seen.

The environment is read when a model is asked for, not when this is imported. Limits are those of one process.

| variable | |
|---|---|
| OPENAI_API_KEY | set = OpenAI, or any server that speaks the same API; several keys with commas take turns |
| OPENAI_BASE_URL | where that server is; several with commas go with the keys in order |
| OPENAI_MODEL | its model, default `gpt-4o-mini` |
| CHAT_MODEL | `provider:model` of another provider, through LangChain's `init_chat_model`; comes first |
| SMALL_MODEL, FALLBACK_MODEL | `provider:model`, or a model of the same provider; not set = none |
| MODEL_RPM, MODEL_TPM, MODEL_CONCURRENCY | limits of each provider; 0 (default) = none |
| MODEL_IDLE_SECONDS | silence of an OpenAI-compatible service that is a timeout (30); the node's limits hold for all |
| BREAKER_FAILURES, BREAKER_SECONDS, BREAKER_PROBES | failures in a row that open it (10), the rest after that (30), \
probes at once (1) |
| MODEL_CACHE | `off` (default), `exact`, `redis` (REDIS_URL) or `semantic` (the store, CACHE_SIMILARITY 0.95); only \
at temperature 0 |
| CACHE_SECONDS, CACHE_TOOL_CALLS | how long an answer is kept (3600); `on` = with tools on offer too |
| OFFLINE_TOKEN_SECONDS | the stand-in's pause before each token, default 0 |

With neither a key nor CHAT_MODEL, the offline stand-in answers. One conversation's own retries (8 attempts) do not open
a breaker. Everything that may go better elsewhere counts as a failure for it, rate limits too: an endpoint that answers
nothing but 429 is of no use, and asking on makes it worse.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk
from langgraph.store.base import BaseStore
from pydantic import Field, SkipValidation

from graph.cache import Cache, Question, SemanticCache, remembered
from graph.errors import POLICIES, AnswerCutShortError, classify, describe
from graph.guards import Redaction, Restorer
from graph.metrics import MODEL_TOKENS
from graph.standin import NAME, StreamingModel
from graph.state import Context, ModelSize
from graph.switchboard import OFFLINE, OPENAI, BreakerOpenError, Endpoint, Pool, Settings, Switchboard, close

__all__ = ["Model", "ModelFactory", "chat_model", "close"]

DEFAULT_MODEL = "gpt-4o-mini"

ModelFactory = Callable[..., BaseChatModel]
"""As `chat_model`."""
Chunks: TypeAlias = AsyncGenerator[ChatGenerationChunk]
_Spec: TypeAlias = tuple[str, str]


def chat_model(
    context: Context,
    *,
    tenant: str = "",
    store: BaseStore | None = None,
    redaction: Redaction | None = None,
    size: ModelSize = "large",
) -> BaseChatModel:
    """The model for a run. `size` is what its question needs, unless the run names a model itself.

    `tenant` keeps cached answers apart, `store` is where the semantic cache lives, `redaction` hides personal data.
    """
    chain = _chain(context, size)
    return Model(
        chain=chain,
        settings=Settings(),
        model=chain[0][0].model,
        temperature=context.temperature,
        tenant=tenant,
        store=store,
        redaction=redaction,
        streaming=True,
    )


def _chain(context: Context, size: ModelSize) -> tuple[Pool, ...]:
    env = os.environ.get
    if name := env("CHAT_MODEL"):
        large = _named(name, "")
    elif env("OPENAI_API_KEY"):
        large = (OPENAI, env("OPENAI_MODEL") or DEFAULT_MODEL)
    else:
        return ((Endpoint(OFFLINE, OFFLINE, NAME),),)
    provider = large[0]
    small, fallback = (_named(env(name), provider) for name in ("SMALL_MODEL", "FALLBACK_MODEL"))
    configured = (large, small, fallback)
    if context.model:
        large = (OPENAI, context.model) if provider == OPENAI else _named(context.model, provider)
    sizes = [small, large] if size == "small" and not context.model else [large, small]
    wanted = dict.fromkeys(spec for spec in [*sizes, fallback] if spec[1])
    return tuple(_pool(*spec, label=spec[1] if spec in configured else "other") for spec in wanted)


def _named(name: str | None, provider: str) -> _Spec:
    """The provider and the model in `provider:model`, or a model of `provider`."""
    head, colon, model = (name or "").partition(":")
    return (head, model) if colon else (provider, head)


def _pool(provider: str, model: str, label: str) -> Pool:
    name = f"{provider}:{label}".removeprefix(":")
    if provider != OPENAI:
        return (Endpoint(name, provider, model),)
    keys, urls = (os.environ.get(name, "").split(",") for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"))
    size = max(len(keys), len(urls))
    return tuple(
        Endpoint(
            f"{name}#{turn + 1}" if size > 1 else name,
            provider,
            model,
            key=keys[turn % len(keys)].strip(),
            url=urls[turn % len(urls)].strip(),
        )
        for turn in range(size)
    )


class Model(StreamingModel):
    """The models of a run as one: the layers of this module's text around them."""

    chain: SkipValidation[tuple[Pool, ...]] = Field(repr=False)
    settings: SkipValidation[Settings] = Field(repr=False)
    model: str
    temperature: float | None = None
    tenant: str = ""
    store: SkipValidation[BaseStore | None] = Field(None, repr=False)
    redaction: SkipValidation[Any] = Field(None, repr=False)

    @property
    def _llm_type(self) -> str:
        return "model-chain"

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, *_: Any, **options: Any
    ) -> Chunks:
        board = Switchboard.current(self.settings)
        if self.redaction:
            messages = self.redaction.hide(messages)
        options["stop"] = stop
        chunks = self._first_that_answers(board, messages, options)
        if cache := self._cache(board, options):
            asked = Question.of(messages, self.tenant, [repr(self.chain[0][0]), self.temperature, options])
            chunks = remembered(cache, asked, chunks, self._is_first_choice)
        if self.redaction:
            chunks = _restored(chunks, self.redaction)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def _first_that_answers(
        self, board: Switchboard, messages: list[BaseMessage], options: dict[str, Any]
    ) -> Chunks:
        failures: list[Exception] = []
        for endpoint in board.in_turn(self.chain):
            spoke = False
            try:
                async with aclosing(self._ask(board, endpoint, messages, options)) as chunks:
                    async for chunk in chunks:
                        spoke = True
                        yield chunk
            except Exception as error:  # noqa: BLE001 - whatever an SDK raises is classified
                failure_class = classify(error)
                error.add_note(f"{endpoint.name}: {describe(error, failure_class)}")
                failures.append(error)
                if spoke or not POLICIES[failure_class].elsewhere:
                    break
            else:
                return
        raise _most_telling(failures)

    async def _ask(
        self, board: Switchboard, endpoint: Endpoint, messages: list[BaseMessage], options: dict[str, Any]
    ) -> Chunks:
        line = await board.line(endpoint)
        line.check()
        client = await board.client(endpoint, self.temperature)
        # bind_tools and bind both give a binding: the provider's model, and the options in the provider's words.
        bound: Any = client.bind_tools(**options) if "tools" in options else client.bind(**options)
        async with board.limits[endpoint.provider].turn(messages) as settle, line.attempt():
            used = 0
            stream = bound.bound._astream(messages, **bound.kwargs)
            async with aclosing(_from_the_first_word(stream, endpoint)) as chunks:
                async for chunk in chunks:
                    used += _count_tokens(endpoint, chunk)
                    yield chunk
            settle(used)

    def _cache(self, board: Switchboard, options: dict[str, Any]) -> Cache | None:
        if options.get("temperature", self.temperature) != 0:
            return None
        if options.get("tools") and self.settings.cache_tool_calls != "on":
            return None
        if self.settings.cache == "semantic" and self.store is not None:
            return SemanticCache(self.store, self.settings.cache_seconds, self.settings.cache_similarity)
        return board.cache

    def _is_first_choice(self, answer: AIMessageChunk) -> bool:
        return answer.response_metadata.get("endpoint") in [endpoint.name for endpoint in self.chain[0]]


def _most_telling(failures: Sequence[Exception]) -> Exception:
    """The last failure of a call that was made; if every breaker was open, the one that closes first."""
    made = [failure for failure in failures if not isinstance(failure, BreakerOpenError)]
    chosen = made[-1] if made else min(failures, key=lambda failure: cast("BreakerOpenError", failure).seconds)
    for other in failures:
        if other is not chosen:
            chosen.add_note(other.__notes__[-1])
    return chosen


async def _from_the_first_word(stream: Chunks, endpoint: Endpoint) -> Chunks:
    """The stream, of which nothing is handed out before its first word, so that another model can still be asked.

    Raises AnswerCutShortError for a stream that ends without having said so.
    """
    held: list[ChatGenerationChunk] = []
    spoke = finished = False
    async with aclosing(stream):
        async for chunk in stream:
            finished = finished or "finish_reason" in (chunk.generation_info or {})
            if spoke:
                yield chunk
                continue
            held.append(chunk)
            if spoke := _says_something(chunk):
                for early in _signed(held, endpoint):
                    yield early
    # The OpenAI SDK takes a stream that just ends for a whole answer. Others name their reasons otherwise.
    if not (finished if endpoint.provider == OPENAI else held):
        raise AnswerCutShortError("the answer ended without a finish reason")
    if not spoke:
        for chunk in _signed(held, endpoint):
            yield chunk


def _says_something(chunk: ChatGenerationChunk) -> bool:
    message = cast("AIMessageChunk", chunk.message)
    return bool(message.content or message.tool_call_chunks or message.additional_kwargs)


def _signed(chunks: list[ChatGenerationChunk], endpoint: Endpoint) -> list[ChatGenerationChunk]:
    # Once, because the metadata of chunks are added up, and texts in them put behind each other.
    first = chunks[0].message
    first.response_metadata = {**first.response_metadata, "endpoint": endpoint.name}
    return chunks


def _count_tokens(endpoint: Endpoint, chunk: ChatGenerationChunk) -> int:
    usage = cast("AIMessageChunk", chunk.message).usage_metadata
    if usage is None:
        return 0
    MODEL_TOKENS.labels(endpoint.name, "input").inc(usage["input_tokens"])
    MODEL_TOKENS.labels(endpoint.name, "output").inc(usage["output_tokens"])
    return usage["total_tokens"]


async def _restored(chunks: Chunks, redaction: Redaction) -> Chunks:
    """The chunks with what was hidden put back, in the text and in the arguments of tool calls."""
    text = redaction.restorer()
    calls: defaultdict[int | None, Restorer] = defaultdict(lambda: redaction.restorer(as_json=True))
    async with aclosing(chunks):
        async for chunk in chunks:
            message = cast("AIMessageChunk", chunk.message)
            content = text.feed(message.content) if isinstance(message.content, str) else _fed(message.content, text)
            parts = [
                {**part, "args": calls[part["index"]].feed(part["args"] or "")} for part in message.tool_call_chunks
            ]
            # A new message, not a changed copy: `tool_calls` follow from the chunks when it is made.
            message = AIMessageChunk(**message.__dict__ | {"content": content, "tool_call_chunks": parts})
            yield ChatGenerationChunk(message=message, generation_info=chunk.generation_info)
    said = text.end()
    rest = [tool_call_chunk(args=held, index=index) for index, call in calls.items() if (held := call.end())]
    if said or rest:
        yield ChatGenerationChunk(message=AIMessageChunk(content=said, tool_call_chunks=rest))


def _fed(blocks: list[Any], text: Restorer) -> list[Any]:
    return [
        {**block, "text": text.feed(block["text"])} if isinstance(block, dict) and "text" in block else block
        for block in blocks
    ]
