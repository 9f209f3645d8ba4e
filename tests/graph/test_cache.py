"""Answers that were given before: real Redis, LangGraph's own store, a service that counts how often it is asked."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from langgraph.store.memory import InMemoryStore
from llmock.scenarios import StreamFault
from prometheus_client import REGISTRY
from redis import Redis

from graph.cache import MemoryCache, Question
from graph.models import chat_model, close
from graph.state import Context
from tests.support.redis import redis_server

pytestmark = pytest.mark.anyio

COLD = Context(temperature=0.0)


@pytest.fixture(autouse=True)
async def connections() -> AsyncIterator[None]:
    """What a test connects ends with its event loop."""
    yield
    await close()


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_CACHE", "exact")


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Redis]:
    """A redis-server of this test's own, and a client that looks into it."""
    with redis_server(tmp_path) as url, Redis.from_url(url) as client:
        monkeypatch.setenv("MODEL_CACHE", "redis")
        monkeypatch.setenv("REDIS_URL", url)
        yield client


def by_words(texts: list[str]) -> list[list[float]]:
    """An embedding of a few words: texts with the same words are near, whatever their order."""
    words = ["what", "is", "a", "thread", "tell", "me", "about", "run"]
    return [[float(text.lower().split().count(word)) + 0.001 for word in words] for text in texts]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> InMemoryStore:
    monkeypatch.setenv("MODEL_CACHE", "semantic")
    return InMemoryStore(index={"dims": 8, "embed": by_words})


async def ask(text: str = "hello", context: Context = COLD, **how) -> AIMessage:
    return await chat_model(context, **how).ainvoke(text)


def lookups(outcome: str, cache: str = "exact") -> float:
    return REGISTRY.get_sample_value("agent_cache_lookups_total", {"cache": cache, "outcome": outcome}) or 0.0


async def test_A10_a_known_answer_is_streamed_in_pieces_and_costs_no_call(llmock, exact):
    llmock.reply("Good morning to you")
    hits, misses = lookups("hit"), lookups("miss")
    first = await ask()
    chunks = [chunk async for chunk in chat_model(COLD).astream("hello")]
    again = sum(chunks[1:], chunks[0])
    assert len(llmock.requests) == 1
    assert [chunk.text for chunk in chunks if chunk.content] == ["Good", " morning", " to", " you"]
    assert (again.text, again.usage_metadata) == (first.text, first.usage_metadata)
    assert again.response_metadata == {**first.response_metadata, "cached": True}
    assert "cached" not in first.response_metadata
    assert (lookups("hit") - hits, lookups("miss") - misses) == (1, 1)


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "globex"},
        {"context": Context(temperature=0.0, model="gpt-4.1")},
        {"text": "hello?"},
    ],
)
async def test_A10_another_tenant_model_or_text_is_another_question(llmock, exact, other):
    await ask(tenant="acme")
    await ask(**{"tenant": "acme", **other})
    assert len(llmock.requests) == 2
    await ask(tenant="acme")
    assert len(llmock.requests) == 2


async def test_A10_other_parameters_are_another_question(llmock, exact):
    model = chat_model(COLD)
    await model.ainvoke("hello", stop=["a"])
    await model.ainvoke("hello", stop=["b"])
    await model.bind(seed=1).ainvoke("hello")
    assert len(llmock.requests) == 3


async def test_A10_the_ids_of_messages_do_not_make_another_question(llmock, exact):
    model = chat_model(COLD)
    for number in ("1", "2"):
        await model.ainvoke([HumanMessage("hi", id=number), AIMessage("hi", id=f"a{number}"), HumanMessage("bye")])
    assert len(llmock.requests) == 1


@pytest.mark.parametrize("temperature", [None, 0.7])
async def test_A10_only_temperature_0_is_cached(llmock, exact, temperature):
    for _ in range(2):
        await ask(context=Context(temperature=temperature))
    assert len(llmock.requests) == 2


async def test_A10_nothing_is_cached_unless_asked_for(llmock):
    for _ in range(2):
        await ask()
    assert len(llmock.requests) == 2


async def test_A10_a_word_that_is_no_cache_is_refused(llmock, monkeypatch):
    monkeypatch.setenv("MODEL_CACHE", "yes")
    with pytest.raises(ValueError, match="MODEL_CACHE"):
        await ask()


@tool
def calculator(expression: str) -> str:
    """Work something out."""
    return expression


@pytest.mark.parametrize(("switch", "calls"), [("off", 2), ("on", 1)])
async def test_A10_calls_with_tools_are_cached_only_when_asked_for(llmock, exact, monkeypatch, switch, calls):
    monkeypatch.setenv("CACHE_TOOL_CALLS", switch)
    llmock.call_tool("calculator", {"expression": "6*7"}, times=2)
    answers = [await chat_model(COLD).bind_tools([calculator]).ainvoke("what is 6*7") for _ in range(2)]
    assert len(llmock.requests) == calls
    assert [[call["args"] for call in answer.tool_calls] for answer in answers] == [[{"expression": "6*7"}]] * 2


