"""Lists by element: what is read is what was written, and a longer list costs what is new in it."""

from __future__ import annotations

import operator
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict

from holdfast.db import elements
from holdfast.db import pruning as module
from holdfast.db.checkpoints import Fence, FencedSaver
from holdfast.db.copies import Copies
from holdfast.db.elements import FAN_OUT, LEAST, TYPE, put_together, take_apart
from holdfast.db.histories import HistorySaver
from holdfast.db.pruning import Pruning
from holdfast.db.runs import RunEnd
from holdfast.db.serde import StateSerializer
from holdfast.db.sql import statements
from holdfast.errors import FenceLost, Unreadable
from holdfast.rules.run import RunStatus
from tests.db.savers import checkpoint_with, config_for, config_of, rows, saver, stock
from tests.db.stage import ANN, Stage, outcome

SERDE = StateSerializer()
ENDED = RunEnd(RunStatus.SUCCESS, outcome())
ROLLED_BACK = RunEnd(RunStatus.INTERRUPTED, None, {"error": "UserRollback", "message": "m"}, rollback=True)


def packed(values: list[Any]) -> list[bytes]:
    return [SERDE.dumps_typed([value])[1][1:] for value in values]


def long_text(number: int) -> str:
    return f"{number} " + "x" * 100


# --- taking apart and putting together ---


@pytest.mark.parametrize("size", [0, 1, 7, 15, 16, 31, 32, 33, 1023, 1024, 1025, 10_000, 70_000])
@pytest.mark.parametrize("make", [int, long_text])
def test_what_is_put_together_is_what_langgraph_would_have_stored(size: int, make: Any) -> None:
    values = [make(number) for number in range(size)]
    parts = take_apart(packed(values))
    assert put_together(parts.root, parts.rows) == SERDE.dumps_typed(values)[1]


@pytest.mark.parametrize("make", [int, long_text])
def test_a_list_that_grows_by_one_costs_a_row_and_a_root_now_and_then_a_leaf(make: Any) -> None:
    values = packed([make(number) for number in range(3000)])
    known: set[bytes] = set()
    roots = added = 0
    for size in range(2900, 3001):
        parts = take_apart(values[:size])
        if size > 2900:
            roots += len(parts.root)
            added += sum(len(row.bytes) + 100 for digest, row in parts.rows.items() if digest not in known)
        known |= parts.rows.keys()
    assert roots / 100 < 800
    assert added / 100 < 300


ELEMENT = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.text(max_size=200),
    st.binary(max_size=80),
    st.dictionaries(st.text(max_size=3), st.lists(st.integers(), max_size=4), max_size=4),
)


@given(
    values=st.lists(ELEMENT, max_size=90), edits=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 4), ELEMENT))
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_every_edit_of_a_list_can_be_read_beside_all_that_were_before(values: list[Any], edits: list[Any]) -> None:
    kept: dict[bytes, Any] = {}
    versions = []
    for place, removed, added in [(0, 0, None), *edits]:
        at = place % (len(values) + 1)
        values = [*values[:at], added, *values[at + removed :]]
        parts = take_apart(packed(values))
        kept |= parts.rows
        versions.append((parts.root, values))
    for root, expected in versions:
        assert SERDE.loads_typed(("msgpack", put_together(root, kept))) == expected


def test_a_damaged_root_is_an_error() -> None:
    parts = take_apart(packed([long_text(number) for number in range(40)]))
    for size in (0, 3, 7, len(parts.root) - 1):
        with pytest.raises(Unreadable):
            put_together(parts.root[:size], parts.rows)


# --- the saver ---


