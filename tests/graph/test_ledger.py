"""The ledger of effects, on plain LangGraph and on the server's store: what is known is kept, what is unknown asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage, ToolCall
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, ToolRuntime
from langgraph.runtime import ExecutionInfo
from langgraph.store.base import BaseStore, Op, PutOp, Result
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, interrupt

from graph import ledger
from graph.ledger import Effect, LedgerError, NothingHappenedError, UnknownEffectError, happens_once, once
from graph.tools import AgentTool, standard_tools
from holdfast.db.store import PooledStore
from tests.db.stage import opened
from tests.support.postgres import Cluster

pytestmark = pytest.mark.anyio

CALL = ToolCall(type="tool_call", name="pay", args={"cents": 5}, id="call.1")
DECISIONS = ["approve", "respond", "reject"]


@pytest.fixture(scope="module")
def shared_url(cluster: Cluster) -> Iterator[str]:
    """A database for this module."""
    with cluster.database() as url:
        yield url


@pytest.fixture
def empty_url(shared_url: str) -> str:
    with psycopg.connect(shared_url) as conn:
        conn.execute("TRUNCATE store CASCADE")
    return shared_url


@pytest.fixture(params=["plain", "holdfast"])
async def store(request: pytest.FixtureRequest, empty_url: str) -> AsyncIterator[BaseStore]:
    if request.param == "plain":
        yield InMemoryStore()
        return
    async with opened(empty_url) as stage:
        yield PooledStore(stage.database)


def effect(call: ToolCall = CALL, thread: str = "thread-1") -> Effect:
    return Effect.of(call, ExecutionInfo("checkpoint", "", "task", thread_id=thread, run_id="run"))


async def lines(store: BaseStore, thread: str = "thread-1") -> list[dict[str, Any]]:
    found = [item.value for item in await store.asearch((ledger.ROOT, thread), limit=100)]
    return sorted(found, key=lambda line: line["started_at"])


async def states(store: BaseStore, thread: str = "thread-1") -> list[str]:
    return [line["state"] for line in await lines(store, thread)]


class Died(BaseException):
    """How an execution ends that leaves no trace: nothing that handles errors sees it."""


@dataclass
class Payments:
    """The world: what was paid, and how the next payments go. "cut": the process dies after it was paid."""

    then: list[Any] = field(default_factory=list)
    paid: list[Any] = field(default_factory=list)

    async def pay(self, cents: Any = 5) -> str:
        how = self.then.pop(0) if self.then else "works"
        if isinstance(how, NothingHappenedError):
            raise how
        self.paid.append(cents)
        if how == "cut":
            raise Died
        if isinstance(how, Exception):
            raise how
        return f"paid {cents}"

    def tools(self, **how: Any) -> dict[str, AgentTool]:
        async def send_message(recipient: str, body: str) -> str:
            """Pay, under a name that the stand-in for a model knows."""
            return await self.pay((recipient, body))

        return {**standard_tools(), "send_message": AgentTool(tool(send_message), **{"if_unknown": "ask", **how})}


async def died(going: Any) -> None:
    """Run until the process "dies"."""
    with pytest.raises(Died):
        await going


# --- one call ---


async def test_an_effect_that_was_recorded_is_not_repeated(store: BaseStore) -> None:
    world = Payments()
    results = [await happens_once(effect(), world.pay, store=store) for _ in range(3)]
    assert (results, world.paid) == (["paid 5"] * 3, [5])
    assert await states(store) == ["committed"]


@pytest.mark.parametrize("text", ["", "nul \0", "half \ud83d", "null", "\u2028 \U0001f600"])
async def test_a_result_is_recorded_exactly(store: BaseStore, text: str) -> None:
    async def act() -> str:
        return text

    assert [await happens_once(effect(), act, store=store) for _ in range(2)] == [text, text]


async def test_what_ended_in_the_middle_is_unknown_and_told_with_the_evidence(store: BaseStore) -> None:
    world = Payments(then=["cut"])
    await died(happens_once(effect(), world.pay, store=store))
    [line] = await lines(store)
    with pytest.raises(UnknownEffectError) as told:
        await happens_once(effect(), world.pay, store=store, if_unknown="tell")
    for piece in ("pay", line["started_at"], "attempt 1", "run run", "thread-1:call.1"):
        assert piece in str(told.value)
    assert world.paid == [5]


async def test_what_the_other_side_recognizes_is_run_again_under_the_same_key(store: BaseStore) -> None:
    world = Payments(then=["cut"])
    await died(happens_once(effect(), world.pay, store=store, if_unknown="run_again"))
    assert await happens_once(effect(), world.pay, store=store, if_unknown="run_again") == "paid 5"
    assert await happens_once(effect(), world.pay, store=store) == "paid 5"
    assert len(world.paid) == 2


async def test_what_is_certain_not_to_have_happened_may_be_run_again(store: BaseStore) -> None:
    world = Payments(then=[NothingHappenedError("the till is closed")])
    with pytest.raises(NothingHappenedError, match="till"):
        await happens_once(effect(), world.pay, store=store, if_unknown="tell")
    assert await states(store) == ["failed"]
    assert await happens_once(effect(), world.pay, store=store, if_unknown="tell") == "paid 5"


async def test_any_other_failure_leaves_the_effect_unknown_and_says_so(store: BaseStore) -> None:
    world = Payments(then=[ConnectionError("secret")])
    with pytest.raises(ConnectionError) as failed:
        await happens_once(effect(), world.pay, store=store, if_unknown="tell")
    assert ledger.DOUBT in failed.value.__notes__
    with pytest.raises(UnknownEffectError, match="It failed with ConnectionError") as told:
        await happens_once(effect(), world.pay, store=store, if_unknown="tell")
    assert "secret" not in str(told.value)


async def test_a_call_that_ran_with_other_arguments_is_refused(store: BaseStore) -> None:
    world = Payments()
    await happens_once(effect(), world.pay, store=store)
    with pytest.raises(NothingHappenedError, match="other arguments"):
        await happens_once(effect({**CALL, "args": {"cents": 6}}), world.pay, store=store)
    assert world.paid == [5]


async def test_another_thread_or_call_is_another_effect(store: BaseStore) -> None:
    world = Payments()
    for other in (
        effect(),
        effect(thread="thread-2"),
        effect({**CALL, "id": "call"}),
        effect({**CALL, "id": "call%2E1"}),
    ):
        await happens_once(other, world.pay, store=store)
    assert len(world.paid) == 4


async def test_without_a_store_only_what_the_other_side_recognizes_runs() -> None:
    world = Payments()
    for policy in ("ask", "tell"):
        with pytest.raises(NothingHappenedError, match="needs a store"):
            await happens_once(effect(), world.pay, store=None, if_unknown=policy)
    assert world.paid == []
    assert await happens_once(effect(), world.pay, store=None, if_unknown="run_again") == "paid 5"


# --- stores that fail, and executions that race ---


class Wrapped(BaseStore):
    """A store in front of which something happens."""

    def __init__(self, store: BaseStore, before: Callable[[Op], Any]) -> None:
        self.supports_ttl = store.supports_ttl
        self._store = store
        self._before = before

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        raise NotImplementedError

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        asked = list(ops)
        for op in asked:
            if (waiting := self._before(op)) is not None:
                await waiting
        return await self._store.abatch(asked)


async def test_no_effect_without_a_line(store: BaseStore) -> None:
    def full(op: Op) -> None:
        if isinstance(op, PutOp):
            raise OSError("no space")

    world = Payments()
    with pytest.raises(LedgerError, match="nothing is run without it"):
        await happens_once(effect(), world.pay, store=Wrapped(store, full), if_unknown="run_again")
    assert world.paid == []


async def test_a_result_that_cannot_be_recorded_is_still_the_result_and_unknown_to_whoever_comes_later(
    store: BaseStore,
) -> None:
    def full(op: Op) -> None:
        if isinstance(op, PutOp) and (op.value or {})["state"] == "committed":
            raise OSError("no space")

    world = Payments()
    assert await happens_once(effect(), world.pay, store=Wrapped(store, full)) == "paid 5"
    with pytest.raises(UnknownEffectError):
        await happens_once(effect(), world.pay, store=store, if_unknown="tell")


@pytest.mark.parametrize("policy", ["tell", "run_again"])
async def test_an_execution_that_was_frozen_before_its_line_sees_what_happened_meanwhile(
    store: BaseStore, policy: ledger.IfUnknown
) -> None:
    reached, woken = asyncio.Event(), asyncio.Event()

    async def freeze() -> None:
        reached.set()
        await woken.wait()

    frozen = Wrapped(store, lambda op: freeze() if isinstance(op, PutOp) else None)
    world = Payments()
    late = asyncio.create_task(happens_once(effect(), world.pay, store=frozen, if_unknown=policy))
    await reached.wait()
    assert await happens_once(effect(), world.pay, store=store, if_unknown=policy) == "paid 5"
    woken.set()
    assert await late == "paid 5"
    assert world.paid == [5]


async def test_of_executions_that_race_at_most_one_runs(store: BaseStore) -> None:
    world = Payments()
    barrier, first = asyncio.Barrier(8), iter(range(8))
    racing = Wrapped(
        store, lambda op: barrier.wait() if isinstance(op, PutOp) and next(first, None) is not None else None
    )
    every = [happens_once(effect(), world.pay, store=racing, if_unknown="tell") for _ in range(8)]
    ended = await asyncio.gather(*every, return_exceptions=True)
    assert len(world.paid) <= 1
    assert {type(each) for each in ended} <= {str, UnknownEffectError}


async def test_a_known_effect_expires_and_an_unknown_one_does_not(empty_url: str) -> None:
    kept: list[tuple[str, Any]] = []

    def note(op: Op) -> None:
        if isinstance(op, PutOp) and op.value:
            kept.append((op.value["state"], op.ttl))

    async with opened(empty_url) as stage:
        await happens_once(effect(), Payments().pay, store=Wrapped(PooledStore(stage.database), note))
    assert kept == [("started", None), ("committed", ledger.KEPT_MINUTES)]


# --- in the agent ---


async def test_a_human_is_asked_with_the_evidence_and_each_answer_has_its_outcome(store: BaseStore, talk: Any) -> None:
    for choice in DECISIONS:
        world = Payments(then=["cut"])
        thread = talk(store=store, tools_by_name=world.tools())
        thread.thread_id = choice
        await died(thread.say("send hello to Ada"))
        assert await states(store, choice) == ["started"]
        await thread.run(None)
        (asked,) = await thread.questions()
        action, config = asked.value["action_requests"][0], asked.value["review_configs"][0]
        assert (action["name"], action["args"]) == ("send_message", {"recipient": "Ada", "body": "hello"})
        assert "is not known: it was started at" in action["description"]
        assert config["allowed_decisions"] == DECISIONS
        assert len(world.paid) == 1
        await thread.decide(choice, message="as the bank says")
        (result,) = await thread.results()
        assert (len(world.paid), result.status, result.text, await states(store, choice)) == {
            "approve": (2, "success", "paid ('Ada', 'hello')", ["started", "committed"]),
            "respond": (1, "success", "as the bank says", ["started", "committed"]),
            "reject": (1, "error", "unknown: as the bank says", ["started"]),
        }[choice]


async def test_an_answer_is_for_the_attempts_that_were_known_when_it_was_asked(store: BaseStore, talk: Any) -> None:
    world = Payments(then=["cut", "cut", "cut"])
    thread = talk(store=store, tools_by_name=world.tools(approval="always"))
    await thread.say("send hello to Ada")
    await died(thread.decide("approve"))
    for attempt in (1, 2, 3):
        await thread.run(None)
        (asked,) = await thread.questions()
        assert f"attempt {attempt}" in asked.value["action_requests"][0]["description"]
        assert len(world.paid) == attempt
        if attempt < 3:
            await died(thread.decide("approve"))
    await thread.decide("respond", message="it was paid")
    assert len(world.paid) == 3
    assert [result.text for result in await thread.results()] == ["it was paid"]


async def test_what_is_recorded_meanwhile_counts_more_than_the_answer(store: BaseStore, talk: Any) -> None:
    world = Payments(then=["cut"])
    thread = talk(store=store, tools_by_name=world.tools())
    await died(thread.say("send hello to Ada"))
    await thread.run(None)
    [line] = await lines(store)
    place = (await store.asearch((ledger.ROOT, "thread-1")))[0].namespace
    await store.aput(place, line["id"], {**line, "state": "committed", "result": '"late, but paid"'})
    await thread.decide("approve")
    assert (len(world.paid), [result.text for result in await thread.results()]) == (1, ["late, but paid"])


@pytest.mark.parametrize("failure", [TimeoutError(), ConnectionError()])
async def test_a_failure_in_the_middle_is_asked_about_at_once(store: BaseStore, talk: Any, failure: Exception) -> None:
    world = Payments(then=[failure])
    thread = talk(store=store, tools_by_name=world.tools())
    await thread.say("send hello to Ada")
    (asked,) = await thread.questions()
    assert f"It failed with {type(failure).__name__}" in asked.value["action_requests"][0]["description"]
    await thread.decide("respond", message="it was paid")
    assert len(world.paid) == 1
    assert (await thread.last_words()) == "it was paid"


async def test_by_policy_the_model_is_told_instead(store: BaseStore, talk: Any) -> None:
    world = Payments(then=["cut"])
    thread = talk(store=store, tools_by_name=world.tools(if_unknown="tell"))
    await died(thread.say("send hello to Ada"))
    await thread.run(None)
    (result,) = await thread.results()
    assert result.status == "error"
    assert result.text.startswith("unknown: Whether send_message took effect is not known")
    assert len(world.paid) == 1


async def test_a_fork_gets_the_recorded_result(store: BaseStore, talk: Any) -> None:
    world = Payments()
    thread = talk(store=store, tools_by_name=world.tools(approval="always"))
    await thread.say("send hello to Ada")
    asked = await thread.agent.aget_state(thread.config)
    await thread.decide("approve")
    await thread.run(None, asked.config)
    await thread.decide("approve")
    assert [result.text for result in await thread.results()] == ["paid ('Ada', 'hello')"]
    await thread.run(None, asked.config)
    args = {"recipient": "Bob", "body": "hello"}
    await thread.decide("edit", edited_action={"name": "send_message", "args": args})
    (result,) = await thread.results()
    assert (result.status, len(world.paid)) == ("error", 1)
    assert "nothing was run now" in result.text


async def test_what_only_looks_and_computes_costs_no_store(talk: Any) -> None:
    def forbidden(op: Op) -> None:
        raise AssertionError(op)

    thread = talk(store=Wrapped(InMemoryStore(), forbidden))
    await thread.say("what is 6*7")
    assert {result.status for result in await thread.results()} == {"success"}
    await thread.say("send hello to Ada")
    await thread.decide("approve")
    assert (await thread.results())[-1].text == (
        "tool_failure: the ledger of effects cannot be reached, and nothing is run without it"
    )


def test_a_tool_that_knows_no_key_cannot_be_run_again() -> None:
    spec = standard_tools()["calculator"].spec
    with pytest.raises(TypeError, match="idempotency_key"):
        AgentTool(spec, if_unknown="run_again")


# --- in a graph of somebody else's ---


def with_tools(store: BaseStore, *tools: Any) -> Any:
    """A plain graph with a ToolNode, which calls `pay` once."""

    def model(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("", id="asks", tool_calls=[CALL])]}

    built = StateGraph(MessagesState).add_node("model", model).add_node("tools", ToolNode(tools))
    built.add_edge(START, "model").add_edge("model", "tools").add_edge("tools", END)
    return built.compile(checkpointer=InMemorySaver(), store=store)


async def test_a_decorated_tool_of_any_graph_is_in_the_ledger(store: BaseStore) -> None:
    world = Payments(then=["cut"])

    @tool
    @once
    async def pay(cents: int, runtime: ToolRuntime) -> str:
        """Pay."""
        assert runtime.tool_call_id == CALL["id"]
        return await world.pay(cents)

    assert list(pay.tool_call_schema.model_json_schema()["properties"]) == ["cents"]
    graph = with_tools(store, pay)
    config: Any = {"configurable": {"thread_id": "thread-1"}}
    await died(graph.ainvoke({"messages": []}, config))
    asked = await graph.ainvoke(None, config)
    assert "is not known" in asked["__interrupt__"][0].value["action_requests"][0]["description"]
    ended = await graph.ainvoke(Command(resume={"decisions": [{"type": "respond", "message": "paid"}]}), config)
    assert (ended["messages"][-1].text, world.paid) == ("paid", [5])


async def test_a_tool_that_asks_in_the_middle_of_its_effect_is_told_to_ask_before(store: BaseStore) -> None:
    @tool
    @once
    async def pay(cents: int, runtime: ToolRuntime) -> str:
        """Pay, after a question."""
        return str(interrupt(f"{cents} of {runtime.tool_call_id}?"))

    with pytest.raises(UnknownEffectError, match="it has to ask before"):
        await with_tools(store, pay).ainvoke({"messages": []}, {"configurable": {"thread_id": "thread-1"}})
    assert await states(store) == ["started"]
