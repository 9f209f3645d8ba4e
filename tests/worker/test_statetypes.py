from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from tests.worker.project_files import loaded

pytestmark = pytest.mark.anyio

TYPED = """
from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from pydantic import BaseModel

class Color(Enum):
    RED = "red"

class Level(Enum):
    HIGH = 3

@dataclasses.dataclass
class Point:
    x: int
    color: Color

class Shape(BaseModel):
    name: str

class Circle(Shape):
    radius: float

class Order(BaseModel):
    level: Level
    shape: Shape

class Pair(NamedTuple):
    a: int
    b: int

@dataclasses.dataclass
class Job:
    number: int

@dataclasses.dataclass
class Settings:
    model: str = "m"

@dataclasses.dataclass
class Inner:
    z: int

@dataclasses.dataclass
class Result:
    text: str

class State(TypedDict, total=False):
    points: Annotated[list[Point], lambda a, b: (a or []) + b]
    order: Order | None
    shapes: Sequence[Shape]
    pair: dict[str, Pair]

class SubState(TypedDict, total=False):
    inner: Inner

def work(job: Job) -> dict[str, Any]:
    return {"points": [Point(job.number, Color.RED)]}

sub = StateGraph(SubState).add_node("leaf", lambda state: {}).add_edge(START, "leaf").compile()

builder = StateGraph(State, context_schema=Settings)
builder.add_node("work", work)
builder.add_node("sub", sub)
builder.add_edge(START, "sub")
builder.add_conditional_edges("sub", lambda state: [Send("work", Job(1))], ["work"])
graph = builder.compile()

def make():
    return builder

@task
def deepest(n: int) -> Result:
    return Result(str(n))

@task
def compute(n: int) -> int:
    return len(deepest(n).result().text)

@entrypoint()
def functional(n: int) -> int:
    return compute(n).result()

# Nothing that the graphs declare:
@dataclasses.dataclass
class Foreign:
    a: int
"""


def round_trip(serializer: JsonPlusSerializer, value: Any) -> Any:
    return serializer.loads_typed(serializer.dumps_typed(value))


async def test_the_graphs_own_types_are_read_back_and_no_others(tmp_path: Path) -> None:
    async with loaded(tmp_path, {"typed.py": TYPED}, graphs={"agent": "./typed.py:graph"}) as graphs:
        allowed = graphs.serde_allow_list("agent")
        serializer = JsonPlusSerializer(allowed_msgpack_modules=allowed)
        t = sys.modules["typed"]
        own = {
            "point": t.Point(1, t.Color.RED),
            "order": t.Order(level=t.Level.HIGH, shape=t.Shape(name="s")),
            "circle": t.Circle(name="c", radius=1.5),
            "pair": t.Pair(1, 2),
            "job": t.Job(7),
            "context": t.Settings(),
            "inner": t.Inner(3),
            "color": t.Color.RED,
        }
        assert round_trip(serializer, own) == own
        assert {name: type(value) for name, value in round_trip(serializer, own).items()} == {
            name: type(value) for name, value in own.items()
        }
        assert round_trip(serializer, t.Foreign(1)) == {"a": 1}
        assert {module for module, _ in allowed} <= {"typed", "langgraph.types", "pydantic.main"}


async def test_results_of_tasks_are_read_back(tmp_path: Path) -> None:
    async with loaded(tmp_path, {"typed.py": TYPED}, graphs={"agent": "./typed.py:functional"}) as graphs:
        serializer = JsonPlusSerializer(allowed_msgpack_modules=graphs.serde_allow_list("agent"))
        t = sys.modules["typed"]

        assert round_trip(serializer, t.Result("x")) == t.Result("x")
        assert round_trip(serializer, t.Foreign(1)) == {"a": 1}


@pytest.mark.parametrize("attribute", ["graph", "make"])
async def test_a_strict_saver_reads_typed_state_back_through_the_graph(tmp_path: Path, attribute: str) -> None:
    saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None))
    config: Any = {"configurable": {"thread_id": "1"}}

    async with loaded(tmp_path, {"typed.py": TYPED}, graphs={"agent": f"./typed.py:{attribute}"}) as graphs:
        t = sys.modules["typed"]
        async with graphs.open("agent", config, checkpointer=saver, store=None) as graph:
            await graph.ainvoke({"shapes": [t.Circle(name="c", radius=2)]}, config)
        async with graphs.open("agent", config, checkpointer=saver, store=None) as graph:
            values = (await graph.aget_state(config)).values
        assert values == {"points": [t.Point(1, t.Color.RED)], "shapes": [t.Circle(name="c", radius=2)]}
        assert ("typed", "Point") in graphs.serde_allow_list("agent")


async def test_types_that_cannot_be_resolved_do_not_hide_the_others(tmp_path: Path) -> None:
    code = """
        from __future__ import annotations
        import dataclasses
        from typing import TYPE_CHECKING
        from typing_extensions import TypedDict
        from langgraph.graph import START, StateGraph

        if TYPE_CHECKING:
            from decimal import Decimal

        @dataclasses.dataclass
        class Leaf:
            n: int

        @dataclasses.dataclass
        class Branch:
            price: Decimal
            leaf: Leaf

        class State(TypedDict):
            branch: Branch

        graph = StateGraph(State).add_node("x", lambda state: {}).add_edge(START, "x").compile()
        """

    async with loaded(tmp_path, {"agent.py": code}) as graphs:
        assert graphs.serde_allow_list("agent") == {("agent", "Branch"), ("agent", "Leaf")}
