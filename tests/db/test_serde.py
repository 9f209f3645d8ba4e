"""The short ways for messages lead to the same bytes and the same values as LangGraph's own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import BaseModel

from holdfast.db.serde import StateSerializer


class Part(BaseModel):
    number: int


class Own(HumanMessage):
    mood: str = "fine"


def _without_a_field() -> HumanMessage:
    message = HumanMessage("hi")
    del message.__dict__["name"]
    return message


CALL = {"name": "f", "args": {"a": 1}, "id": "c", "type": "tool_call"}
MESSAGES: dict[str, Any] = {
    "human": HumanMessage("hi", id="1"),
    "system": SystemMessage("hi", name="n", additional_kwargs={"k": {"deep": [1, None, b"x"]}}),
    "ai": AIMessage("hi", response_metadata={"model": "m", "n": 1.5}),
    "calls": AIMessage("", tool_calls=[CALL]),
    "calls with more in them": AIMessage.model_construct(content="", tool_calls=[CALL | {"index": 0}]),
    "usage": AIMessage("", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
    "tool": ToolMessage("seen", tool_call_id="c", status="error"),
    "artifact": ToolMessage(
        "seen", tool_call_id="c", artifact={"part": Part(number=1), "at": datetime(2026, 1, 1, tzinfo=UTC)}
    ),
    "content in parts": HumanMessage([{"type": "text", "text": "a"}, "b"]),
    "more fields": HumanMessage("hi", extra={"k": 1}),
    "a class of one's own": Own("hi"),
    "a field is missing": _without_a_field(),
    "a surrogate": HumanMessage("\ud800\x00"),
}


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_stored_as_langgraph_stores_it(name: str) -> None:
    value = {"messages": [MESSAGES[name]], "beside": 1}
    assert StateSerializer().dumps_typed(value) == JsonPlusSerializer().dumps_typed(value)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("name", [name for name in MESSAGES if type(MESSAGES[name]) is not Own])
def test_a_message_is_read_as_langgraph_reads_it(name: str) -> None:
    stored = JsonPlusSerializer().dumps_typed([MESSAGES[name]])
    (ours,), (theirs,) = StateSerializer().loads_typed(stored), JsonPlusSerializer().loads_typed(stored)
    assert (type(ours), ours, list(ours.__dict__)) == (type(theirs), theirs, list(theirs.__dict__))
    assert ours.model_dump() == theirs.model_dump()
    assert ours.model_copy(deep=True, update={"content": "x"}).content == "x"


@pytest.mark.parametrize("value", [None, b"", b"x", bytearray(b"x"), [], [bytearray(b"x")], 1, "text"])
def test_other_values_are_stored_as_langgraph_stores_them(value: Any) -> None:
    assert StateSerializer().dumps_typed(value) == JsonPlusSerializer().dumps_typed(value)
