"""Costs: real prices and a real store."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.store.memory import InMemoryStore

from graph import costs
from graph.costs import NOTHING, Place, Spending, plus, record, spent_by, standing, total
from graph.models import chat_model, close
from graph.state import Context

ADA = Place(user="ada@example.org", thread="t1", assistant="agent")


def answer(model: str | None, provider: str | None = "openai", /, read: int = 1_000, written: int = 100, **usage: Any):
    told = {"model_name": model, "model_provider": provider}
    numbers = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written, **usage}
    return AIMessage("ok", usage_metadata=numbers, response_metadata={k: v for k, v in told.items() if v})


def dollars(usd: float) -> Spending:
    return Spending(input_tokens=1, output_tokens=2, usd=usd, unknown=0)


# --- one call ---


def test_A12_a_known_model_costs_what_the_table_says():
    spending = spent_by(answer("gpt-4o-mini-2024-07-18"))
    assert spending == {"input_tokens": 1_000, "output_tokens": 100, "usd": pytest.approx(0.00021), "unknown": 0}


def test_A12_what_the_provider_had_cached_is_cheaper_and_reasoning_is_not_paid_twice():
    plain = spent_by(answer("gpt-4o-mini"))
    cached = spent_by(answer("gpt-4o-mini", input_token_details={"cache_read": 400}))
    thought = spent_by(answer("gpt-4o-mini", output_token_details={"reasoning": 60}))
    assert cached["usd"] == pytest.approx(0.00018)
    assert cached["input_tokens"] == 1_000
    assert thought == plain


def test_A12_what_the_provider_stores_has_its_own_price():
    written = {"cache_creation": 0, "ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": None}
    claude = spent_by(answer("claude-sonnet-4-5-20250929", "anthropic", input_token_details=written))
    assert claude["usd"] == pytest.approx((900 * 3.0 + 100 * 3.75 + 100 * 15.0) / 1_000_000)


@pytest.mark.parametrize(
    "unpriced",
    [
        answer("llama-of-our-own"),
        answer("gpt-4o-mini", "nobody"),
        answer(None),
        answer("gpt-4o-mini", input_token_details={"cache_read": 2_000}),
    ],
)
def test_A12_an_unknown_price_is_unknown_and_its_tokens_count(unpriced):
    assert spent_by(unpriced) == {"input_tokens": 1_000, "output_tokens": 100, "usd": 0.0, "unknown": 1}


def test_A12_an_answer_without_usage_is_unknown():
    assert spent_by(AIMessage("ok", response_metadata={"model_name": "gpt-4o-mini"})) == {**NOTHING, "unknown": 1}


def test_A12_an_answer_from_the_cache_costs_nothing():
    cached = answer("gpt-4o-mini")
    cached.response_metadata["cached"] = True
    assert spent_by(cached) == NOTHING


@pytest.mark.anyio
async def test_A12_the_offline_stand_in_is_free_and_known():
    spending = spent_by(await chat_model(Context()).ainvoke([HumanMessage("hello")]))
    assert spending["input_tokens"] > 0
    assert (spending["usd"], spending["unknown"]) == (0.0, 0)


@pytest.mark.anyio
async def test_A12_a_streamed_answer_of_a_real_client_is_priced(llmock):
    llmock.reply("Good morning to you")
    streamed = None
    model = chat_model(Context(model="gpt-4o-mini"))
    async for chunk in model.astream([HumanMessage("hello")]):
        streamed = chunk if streamed is None else streamed + chunk
    await close()
    spending = spent_by(streamed)
    assert spending["unknown"] == 0
    assert spending["usd"] == pytest.approx(
        (spending["input_tokens"] * 0.15 + spending["output_tokens"] * 0.6) / 1_000_000
    )
    assert spending["output_tokens"] > 0


def test_A12_prices_of_our_own_come_first_and_are_read_anew(monkeypatch, tmp_path):
    file = tmp_path / "prices.json"
    monkeypatch.setenv("PRICES_FILE", str(file))
    file.write_text('{"gpt-4o-mini": {"input": 10, "output": 100}, "llama-of-our-own": {"input": 0, "output": 0}}')
    assert spent_by(answer("gpt-4o-mini"))["usd"] == pytest.approx(0.02)
    assert spent_by(answer("llama-of-our-own"))["unknown"] == 0
    file.write_text('{"gpt-4o-mini": {"input": 20, "output": 100}}')
    assert spent_by(answer("gpt-4o-mini"))["usd"] == pytest.approx(0.03)
    assert spent_by(answer("llama-of-our-own"))["unknown"] == 1


@pytest.mark.parametrize(
    "content", [None, "{", '{"m": 3}', '{"m": {"input": -1, "output": 1}}', '{"m": {"input": 1}}', '{"m": {"in": 1}}']
)
def test_A12_a_prices_file_that_cannot_be_used_is_reported_and_leaves_the_table(monkeypatch, tmp_path, caplog, content):
    file = tmp_path / "prices.json"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("PRICES_FILE", str(file))
    assert spent_by(answer("gpt-4o-mini"))["usd"] == pytest.approx(0.00021)
    assert "PRICES_FILE cannot be used" in caplog.text


counts = st.integers(0, 10**6)
spendings = st.builds(Spending, input_tokens=counts, output_tokens=counts, usd=counts.map(float), unknown=counts)


@given(spendings, spendings, spendings)
def test_A12_sums_do_not_depend_on_their_order(a, b, c):
    assert plus(a, plus(b, c)) == plus(plus(c, a), b)
    assert plus(a, NOTHING) == a
    assert json.loads(json.dumps(a)) == a


# --- many calls ---


@pytest.mark.anyio
async def test_A12_a_run_is_counted_once_however_often_it_is_recorded():
    store = InMemoryStore()
    for usd in (1.0, 2.0, 2.0):
        await record(store, ADA, "run-1", dollars(usd))
    assert await total(store, {"run": "run-1"}) == dollars(2.0)


@pytest.mark.anyio
async def test_A12_totals_by_run_thread_user_and_assistant():
    store = InMemoryStore()
    places = [
        Place(user=user, thread=thread, assistant=assistant)
        for user, thread, assistant in itertools.product(("ada", "ada.b", "eve"), ("t1", "t2"), ("x", "y"))
    ]
    for number, place in enumerate(places):
        await record(store, place, f"run-{number}", dollars(2.0**number))

    def expected(**where: str) -> float:
        matching = [n for n, p in enumerate(places) if all(getattr(p, k) == v for k, v in where.items())]
        return sum(2.0**number for number in matching)

    for where in ({"user": "ada"}, {"user": "ada.b"}, {"thread": "t2"}, {"assistant": "x"}):
        assert (await total(store, where))["usd"] == expected(**where)
    assert (await total(store, {"user": "eve", "thread": "t1"}))["usd"] == expected(user="eve", thread="t1")
    assert (await total(store, {"run": "run-3"}))["usd"] == 8.0
    assert await total(store, {"user": "nobody"}) == NOTHING


@pytest.mark.anyio
async def test_A12_runs_at_the_same_time_lose_nothing_over_several_pages(monkeypatch):
    monkeypatch.setattr(costs, "_PAGE", 7)
    store = InMemoryStore()
    await asyncio.gather(*(record(store, ADA, f"run-{number}", dollars(1.0)) for number in range(21)))
    assert (await total(store, {"user": ADA.user}))["usd"] == 21.0


@pytest.mark.parametrize(
    ("usd", "limit", "expected"),
    [
        (7.99, 10.0, "ok"),
        (8.0, 10.0, "warn"),
        (9.99, 10.0, "warn"),
        (10.0, 10.0, "spent"),
        (99.0, None, "ok"),
        (0.0, 0.0, "spent"),
    ],
)
def test_A12_a_budget_warns_at_80_percent_and_is_spent_at_100(usd, limit, expected):
    assert standing(dollars(usd), limit) == expected