async def test_A10_an_answer_that_was_cut_short_is_not_kept(llmock, exact):
    llmock.add(StreamFault("truncate", after_chunks=3)).reply("a b c d e").reply("whole")
    with pytest.raises(ConnectionError):
        await ask()
    assert (await ask()).text == "whole"


async def test_A10_the_answer_of_a_stand_in_is_not_kept_for_the_model_that_was_asked(llmock, exact, monkeypatch):
    monkeypatch.setenv("FALLBACK_MODEL", "openai:cheap")
    llmock.fail(500).reply("cheap").reply("good")
    assert [(await ask()).text for _ in range(3)] == ["cheap", "good", "good"]


async def test_A10_an_answer_in_memory_grows_too_old_and_the_oldest_goes_first(monkeypatch):
    question = [Question.of([HumanMessage(str(number))], "", []) for number in range(1_001)]
    cache = MemoryCache(seconds=60.0)
    for asked in question:
        await cache.put(asked, "{}")
    assert await cache.get(question[0]) is None
    assert await cache.get(question[1]) == "{}"
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 61)
    assert await cache.get(question[1]) is None


async def test_A10_redis_keeps_answers_for_every_process_and_for_a_time(llmock, redis, monkeypatch):
    monkeypatch.setenv("CACHE_SECONDS", "50")
    llmock.reply("Good morning")
    await ask()
    await close()
    again = await ask()
    assert (again.text, again.response_metadata["cached"]) == ("Good morning", True)
    assert len(llmock.requests) == 1
    (key,) = redis.keys("cache:*")
    assert 40_000 < redis.pttl(key) <= 50_000


async def test_A10_what_redis_holds_and_is_no_answer_is_a_miss(llmock, redis):
    llmock.reply("one", times=None)
    await ask()
    (key,) = redis.keys("cache:*")
    for rubbish in ("not json", '{"type": "human", "data": {"content": "x"}}', '{"type": "evil"}'):
        redis.set(key, rubbish)
        assert "cached" not in (await ask()).response_metadata


async def test_A10_a_dead_redis_is_a_miss_and_is_left_alone_for_a_while(llmock, monkeypatch):
    monkeypatch.setenv("MODEL_CACHE", "redis")
    with socket.socket() as silent:
        # Takes connections and says nothing, which is worse than refusing them.
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{silent.getsockname()[1]}")
        errors = lookups("error", "redis")
        began = time.monotonic()
        for _ in range(5):
            await ask()
        assert len(llmock.requests) == 5
        assert time.monotonic() - began < 3.0
        assert lookups("error", "redis") - errors == 1


async def test_A10_a_question_that_means_the_same_has_the_same_answer(llmock, store):
    llmock.reply("A conversation.").reply("An execution.")
    assert (await ask("what is a thread", store=store)).text == "A conversation."
    chunks = [chunk async for chunk in chat_model(COLD, store=store).astream("a thread is what")]
    assert len([chunk for chunk in chunks if isinstance(chunk, AIMessageChunk) and chunk.content]) > 1
    assert sum(chunks[1:], chunks[0]).text == "A conversation."
    assert (await ask("what is a run", store=store)).text == "An execution."
    assert len(llmock.requests) == 2


async def test_A10_how_near_is_near_enough_can_be_set(llmock, store, monkeypatch):
    monkeypatch.setenv("CACHE_SIMILARITY", "0.5")
    await ask("what is a thread", store=store)
    await ask("what is a run", store=store)
    assert len(llmock.requests) == 1


async def test_A10_other_numbers_are_another_question_however_near(llmock, store):
    await ask("what is a thread 6", store=store)
    await ask("what is a thread 7", store=store)
    assert len(llmock.requests) == 2


async def test_A10_meaning_does_not_cross_tenants_or_conversations(llmock, store):
    await ask("what is a thread", store=store, tenant="acme.com")
    await ask("what is a thread", store=store, tenant="acme_com")
    talked = [HumanMessage("tell me"), AIMessage("what?"), HumanMessage("what is a thread")]
    await chat_model(COLD, store=store, tenant="acme.com").ainvoke(talked)
    assert len(llmock.requests) == 3


async def test_A10_a_store_without_an_index_finds_nothing_by_meaning(llmock, store):
    plain = InMemoryStore()
    for _ in range(2):
        await ask(store=plain)
    assert len(llmock.requests) == 2


async def test_A10_without_a_store_there_is_no_semantic_cache_and_no_failure(llmock, monkeypatch):
    monkeypatch.setenv("MODEL_CACHE", "semantic")
    for _ in range(2):
        await ask()
    assert len(llmock.requests) == 2
