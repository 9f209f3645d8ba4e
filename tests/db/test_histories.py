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
from langgraph.types import Command, Overwrite
from typing_extensions import TypedDict

from holdfast.db import checkpoints, lineages
from holdfast.db.checkpoints import FencedSaver
from holdfast.db.histories import HistorySaver
from holdfast.db.pool import Database
from holdfast.wire import codec

pytestmark = pytest.mark.anyio

CONFIG: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}, "recursion_limit": 100}


def _extended(log: list[Any], writes: list[list[Any]]) -> list[Any]:
    """Changes the list that it is given, as a careless reducer does."""
    for write in writes:
        log.extend(write)
    return log


def _joined(log: list[Any], writes: list[list[Any]]) -> list[Any]:
    return [*log, *(entry for write in writes for entry in write)]


def _filed(files: dict[str, list[Any]], writes: list[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """Keeps what was written and changes it later."""
    for write in writes:
        for name, entries in write.items():
            if name in files:
                files[name].extend(entries)
            else:
                files[name] = entries
    return files


class State(TypedDict, total=False):
    careless: Annotated[list[Any], DeltaChannel(_extended, snapshot_frequency=7)]
    nested: Annotated[dict[str, list[Any]], DeltaChannel(_filed, snapshot_frequency=1000)]
    whole: Annotated[list[Any], DeltaChannel(_joined, snapshot_frequency=1000)]
    plain: Annotated[list[Any], operator.add]


def _step(state: State) -> State:
    number = len(state["plain"])
    whole: Any = Overwrite([{"from": number}]) if number == 12 else [{"n": number}]
    return {"careless": [number], "nested": {"a" * (1 + number % 3): [number]}, "whole": whole, "plain": [number]}


def _more(state: State) -> str:
    return "step" if len(state["plain"]) < 20 else END


GRAPH = StateGraph(State).add_node("step", _step).add_edge(START, "step").add_conditional_edges("step", _more)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """With a thread of some fifty checkpoints: a fork in the middle, and later an input that is a command."""
    async with AsyncPostgresSaver.from_conn_string(database_url) as stock:
        graph = GRAPH.compile(checkpointer=stock)
        await graph.ainvoke({"plain": [], "careless": ["first"], "whole": [], "nested": {"a": ["first"]}}, CONFIG)
        states = [state async for state in graph.aget_state_history(CONFIG)]
        await graph.aupdate_state(states[9].config, {"careless": ["forked"], "whole": ["forked"]}, as_node="step")
        await graph.ainvoke(None, CONFIG)
        commanded = Command(update={"careless": ["commanded"], "nested": {"a": ["commanded"]}, "plain": ["commanded"]})
        await graph.ainvoke(commanded, states[12].config)
        await graph.ainvoke(Command(update={"nested": {"a": ["again"]}}, goto="step"), CONFIG)
    opened = Database(database_url, size=4)
    await opened.open()
    yield opened
    await opened.close()


async def history(saver: HistorySaver, limit: int | None = None, *, carry: bool = True) -> list[tuple[Any, bytes]]:
    """Configs and values as JSON, newest first."""
    graph = GRAPH.compile(checkpointer=saver)
    if carry:
        saver.carries(graph.channels)
    rows = [(state.config, codec.dumps(state.values)) async for state in graph.aget_state_history(CONFIG, limit=limit)]
    return rows[::-1]


async def single(database: Database, config: RunnableConfig) -> bytes:
    state = await GRAPH.compile(checkpointer=FencedSaver(database)).aget_state(config)
    return codec.dumps(state.values)


@pytest.mark.parametrize("limit", [1, 2, 5, 13, 30, None])
async def test_a_page_shows_what_single_reads_show(database: Database, limit: int | None) -> None:
    page = await history(HistorySaver(database), limit)
    assert len(page) == limit if limit else len(page) > 40
    assert page == [(config, await single(database, config)) for config, _ in page]


async def test_a_subgraph_has_pages_of_its_own(database_url: str, database: Database) -> None:
    outer = StateGraph(State).add_node("inner", GRAPH.compile(checkpointer=True)).add_edge(START, "inner")
    place: RunnableConfig = {"configurable": {"thread_id": "nested", "checkpoint_ns": ""}, "recursion_limit": 100}
    async with AsyncPostgresSaver.from_conn_string(database_url) as stock:
        await outer.compile(checkpointer=stock).ainvoke({"plain": [], "careless": ["first"], "nested": {}}, place)
    saver = HistorySaver(database)
    saver.carries(GRAPH.compile().channels)
    inside: RunnableConfig = {"configurable": {"thread_id": "nested", "checkpoint_ns": "inner"}}
    past = outer.compile(checkpointer=saver).aget_state_history(inside)
    rows = [(state.config, codec.dumps(state.values)) async for state in past]
    assert len(rows) > 20
    reading = outer.compile(checkpointer=FencedSaver(database))
    assert rows == [(config, codec.dumps((await reading.aget_state(config)).values)) for config, _ in rows]


async def test_a_page_of_a_graph_that_is_not_known_shows_the_same(database: Database) -> None:
    assert await history(HistorySaver(database), carry=False) == await history(HistorySaver(database))


async def test_the_newest_row_comes_last(database: Database) -> None:
    saver = HistorySaver(database)
    ids = [found.config["configurable"]["checkpoint_id"] async for found in saver.alist(CONFIG, limit=10)]
    assert ids == sorted(ids)


async def test_a_long_way_back_is_read_in_several_pages(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = await history(HistorySaver(database))
    monkeypatch.setattr(lineages, "CHECKPOINTS", 3)
    assert await history(HistorySaver(database)) == whole


async def test_a_page_costs_one_walk_for_each_snapshot_that_it_passes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = []

    async def counted(*asked: Any) -> Any:
        walks.append(asked)
        return await lineages.walk(*asked)

    monkeypatch.setattr(checkpoints, "walk", counted)
    rows = await history(HistorySaver(database), limit=12)
    assert len(rows) == 12
    assert len(walks) <= 4
