"""The map-reduce example: parts at once, joined in order, failures told apart."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.runtime import Runtime

from graph import mapreduce
from graph.models import chat_model, close
from graph.state import Context

pytestmark = pytest.mark.anyio
ON_A_THREAD: Any = {"configurable": {"thread_id": "thread-1"}}


@pytest.fixture
async def steps() -> AsyncIterator[mapreduce.Steps]:
    yield mapreduce.Steps(chat_model)
    await close()


@pytest.fixture
def summarize(saver: BaseCheckpointSaver[Any], steps: mapreduce.Steps) -> Callable:
    agent = mapreduce.build(steps).compile(checkpointer=saver)

    async def run(text: Any) -> dict[str, Any]:
        return await agent.ainvoke({"text": text}, ON_A_THREAD)

    return run


def prompts(llmock: Any) -> list[str]:
    return [request.body["messages"][-1]["content"].partition("\n\n")[2] for request in llmock.requests]


async def test_A14_parts_run_at_once_and_are_joined_in_their_order(summarize: Callable, llmock: Any) -> None:
    """The first part's answer is held back until the others are there."""
    llmock.delay(0.5)
    for _ in range(3):
        llmock.reply("a part")
    llmock.reply("the whole")
    assert await summarize(["one", "two", "three"]) == {"summary": "the whole", "failed": []}
    assert sorted(prompts(llmock)[:3]) == ["one", "three", "two"]
    starts = [request.started_at for request in llmock.requests[:3]]
    ends = [request.ended_at for request in llmock.requests[:3]]
    assert max(starts) < max(ends)


async def test_A14_summaries_that_come_in_any_order_are_joined_in_the_order_of_the_text(
    steps: mapreduce.Steps, llmock: Any
) -> None:
    llmock.reply("the whole")
    outcomes: list[mapreduce.Outcome] = [
        {"part": 2, "summary": "c"},
        {"part": 3, "error": "timeout"},
        {"part": 0, "summary": "a"},
        {"part": 1, "summary": "b"},
    ]
    state: Any = {"text": "", "outcomes": outcomes}
    answer = await steps.combine(state, Runtime(context=Context()))
    assert answer == {"summary": "the whole", "failed": [{"part": 3, "error": "timeout"}]}
    assert prompts(llmock) == ["a\n\nb\n\nc"]


async def test_A19_a_failed_part_is_told_apart_and_costs_only_itself(summarize: Callable, llmock: Any) -> None:
    llmock.fail(401).reply("one of them").reply("another").reply("the whole")
    answer = await summarize(["one", "two", "three"])
    assert answer["summary"] == "the whole"
    (failed,) = answer["failed"]
    assert failed["error"] == "auth"
    told = dict(zip(["one", "two", "three"], range(3), strict=True))
    assert told[prompts(llmock)[0]] == failed["part"]
    assert len(llmock.requests) == 4
    assert set(prompts(llmock)[3].split("\n\n")) == {"one of them", "another"}


async def test_A19_where_nothing_worked_that_is_said(summarize: Callable, llmock: Any) -> None:
    llmock.fail(401, times=None)
    answer = await summarize(["one", "two"])
    assert answer["summary"] == "There was nothing that could be summarised."
    assert answer["failed"] == [{"part": 0, "error": "auth"}, {"part": 1, "error": "auth"}]


async def test_A14_a_dropped_connection_costs_no_part(summarize: Callable, llmock: Any) -> None:
    llmock.disconnect(after_chunks=1).reply("cut in the middle").reply("whole")
    assert await summarize(["one"]) == {"summary": "whole", "failed": []}


async def test_A14_a_text_is_cut_into_parts(summarize: Callable, llmock: Any) -> None:
    paragraphs = [letter * 3_000 for letter in "abc"]
    for text in ("a part", "a part", "a part", "the whole"):
        llmock.reply(text)
    assert (await summarize("\n\n".join(paragraphs)))["summary"] == "the whole"
    assert sorted(prompts(llmock)[:3]) == paragraphs


async def test_A14_a_second_run_of_the_thread_starts_afresh(summarize: Callable, llmock: Any) -> None:
    llmock.fail(401).reply("x").reply("second")
    assert (await summarize(["one", "two"]))["failed"]
    assert await summarize(["three"]) == {"summary": "second", "failed": []}
    assert len(llmock.requests) == 3


@pytest.mark.parametrize("nothing", ["", "  \n", []])
async def test_A14_nothing_is_no_reason_to_ask_a_model(summarize: Callable, llmock: Any, nothing: Any) -> None:
    assert (await summarize(nothing))["summary"] == "There was nothing that could be summarised."
    assert llmock.requests == []
