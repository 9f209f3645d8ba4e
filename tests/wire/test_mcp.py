"""Assistants as MCP tools: names, schemas, forms."""

from __future__ import annotations

import json
import re
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AnyMessage
from pydantic import BaseModel, TypeAdapter

from holdfast.wire.mcp import ToolInput, answers, input_required, meant, tool_names

VALID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def assistant(number: int, name: str, graph_id: str = "graph") -> dict[str, Any]:
    return {"assistant_id": UUID(int=number), "name": name, "graph_id": graph_id, "description": None}


# --- names ---


def test_a_name_becomes_one_that_clients_accept() -> None:
    rows = [assistant(1, "Support agent (EU)"), assistant(2, "Поддержка", "support.v2"), assistant(3, "", "...")]
    assert set(tool_names(rows, set())) == {"Support_agent_EU", "support_v2", "assistant"}


def test_a_shared_name_belongs_to_the_projects_own_graph() -> None:
    own, other = assistant(1, "agent", "agent"), assistant(2, "agent", "agent")
    named = tool_names([other, own], {UUID(int=1)})
    assert named["agent"] is own
    assert len(named) == 2


def test_a_shared_name_belongs_to_nobody_else() -> None:
    rows = [assistant(number, "Untitled") for number in (1, 2, 3)]
    named = tool_names(rows, set())
    assert "Untitled" not in named
    assert sorted(row["assistant_id"].int for row in named.values()) == [1, 2, 3]
    assert all(name.startswith("Untitled-") for name in named)
    # Whoever else comes or goes, a name stays with its assistant.
    fewer = tool_names(rows[:2], set())
    assert all(named[name] is row for name, row in fewer.items())


@given(st.lists(st.tuples(st.text(max_size=80), st.text(max_size=80), st.booleans()), max_size=8))
def test_names_are_always_valid_and_unique(given: list[tuple[str, str, bool]]) -> None:
    rows = [assistant(number, name, graph_id) for number, (name, graph_id, _) in enumerate(given)]
    named = tool_names(rows, {UUID(int=number) for number, (_, _, system) in enumerate(given) if system})
    assert len(named) == len(rows)
    assert all(VALID.fullmatch(name) for name in named)


# --- input ---


def test_a_graphs_own_keys_keep_their_names() -> None:
    schema = {"type": "object", "properties": {"thread_id": {"type": "integer"}, "text": {"type": "string"}}}
    tool = ToolInput.of(schema)
    assert tool.schema["properties"]["thread_id"] == {"type": "integer"}
    assert (tool.controls.thread_id, tool.controls.resume) == ("_thread_id", "resume")
    given = {"thread_id": 5, "text": "hi", "_thread_id": "...", "resume": 1}
    assert tool.graph_input(given) == {"thread_id": 5, "text": "hi"}


@pytest.mark.parametrize(
    "schema", [None, {}, {"type": "string"}, {"$ref": "#/$defs/A", "$defs": {"A": {"type": "null"}}}]
)
def test_every_schema_becomes_that_of_an_object(schema: Any) -> None:
    assert ToolInput.of(schema).schema["type"] == "object"


class Leaf(BaseModel):
    name: str
    children: list[Leaf] = []


def test_definitions_that_are_used_stay() -> None:
    tool = ToolInput.of(TypeAdapter(Leaf).json_schema())
    assert tool.schema["properties"].keys() == {"name", "children", "thread_id", "resume"}
    assert tool.schema["$defs"].keys() == {"Leaf"}
    assert tool.whole is None


class Conversation(BaseModel):
    messages: list[AnyMessage]
    leaf: Leaf


def test_of_message_classes_nothing_stays() -> None:
    schema = TypeAdapter(Conversation).json_schema()
    tool = ToolInput.of(schema)
    assert len(json.dumps(schema)) > 15_000
    assert len(json.dumps(tool.schema)) < 1_500
    assert tool.schema["$defs"].keys() == {"Leaf"}
    assert "AnyMessage" not in json.dumps(tool.schema)


# --- forms ---


def question(schema: Any = None) -> dict[str, Any]:
    return {"id": "a" * 32, "value": "may I?", **({"response_schema": schema} if schema else {})}


def answered(schema: Any, content: dict[str, Any]) -> Any:
    """What a graph is told when a form for this schema is filled in with this."""
    asked = input_required(UUID(int=1), [question(schema)])
    found = answers(json.loads(asked["requestState"]), {"a" * 32: {"action": "accept", "content": content}})
    assert found is not None
    return found["a" * 32]


@pytest.mark.parametrize(
    ("schema", "content", "answer"),
    [
        (None, {"answer": "yes"}, "yes"),
        (None, {"answer": "5"}, "5"),
        (None, {"answer": ' {"a": 5}'}, {"a": 5}),
        (None, {"answer": "[1]"}, [1]),
        (None, {"answer": "{not json"}, "{not json"),
        ({"type": "boolean"}, {"answer": True}, True),
        ({"type": "integer"}, {"answer": 5}, 5),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, {"a": "{}"}, {"a": "{}"}),
        ({"type": "object", "properties": {"answer": {"type": "string"}}}, {"answer": "x"}, {"answer": "x"}),
        ({"type": "object", "properties": {"a": {"type": "array"}}}, {"answer": '{"a": [1]}'}, {"a": [1]}),
        ({"$ref": "#/$defs/A"}, {"answer": "x"}, "x"),
    ],
)
def test_an_answer_has_the_shape_that_was_asked_for(schema: Any, content: dict[str, Any], answer: Any) -> None:
    assert answered(schema, content) == answer


def test_a_form_is_flat() -> None:
    nested = {"type": "object", "properties": {"a": {"type": "object"}}}
    asked = input_required(UUID(int=1), [question(nested)])
    [request] = asked["inputRequests"].values()
    assert request["params"]["requestedSchema"]["properties"]["answer"]["type"] == "string"
    assert request["params"]["message"] == "may I?"


@pytest.mark.parametrize("value", ["text", "", "{", '{"a": 1e999}', 5, None, True])
def test_what_is_no_json_object_in_a_text_stays_as_it_is(value: Any) -> None:
    assert meant(value) == value
