"""Which calls a human is asked about: the tool's policy, which may be tightened and never loosened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import ToolCall
from langgraph.store.memory import InMemoryStore
from llmock.scenarios import Reply
from llmock.scenarios import ToolCall as ScriptedCall

from graph.approvals import Grant
from graph.nodes import Nodes
from graph.tools import Above, AgentTool, NotGrantedError, execute, standard_tools

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("amount", "needed"),
    [(0.5, False), (50, False), (50.0, False), (50.01, True), (10**400, True), (float("nan"), True), ("9", True)],
)
def test_A15_approval_is_needed_above_the_limit_and_for_what_is_no_number(amount: Any, needed: bool) -> None:
    assert standard_tools()["refund"].needs_approval({"order": "A1", "amount": amount}) is needed


def test_A15_approval_is_needed_where_the_argument_is_missing() -> None:
    assert standard_tools()["refund"].needs_approval({"order": "A1"})


def test_A15_the_environment_sets_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUND_APPROVAL_ABOVE", "7.5")
    assert standard_tools()["refund"].approval == Above("amount", 7.5)


SMALL = {"order": "A1", "amount": 30.0}
LARGE = {"order": "A1", "amount": 80.0}


@pytest.mark.parametrize("word", ["always", "ALWAYS", "alway", "never", "off"])
def test_A15_whatever_the_operator_writes_nothing_is_loosened(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("TOOL_APPROVALS", word)
    tools = standard_tools()
    assert tools["refund"].needs_approval(SMALL)
    assert tools["refund"].needs_approval(LARGE)
    assert tools["send_message"].needs_approval({})


@pytest.mark.parametrize("word", ["", "policy"])
def test_A15_the_policy_is_the_default(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("TOOL_APPROVALS", word)
    tools = standard_tools()
    assert [tools["refund"].needs_approval(args) for args in (SMALL, LARGE)] == [False, True]


def test_A15_strict_asks_about_everything_that_has_an_effect_and_nothing_else() -> None:
    asked = {name for name, tool in standard_tools().items() if tool.needs_approval(SMALL, strict=True)}
    assert asked == {"send_message", "refund"}
    assert AgentTool(standard_tools()["calculator"].spec, approval="always").needs_approval({})


def called(args: dict[str, Any]) -> ToolCall:
    return ToolCall(type="tool_call", name="refund", args=args, id="call-1")


@pytest.mark.parametrize(
    ("args", "grant", "strict"),
    [
        (LARGE, None, False),
        (LARGE, Grant.of("refund", SMALL), False),
        (LARGE, Grant.of("send_message", LARGE), False),
        (LARGE, Grant.of("refund", {**LARGE, "order": "A2"}), False),
        (SMALL, None, True),
        (SMALL, Grant.of("refund", LARGE), True),
    ],
)
async def test_A15_a_call_that_needs_a_grant_does_not_run_without_its_own(
    sent: Callable, args: dict[str, Any], grant: Grant | None, strict: bool
) -> None:
    refund, store = standard_tools()["refund"], InMemoryStore()
    with pytest.raises(NotGrantedError):
        await execute(refund, called(args), grant, store=store, strict=strict)
    assert sent() == []
    await execute(refund, called(args), Grant.of("refund", args), store=store, strict=strict)
    assert len(sent()) == 1


async def test_A15_a_repeated_refund_pays_once(sent: Callable) -> None:
    refund = standard_tools()["refund"]
    texts = [await execute(refund, called(SMALL), None) for _ in range(2)]
    assert texts == ["Refunded 30.0 for order A1.", "Order A1 was already refunded; nothing was paid."]
    assert sent() == [("refunds", "30.0 for order A1")]


@pytest.fixture
def asking(talk: Callable, llmock: Any) -> Callable:
    """A thread whose model makes these calls, all at once, and is content with what comes of it."""

    async def ask(*calls: tuple[str, dict[str, Any]]) -> Any:
        scripted = tuple(ScriptedCall(name, args) for name, args in calls)
        llmock.add(Reply(tool_calls=scripted)).reply("done")
        thread = talk(store=InMemoryStore())
        await thread.say("please")
        return thread

    return ask


async def test_A15_only_the_call_above_the_limit_is_asked_about(asking: Callable, sent: Callable) -> None:
    thread = await asking(("refund", SMALL), ("refund", {**LARGE, "order": "A2"}))
    (question,) = await thread.questions()
    assert question.value["action_requests"][0]["args"] == {"order": "A2", "amount": 80.0}
    assert sent() == [("refunds", "30.0 for order A1")]
    await thread.decide("approve")
    assert sent() == [("refunds", "30.0 for order A1"), ("refunds", "80.0 for order A2")]


async def test_A15_the_operator_may_ask_about_every_effect(
    asking: Callable, sent: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOL_APPROVALS", "always")
    thread = await asking(("refund", SMALL), ("calculator", {"expression": "1"}))
    (question,) = await thread.questions()
    assert question.value["action_requests"][0]["name"] == "refund"
    assert sent() == []
    await thread.decide("reject")
    assert sent() == []


@pytest.mark.parametrize("amount", [30.0, 500.0])
async def test_A15_an_edit_across_the_limit_runs_what_the_human_wrote(
    asking: Callable, sent: Callable, amount: float
) -> None:
    thread = await asking(("refund", LARGE))
    await thread.decide("edit", edited_action={"name": "refund", "args": {**LARGE, "amount": amount}})
    assert await thread.questions() == []
    assert sent() == [("refunds", f"{amount} for order A1")]


@pytest.mark.parametrize(("args", "asked"), [(SMALL, 0), (LARGE, 1)])
async def test_A15_an_edit_to_another_tool_is_judged_by_its_new_arguments(
    asking: Callable, sent: Callable, args: dict[str, Any], asked: int
) -> None:
    thread = await asking(("send_message", {"recipient": "Ada", "body": "hello"}))
    await thread.decide("edit", edited_action={"name": "refund", "args": args})
    assert len(await thread.questions()) == asked
    if asked:
        assert sent() == []
        await thread.decide("approve")
    assert sent() == [("refunds", f"{args['amount']} for order A1")]


async def test_A15_an_edit_that_does_not_fit_is_asked_about_again(asking: Callable, sent: Callable) -> None:
    thread = await asking(("refund", LARGE))
    await thread.decide("edit", edited_action={"name": "refund", "args": {**LARGE, "amount": -1}})
    (question,) = await thread.questions()
    assert "could not be used" in question.value["action_requests"][0]["description"]
    assert sent() == []


def test_A15_a_review_can_be_strict() -> None:
    """What a run's context may ask for: see `Nodes._review`."""
    with pytest.raises(RuntimeError, match="outside of a runnable context"):
        Nodes()._review(called(SMALL), strict=True)
    assert Nodes()._review(called(SMALL)) == (called(SMALL), None, None)
