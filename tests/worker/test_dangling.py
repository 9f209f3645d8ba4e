"""Which calls get an answer, and where it stands."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from holdfast.worker.dangling import answered
from tests.support.healing.strict import refuse_dangling


def calling(*ids: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "tool", "args": {}, "id": one, "type": "tool_call"} for one in ids])


def answer(call_id: str) -> ToolMessage:
    return ToolMessage("done", tool_call_id=call_id)


def test_a_whole_history_is_left_alone() -> None:
    assert answered([HumanMessage("a"), calling("1", "2"), answer("2"), answer("1"), AIMessage("b")], "") is None
    assert answered(["a", "b"], "") is None
    assert answered({"a": 1}, "") is None


def test_invalid_calls_are_answered_too() -> None:
    broken = AIMessage(
        "", invalid_tool_calls=[{"name": "t", "args": "{", "id": "1", "error": "", "type": "invalid_tool_call"}]
    )
    assert [message.type for message in answered([broken], "lost") or []] == ["ai", "tool"]


def test_an_id_that_is_given_again_is_answered_for_each_call() -> None:
    whole = answered([calling("1"), HumanMessage("again"), calling("1"), answer("1")], "lost") or []
    assert [message.content for message in whole] == ["", "lost", "again", "", "done"]


def test_what_the_input_answers_is_left_to_it() -> None:
    assert answered([calling("1")], "", spared={"1"}) is None


@st.composite
def histories(draw: st.DrawFn) -> Sequence[BaseMessage]:
    """Conversations from which any answer may be missing, or stand further down."""
    messages: list[BaseMessage] = []
    late: list[ToolMessage] = []
    for turn in range(draw(st.integers(1, 5))):
        ids = [f"{turn}-{number}" for number in range(draw(st.integers(0, 3)))]
        messages += [HumanMessage("go"), calling(*ids)]
        for one in ids:
            fate = draw(st.sampled_from(["here", "late", "lost"]))
            (messages if fate == "here" else late).append(answer(one)) if fate != "lost" else None
    return [*messages, *late]


@given(histories())
def test_providers_take_every_repaired_history(history: Sequence[BaseMessage]) -> None:
    whole = answered(list(history), "lost") or list(history)
    refuse_dangling(whole)
    kept = [message for message in whole if message.content != "lost"]
    assert sorted(map(id, kept)) == sorted(map(id, history))
    assert answered(whole, "lost") is None