class Held:
    """A thread that is being written, by element."""

    def __init__(self, stage: Stage, thread_id: UUID, token: int) -> None:
        self.stage, self.thread_id, self.token = stage, thread_id, token
        self.writer = self.another()
        self.config = config_for(thread_id)
        self.step = 0

    def another(self, *, by_element: bool = True) -> FencedSaver:
        writer = FencedSaver(self.stage.database, Fence("edit", self.thread_id, self.token))
        writer.by_element = by_element
        return writer

    async def put(self, value: Any, by: FencedSaver | None = None) -> None:
        self.config = await self.put_at(self.config, value, by or self.writer)

    async def put_at(self, config: RunnableConfig, value: Any, by: FencedSaver) -> RunnableConfig:
        self.step += 1
        checkpoint, versions = checkpoint_with({"x": value}, self.step)
        checkpoint["v"] = 4
        return await by.aput(config, checkpoint, {"source": "loop", "step": self.step}, versions)

    async def read(self, config: Any = None) -> Any:
        found = await saver(self.stage).aget_tuple(config or config_for(self.thread_id))
        assert found is not None
        return found.checkpoint["channel_values"]["x"]

    async def types(self) -> list[str]:
        found = await self.stage.sql(
            "SELECT type FROM checkpoint_blobs WHERE thread_id = %s ORDER BY version", str(self.thread_id)
        )
        return [row["type"] for row in found]

    async def digests(self) -> set[bytes]:
        return await digests(self.stage, self.thread_id)


async def digests(stage: Stage, thread_id: UUID) -> set[bytes]:
    found = await stage.sql("SELECT digest FROM holdfast.elements WHERE thread_id = %s", str(thread_id))
    return {row["digest"] for row in found}


@pytest.fixture
async def held(stage: Stage) -> Held:
    thread_id = await stage.thread()
    return Held(stage, thread_id, await stage.threads.begin_edit(ANN, thread_id))


