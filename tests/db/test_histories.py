"""A page of history shows the same states as reading each of them by itself, in fewer walks."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from holdfast.db.checkpoints import FencedSaver
from holdfast.db.histories import HistorySaver
from holdfast.db.pool import Database

pytestmark = pytest.mark.anyio

CONFIG: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}, "recursion_limit": 100}


def _extended(log: list[Any], writes: list[list[Any]]) -> list[Any]:
    """Changes the list that it is given, as a careless reducer does."""
    for write in writes:
        log.extend(write)
    return log


def _joined(log: list[Any], writes: list[list[Any]]) -> list[Any]:
    return [*log, *(entry for write in writes for entry in write)]


class State(TypedDict, total=False):
    careless: Annotated[list[Any], DeltaChannel(_extended, snapshot_frequency=7)]
    whole: Annotated[list[Any], DeltaChannel(_joined, snapshot_frequency=1000)]
    plain: Annotated[list[Any], operator.add]


def _step(state: State) -> State:
    number = len(state["plain"])
    return {"careless": [number], "whole": [{"n": number}], "plain": [number]}


def _more(state: State) -> str:
    return "step" if len(state["plain"]) < 20 else END


GRAPH = StateGraph(State).add_node("step", _step).add_edge(START, "step").add_conditional_edges("step", _more)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """With a thread of forty checkpoints, of which the newest ones are a fork."""
    async with AsyncPostgresSaver.from_conn_string(database_url) as stock:
        graph = GRAPH.compile(checkpointer=stock)
        await graph.ainvoke({"plain": [], "careless": ["first"], "whole": []}, CONFIG)
        states = [state async for state in graph.aget_state_history(CONFIG)]
        await graph.aupdate_state(states[9].config, {"careless": ["forked"], "whole": ["forked"]}, as_node="step")
        await graph.ainvoke(None, CONFIG)
    opened = Database(database_url, size=4)
    await opened.open()
    yield opened
    await opened.close()


async def history(saver: FencedSaver, limit: int | None = None) -> list[Any]:
    graph = GRAPH.compile(checkpointer=saver)
    return [(state.config, state.values) async for state in graph.aget_state_history(CONFIG, limit=limit)]


async def test_a_page_shows_what_single_reads_show(database: Database) -> None:
    page = await history(HistorySaver(database))
    assert len(page) > 30
    reading = GRAPH.compile(checkpointer=FencedSaver(database))
    assert page == [(config, (await reading.aget_state(config)).values) for config, _ in page]


async def test_a_page_costs_one_walk_for_each_snapshot_that_it_passes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = []
    walk = FencedSaver.aget_delta_channel_history

    async def counted(self: FencedSaver, **asked: Any) -> Any:
        walks.append(asked)
        return await walk(self, **asked)

    monkeypatch.setattr(FencedSaver, "aget_delta_channel_history", counted)
    rows = await history(HistorySaver(database), limit=12)
    assert len(rows) == 12
    assert len(walks) <= 4
