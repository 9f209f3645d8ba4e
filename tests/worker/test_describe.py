from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypedDict

import pytest
import typing_extensions
from langchain_core.messages import AnyMessage
from langchain_core.runnables.graph import Graph as DrawableGraph
from langgraph.channels import DeltaChannel
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.managed import RemainingSteps
from langgraph.pregel.remote import RemoteGraph
from pydantic import BaseModel

from holdfast.worker.describe import drawing, schemas, subgraphs

FIVE = {"input_schema", "output_schema", "state_schema", "config_schema", "context_schema"}


class Nested(TypedDict):
    word: str


class PlainState(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    nested: list[Nested] | None
    n: int


class UntypedMessages(TypedDict):
    messages: Annotated[list, add_messages]


class DeltaState(TypedDict):
    lines: Annotated[list[str], DeltaChannel(lambda old, new: [*old, *new])]
    steps: RemainingSteps


class ModelState(BaseModel):
    n: int = 0


@dataclasses.dataclass
class DataState:
    n: int = 0
    factory: Callable[[int], str] | None = None


class AwkwardState(typing_extensions.TypedDict):
    n: int
    lock: threading.Lock


class Settings(typing_extensions.TypedDict):
    model: str


@dataclasses.dataclass
class DataSettings:
    model: str = "small"


class Tuning(TypedDict):
    depth: int


def leaf(state_schema: Any, **options: Any) -> Any:
    return StateGraph(state_schema, **options).add_node("leaf", lambda _: {}).add_edge(START, "leaf").compile()


def family() -> Any:
    middle = StateGraph(MessagesState).add_node("inner", leaf(MessagesState)).add_edge(START, "inner").compile()
    builder = StateGraph(MessagesState)
    builder.add_node("sub", middle)
    builder.add_node("ask", lambda _: {}, metadata={"owner": object()})
    builder.add_edge(START, "ask")
    builder.add_conditional_edges("ask", lambda _: "yes", {"yes": "sub", "no": "__end__"})
    return builder.compile()


def names(drawn: dict[str, list[dict[str, Any]]]) -> set[str]:
    return {node["id"] for node in drawn["nodes"]}


@pytest.mark.anyio
async def test_a_drawing_has_nodes_and_edges_in_the_contracts_shape() -> None:
    drawn = await drawing(family())

    assert json.loads(json.dumps(drawn)) == drawn
    assert names(drawn) == {"__start__", "ask", "sub", "__end__"}
    assert all(node["type"] == "runnable" and node["data"]["name"] == node["id"] for node in drawn["nodes"])
    assert {"source": "__start__", "target": "ask"} in drawn["edges"]
    assert {"source": "ask", "target": "sub", "conditional": True, "data": "yes"} in drawn["edges"]
    assert {"source": "ask", "target": "__end__", "conditional": True, "data": "no"} in drawn["edges"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("xray", "inside"), [(False, "sub"), (1, "sub:inner"), (2, "sub:inner:leaf"), (True, "sub:inner:leaf")]
)
async def test_xray_opens_subgraphs_as_deep_as_it_says(xray: bool | int, inside: str) -> None:
    assert names(await drawing(family(), xray)) == {"__start__", "ask", inside, "__end__"}


@pytest.mark.anyio
async def test_remote_graph_reads_our_drawing() -> None:
    drawn = await drawing(family(), xray=True)

    class Answers:
        class assistants:  # noqa: N801
            @staticmethod
            async def get_graph(**_: Any) -> Any:
                return drawn

    graph = await RemoteGraph("agent", client=Answers()).aget_graph()  # type: ignore[arg-type]

    assert isinstance(graph, DrawableGraph)
    assert set(graph.nodes) == names(drawn)
    assert "sub:inner:leaf" in graph.draw_mermaid().replace("\\3a", ":")


def properties(schema: dict[str, Any]) -> set[str]:
    return set(schema["properties"])


@pytest.mark.parametrize(
    ("state", "fields"),
    [
        (MessagesState, {"messages"}),
        (PlainState, {"messages", "nested", "n"}),
        (UntypedMessages, {"messages"}),
        (DeltaState, {"lines", "steps"}),
        (ModelState, {"n"}),
        (DataState, {"n", "factory"}),
        (AwkwardState, {"n", "lock"}),
    ],
)
def test_every_state_gets_the_schemas_that_can_be_said(state: type, fields: set[str]) -> None:
    described = schemas(leaf(state), "agent")

    assert set(described) == {"graph_id", *FIVE}
    assert json.loads(json.dumps(described)) == described
    assert described["graph_id"] == "agent"
    for key in ("input_schema", "output_schema", "state_schema"):
        assert properties(described[key]) == fields, key
    assert described["config_schema"] is None
    assert described["context_schema"] is None


def test_a_typed_dict_inside_the_state_keeps_its_fields() -> None:
    schema = schemas(leaf(PlainState), "agent")["input_schema"]

    assert schema["$defs"]["Nested"]["properties"]["word"]["type"] == "string"
    assert schema["properties"]["n"]["type"] == "integer"


def test_input_and_output_have_schemas_of_their_own() -> None:
    class Question(typing_extensions.TypedDict):
        question: str

    class Answer(typing_extensions.TypedDict):
        answer: str

    class Both(Question, Answer):
        pass

    graph = leaf(Both, input_schema=Question, output_schema=Answer)

    described = schemas(graph, "agent")

    assert properties(described["input_schema"]) == {"question"}
    assert properties(described["output_schema"]) == {"answer"}
    assert properties(described["state_schema"]) == {"question", "answer"}


@pytest.mark.parametrize(("context", "field"), [(Settings, "model"), (DataSettings, "model"), (Tuning, "depth")])
def test_the_context_describes_the_config_too(context: type, field: str) -> None:
    described = schemas(leaf(MessagesState, context_schema=context), "agent")

    assert properties(described["context_schema"]) == {field}
    assert described["config_schema"] == described["context_schema"]


def test_a_functional_graph_is_described() -> None:
    @entrypoint()
    def double(numbers: Sequence[int]) -> int:
        return 2 * sum(numbers)

    described = schemas(double, "agent")

    assert described["input_schema"]["type"] == "array"
    assert described["output_schema"]["type"] == "integer"


def test_subgraphs_are_described_by_namespace() -> None:
    graph = family()

    assert set(subgraphs(graph)) == {"sub"}
    assert set(subgraphs(graph, recurse=True)) == {"sub", "sub|inner"}
    assert set(subgraphs(graph, recurse=True, namespace="sub|inner")) == {"sub|inner"}
    assert subgraphs(graph, recurse=True, namespace="nobody") == {}
    assert set(subgraphs(graph)["sub"]) == FIVE
    assert properties(subgraphs(graph)["sub"]["input_schema"]) == {"messages"}