MESSAGES = [
    SystemMessage("be brief", id="s"),
    HumanMessage([{"type": "text", "text": "look"}, {"type": "image", "url": "data:"}], id="h", name="Ada", extra=[1]),
    AIMessage("", tool_calls=[{"name": "f", "args": {"n": 10**30}, "id": "c", "type": "tool_call"}], id="a"),
    ToolMessage("\x00\ud800", tool_call_id="c", artifact={"raw": b"\x00"}),
    AIMessage("done", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
    RemoveMessage(id="h"),
]
VALUES: dict[str, list[Any]] = {
    "messages": MESSAGES * 20,
    "dicts": [{"n": number, "nested": {"deep": [long_text(number), {number: (1, 2)}]}} for number in range(100)],
    "ints": list(range(1000)),
    "wide": [10**number for number in range(60)],
    "duplicates": [long_text(1)] * 200,
    "mixed": [None, True, 1.5, -0.0, "", b"raw", {"a": {1, 2}}, [], [[[]]], UUID(int=1), ("t", 1)] * 3,
    "short": [long_text(number) for number in range(LEAST - 1)],
    "empty": [],
    "ten thousand": [{"n": number, "text": long_text(number)} for number in range(10_000)],
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", VALUES)
async def test_a_value_comes_back_as_it_does_when_it_is_stored_whole(held: Held, name: str) -> None:
    await held.put(VALUES[name])
    by_element = await held.read()
    await held.put(VALUES[name], held.another(by_element=False))
    assert repr(await held.read()) == repr(by_element)
    whole = "msgpack"
    assert await held.types() == [whole if name in ("short", "empty") else TYPE, whole]


@pytest.mark.anyio
async def test_versions_of_both_kinds_stand_side_by_side(held: Held) -> None:
    values = [[long_text(number) for number in range(size)] for size in (40, 41, 42, 43)]
    configs = []
    for number, value in enumerate(values):
        await held.put(value, held.another(by_element=number % 2 == 0))
        configs.append(held.config)
    assert await held.types() == [TYPE, "msgpack", TYPE, "msgpack"]
    assert [await held.read(config) for config in configs] == values
    page = HistorySaver(held.stage.database)
    shown = [found.checkpoint["channel_values"]["x"] async for found in page.alist(config_for(held.thread_id))]
    assert shown == values


@pytest.mark.anyio
async def test_the_stock_saver_reads_what_is_stored_whole_and_refuses_the_rest(held: Held) -> None:
    await held.put([long_text(1)] * 40, held.another(by_element=False))
    async with stock(held.stage) as theirs:
        assert await theirs.aget_tuple(config_for(held.thread_id)) is not None
        await held.put([long_text(1)] * 40)
        with pytest.raises(NotImplementedError):
            await theirs.aget_tuple(config_for(held.thread_id))


@pytest.mark.anyio
async def test_a_turn_costs_the_same_early_and_late(held: Held) -> None:
    """Bytes that a conversation of 200 turns of four messages adds, by its tenths."""
    said: list[Any] = []
    sizes = []
    for turn in range(200):
        for part in range(4):
            said.append(HumanMessage(f"{turn}.{part} {uuid4().hex * 4}", id=f"{turn}.{part}"))
            await held.put(said)
        if turn % 20 == 19:
            (size,) = await held.stage.sql(
                "SELECT (SELECT sum(length(blob)) FROM checkpoint_blobs) + (SELECT sum(length(bytes) + 100)"
                " FROM holdfast.elements) AS bytes"
            )
            sizes.append(int(size["bytes"]))
    added = [late - early for early, late in zip([0, *sizes], sizes, strict=False)]
    assert added[-1] < 1.3 * added[1]
    assert sizes[-1] < 1_000_000
    assert len(await held.read()) == 800


@pytest.mark.anyio
async def test_what_was_changed_in_place_is_stored_as_it_is(held: Held) -> None:
    said = [HumanMessage(long_text(number), id=str(number)) for number in range(50)]
    await held.put(said)
    before = held.config
    said[20].content = "changed"
    await held.put(said)
    assert [message.content for message in await held.read()] == [message.content for message in said]
    assert (await held.read(before))[20].content == long_text(20)


@pytest.mark.anyio
async def test_what_a_refused_save_was_to_store_is_stored_by_the_next_saver(held: Held) -> None:
    values = [long_text(number) for number in range(40)]
    late = held.another()
    held.token = await held.stage.threads.begin_edit(ANN, held.thread_id)
    with pytest.raises(FenceLost):
        await held.put(values, late)
    assert await held.digests() == set()
    with pytest.raises(FenceLost):  # and not taken for stored by the one who was refused
        await held.put(values, late)
    await held.put(values, held.another())
    assert await held.read() == values


@pytest.mark.anyio
async def test_an_element_that_is_lost_is_an_error_that_says_where(held: Held) -> None:
    await held.put([long_text(number) for number in range(40)])
    await held.stage.sql("DELETE FROM holdfast.elements WHERE level = 0")
    with pytest.raises(Unreadable, match=f"checkpoint {held.config['configurable']['checkpoint_id']}: channel 'x'"):
        await held.read()


class Conversation(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    log: Annotated[list[Any], operator.add]


def _answer(state: Conversation) -> dict[str, Any]:
    number = len(state["messages"])
    edits: list[Any] = [AIMessage(long_text(number), id=f"a{number}")]
    if number % 5 == 0:
        edits += [RemoveMessage(id=str(state["messages"][0].id)), HumanMessage("edited", id=state["messages"][2].id)]
    return {"messages": edits, "log": [number]}


def _more(state: Conversation) -> str:
    return "answer" if len(state["log"]) < 30 else END


TALK = StateGraph(Conversation).add_node("answer", _answer).add_edge(START, "answer")
TALK.add_conditional_edges("answer", _more, ["answer", END])


@pytest.mark.anyio
async def test_a_graph_has_the_same_history_either_way(stage: Stage) -> None:
    histories = []
    for by_element in (True, False):
        claim = await stage.started()
        writer = saver(stage, claim)
        writer.by_element = by_element
        said = [HumanMessage(long_text(number), id=f"h{number}") for number in range(10)]
        config = config_of(claim) | {"recursion_limit": 100}
        await TALK.compile(checkpointer=writer).ainvoke({"messages": said, "log": []}, config)
        reading = TALK.compile(checkpointer=HistorySaver(stage.database))
        place = config_for(claim.thread_id)
        histories.append([repr(state.values) async for state in reading.aget_state_history(place)])
    assert len(histories[0]) > 30
    assert histories[0] == histories[1]


def _appended(had: list[Any], came: list[list[Any]]) -> list[Any]:
    return [*had, *(one for write in came for one in write)]


class Delta(TypedDict):
    messages: Annotated[list[Any], DeltaChannel(_appended)]
    log: Annotated[list[Any], operator.add]


@pytest.mark.anyio
async def test_a_list_by_element_may_become_a_delta_channel(stage: Stage) -> None:
    claim = await stage.started()
    writer = saver(stage, claim)
    writer.by_element = True
    said = [HumanMessage(long_text(number), id=f"h{number}") for number in range(40)]
    await TALK.compile(checkpointer=writer).ainvoke({"messages": said, "log": [0] * 30}, config_of(claim))
    await stage.runs.end(claim, ENDED)
    claim = await stage.started(claim.thread_id)
    changed = StateGraph(Delta).add_node("say", lambda _: {"messages": ["more"]}).add_edge(START, "say")
    await changed.compile(checkpointer=saver(stage, claim)).ainvoke({"messages": ["and"]}, config_of(claim))
    page = HistorySaver(stage.database)
    graph = changed.compile(checkpointer=page)
    page.carries(graph.channels)
    past = [
        (state.config, repr(state.values["messages"]))
        async for state in graph.aget_state_history(config_for(claim.thread_id), limit=3)
    ]
    assert past[-1][1].endswith("'and', 'more']")
    reading = changed.compile(checkpointer=saver(stage))
    assert past == [(config, repr((await reading.aget_state(config)).values["messages"])) for config, _ in past]


# --- what happens to whole threads ---


async def conversation(held: Held, *, sizes: range) -> list[list[str]]:
    versions = [[long_text(number) for number in range(size)] for size in sizes]
    for value in versions:
        await held.put(value)
    return versions


@pytest.mark.anyio
async def test_a_copy_has_elements_of_its_own(held: Held) -> None:
    versions = await conversation(held, sizes=range(40, 50))
    copy_id = uuid4()
    await Copies(held.stage.database).copy(ANN, held.thread_id, copy_id)
    assert await digests(held.stage, copy_id) == await held.digests()
    await Pruning(held.stage.database).delete(ANN, [held.thread_id])
    assert await held.digests() == set()
    found = await saver(held.stage).aget_tuple(config_for(copy_id))
    assert found is not None
    assert found.checkpoint["channel_values"]["x"] == versions[-1]


@pytest.mark.anyio
async def test_pruning_leaves_exactly_what_the_latest_state_is_made_of(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", 3)
    await conversation(held, sizes=range(60, 80))
    latest = [long_text(number) for number in range(30, 80)] * 2
    await held.put(latest)
    pruning = Pruning(held.stage.database)
    expected = await pruning.bytes_of_latest(held.thread_id)
    await pruning.keep_latest(held.thread_id, held.token, [])
    assert await held.digests() == take_apart(packed(latest)).rows.keys()
    assert await held.read() == latest
    assert await pruning.bytes([held.thread_id]) == expected


@pytest.mark.anyio
async def test_pruning_looks_at_an_element_once_however_many_there_are(held: Held) -> None:
    await held.put([long_text(number) for number in range(3000)])
    await held.put([long_text(-number) for number in range(3000)])
    params = {"thread_id": held.thread_id, "limit": 5000}
    async with held.stage.database.connection("worker") as conn:
        found = await conn.execute(f"EXPLAIN {statements('pruning')['forget_elements']}", params)
        plan = [row["QUERY PLAN"] for row in await found.fetchall()]
    assert any("Anti Join" in line for line in plan)
    assert not any("Anti Join" in line and "Nested" in line for line in plan)
    assert not any("SubPlan" in line for line in plan)


@pytest.mark.anyio
async def test_pruning_keeps_what_a_subgraph_shares(held: Held) -> None:
    shared = [long_text(number) for number in range(40)]
    inner: RunnableConfig = {"configurable": config_for(held.thread_id)["configurable"] | {"checkpoint_ns": "inner"}}
    await held.put_at(inner, shared, held.writer)
    before = await held.digests()
    await held.put(shared)
    assert await held.digests() == before
    await held.put(["none of it"] * 10)
    await Pruning(held.stage.database).keep_latest(held.thread_id, held.token, [])
    assert await held.read(inner) == shared


@pytest.mark.anyio
async def test_who_writes_after_pruning_stores_what_pruning_removed(held: Held) -> None:
    """A saver that believes elements to be stored has lost its fence before they go."""
    values = [long_text(number) for number in range(40)]
    await held.put(values)
    await held.put(["short"])
    early = held.writer
    token = await held.stage.threads.begin_edit(ANN, held.thread_id)
    await Pruning(held.stage.database).keep_latest(held.thread_id, token, [])
    assert await held.digests() == set()
    with pytest.raises(FenceLost):
        await held.put(values, early)
    held.token = await held.stage.threads.begin_edit(ANN, held.thread_id)
    await held.put(values, held.another())
    assert await held.read() == values


@pytest.mark.anyio
async def test_a_read_that_pruning_overtakes_is_done_again(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    await held.put([long_text(number) for number in range(40)])
    latest = [long_text(number) for number in range(50, 90)]
    reader = HistorySaver(held.stage.database)
    fetch = elements.Elements.fetch

    async def overtaken(self: Any, thread_id: str, roots: Any, **terms: Any) -> Any:
        monkeypatch.setattr(elements.Elements, "fetch", fetch)
        await held.put(latest)
        await Pruning(held.stage.database).keep_latest(held.thread_id, held.token, [])
        return await fetch(self, thread_id, roots, **terms)

    monkeypatch.setattr(elements.Elements, "fetch", overtaken)
    found = [row.checkpoint["channel_values"]["x"] async for row in reader.alist(config_for(held.thread_id))]
    assert found == [latest]


@pytest.mark.anyio
async def test_a_run_that_is_rolled_back_leaves_a_thread_that_reads_and_can_be_pruned(stage: Stage) -> None:
    thread_id = await stage.thread()
    seen = []
    for number, end in enumerate((ENDED, ROLLED_BACK)):
        claim = await stage.started(thread_id)
        writer = saver(stage, claim)
        writer.by_element = True
        said = [HumanMessage(long_text(part), id=f"{number}.{part}") for part in range(40)]
        graph = TALK.compile(checkpointer=writer)
        await graph.ainvoke({"messages": said, "log": [0] * 30}, config_of(claim), durability="sync")
        await stage.runs.end(claim, end)
        seen.append((await graph.aget_state(config_for(thread_id))).values)
    assert len(seen[0]["messages"]) == 40
    assert seen[1] == seen[0]
    left = await digests(stage, thread_id)
    await Pruning(stage.database).keep_latest(thread_id, await stage.threads.begin_edit(ANN, thread_id), [])
    assert set() < await digests(stage, thread_id) < left
    reading = TALK.compile(checkpointer=saver(stage))
    assert (await reading.aget_state(config_for(thread_id))).values == seen[0]


@pytest.mark.anyio
async def test_erasing_a_thread_erases_its_elements_and_no_others(held: Held) -> None:
    await conversation(held, sizes=range(40, 44))
    other_id = await held.stage.thread()
    other = Held(held.stage, other_id, await held.stage.threads.begin_edit(ANN, other_id))
    await conversation(other, sizes=range(40, 44))
    before = await other.digests()
    await Pruning(held.stage.database).delete(ANN, [held.thread_id])
    assert await held.digests() == set()
    assert await other.digests() == before
    assert (await rows(held.stage))["checkpoint_blobs"] != []


@pytest.mark.anyio
async def test_elements_count_among_what_a_thread_takes_up(held: Held) -> None:
    await conversation(held, sizes=range(FAN_OUT, FAN_OUT + 3))
    parts = await Copies(held.stage.database).storage(held.thread_id)
    (size,) = await held.stage.sql("SELECT sum(pg_column_size(bytes))::bigint AS bytes FROM holdfast.elements")
    (of_elements,) = [part for part in parts if part["part"] == "channel_values" and part["channel"] is None]
    assert of_elements["bytes"] == size["bytes"] > 0
