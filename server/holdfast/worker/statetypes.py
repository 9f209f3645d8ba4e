"""Which classes a graph's checkpoints may turn back into objects.

A checkpoint names the class of a value, and reading it imports and calls that class. Whoever can write to
the database could name any callable, so the serializer gets a list: the classes that the graph itself
declares for its state, found by walking the annotations of its schemas (state, input, output, context, and
the input of every node, which is what `Send` carries), its channels, the `@task` functions that its nodes
call, and its subgraphs. Subclasses count where they live in the same top-level package as their declared
base: `shapes: list[Shape]` holds circles.

Not found, since no annotation of the graph names them: values handed to `interrupt()`, and classes hidden
behind `Any`. They come back as plain data.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from langgraph.channels.base import BaseChannel
from langgraph.func import _TaskFunction
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from typing_extensions import is_typeddict

# How the msgpack serializer recognises what it stores by class name, besides dataclasses and enums.
_STORED_BY_METHOD = ("model_dump", "get_secret_value", "dict", "_asdict")

_UNRESOLVED = (NameError, TypeError, AttributeError, SyntaxError, ValueError)


def allow_list(graph: Pregel[Any, Any, Any, Any]) -> frozenset[tuple[str, str]]:
    """The `(module, class name)` pairs for `JsonPlusSerializer(allowed_msgpack_modules=...)`."""
    return frozenset((cls.__module__, cls.__name__) for cls in _reachable(_seeds(graph)) if _is_stored_by_name(cls))


def _seeds(graph: Pregel[Any, Any, Any, Any]) -> Iterator[Any]:
    yield from _schemas(graph)
    for _, subgraph in graph.get_subgraphs(recurse=True):
        if isinstance(subgraph, Pregel):
            yield from _schemas(subgraph)


def _schemas(graph: Pregel[Any, Any, Any, Any]) -> Iterator[Any]:
    yield graph.context_schema
    for channel in graph.channels.values():
        if isinstance(channel, BaseChannel):
            yield channel.ValueType
            yield channel.UpdateType
    for node in graph.nodes.values():
        yield from _task_results(node.bound)
    if isinstance(graph, CompiledStateGraph):
        builder = graph.builder
        yield from (builder.state_schema, builder.input_schema, builder.output_schema)
        yield from (node.input_schema for node in builder.nodes.values())
        yield from (branch.input_schema for branches in builder.branches.values() for branch in branches.values())


def _task_results(runnable: object) -> Iterator[Any]:
    """What the tasks of the functional API return: each result is saved, and read back instead of running
    it again."""
    functions = [getattr(runnable, "func", None), getattr(runnable, "afunc", None)]
    seen: set[int] = set()
    while functions:
        function = functions.pop()
        if not inspect.isfunction(function) or id(function) in seen:
            continue
        seen.add(id(function))
        yield from _annotations(function, {"return"})
        functions.extend(task.func for task in _tasks_used_by(function))


def _tasks_used_by(function: Callable[..., Any]) -> Iterator[_TaskFunction[Any, Any]]:
    try:
        closure = inspect.getclosurevars(function)
    except ValueError:  # a cell that is still empty: the function refers to something that was never assigned
        return
    for value in [*closure.globals.values(), *closure.nonlocals.values()]:
        if isinstance(value, _TaskFunction):
            yield value


def _reachable(seeds: Iterable[Any]) -> Iterator[type]:
    """Every class that the annotations mention, at any depth."""
    waiting = list(seeds)
    seen: dict[int, Any] = {}  # holds what it has seen: an id is unique only while its object lives
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item
        if inspect.isclass(item) and get_origin(item) is None:
            yield item
            waiting.extend(_inside_class(item))
        else:
            waiting.extend(_inside_annotation(item))


def _inside_annotation(item: Any) -> Iterable[Any]:
    origin = get_origin(item)
    if origin is Literal:
        return [type(value) for value in get_args(item)]
    if origin is Annotated:
        return get_args(item)[:1]
    if origin is not None:
        return [origin, *get_args(item)]
    if isinstance(item, list):  # the parameters of a Callable
        return item
    if isinstance(item, TypeVar):
        return [item.__bound__, *item.__constraints__]
    return [getattr(item, name) for name in ("__supertype__", "__value__") if hasattr(item, name)]


def _inside_class(cls: type) -> Iterable[Any]:
    fields: Iterable[Any] = ()
    if isinstance(models := getattr(cls, "model_fields", None), dict):
        fields = [field.annotation for field in models.values()]
    elif is_typeddict(cls) or dataclasses.is_dataclass(cls) or hasattr(cls, "_asdict"):
        fields = _annotations(cls, None)
    return [*fields, *_subclasses_at_home(cls)] if _is_stored_by_name(cls) else fields


def _subclasses_at_home(cls: type) -> Iterable[type]:
    home = cls.__module__.partition(".")[0]
    subclasses: list[type] = type.__subclasses__(cls)
    return [sub for sub in subclasses if sub.__module__.partition(".")[0] == home]


def _annotations(subject: Any, only: set[str] | None) -> Iterable[Any]:
    """The resolved annotations; where one does not resolve (a name imported for type checkers only), those
    that do."""
    try:
        hints = get_type_hints(subject, include_extras=True)
    except _UNRESOLVED:
        hints = _resolvable(subject)
    return [hint for name, hint in hints.items() if only is None or name in only]


def _resolvable(subject: Any) -> dict[str, Any]:
    names = vars(sys.modules.get(subject.__module__, sys))
    hints: dict[str, Any] = {}
    for owner in reversed(inspect.getmro(subject)) if inspect.isclass(subject) else [subject]:
        for name, annotation in inspect.get_annotations(owner).items():
            probe = type("Probe", (), {"__annotations__": {name: annotation}})
            try:
                hints |= get_type_hints(probe, globalns=dict(names), include_extras=True)
            except _UNRESOLVED:
                continue
    return hints


def _is_stored_by_name(cls: type) -> bool:
    if dataclasses.is_dataclass(cls) or issubclass(cls, Enum):
        return True
    return any(callable(getattr(cls, method, None)) for method in _STORED_BY_METHOD)
