"""What a graph looks like from outside: its drawing, its JSON schemas, its subgraphs.

Schemas are derived from whatever types the user annotated the state with, and JSON schema cannot say all of
them. Then the part that can be said is (`{}`, "anything", for a field that cannot), and None stands for a
schema that cannot be derived at all; describing a graph never fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin, get_type_hints

from langgraph.channels.base import BaseChannel
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict, is_typeddict

Schema: TypeAlias = dict[str, Any]
Graph: TypeAlias = Pregel[Any, Any, Any, Any]

_REFERENCE = "#/$defs/{model}"
_FIVE = ("input_schema", "output_schema", "state_schema", "config_schema", "context_schema")


class _QuietJsonSchema(GenerateJsonSchema):
    """Leaves out what it cannot express (a default that is no JSON, say) without a Python warning per
    request."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}


async def drawing(graph: Graph, xray: bool | int = False) -> dict[str, list[dict[str, Any]]]:
    """Nodes `{id, type, data, [metadata]}` and edges `{source, target, [conditional], [data]}`, `__start__`
    and `__end__` included. `xray` draws the inside of subgraphs: of all, or down to that depth, as
    `sub:node`.
    """
    drawn = (await graph.aget_graph(xray=xray)).to_json()
    return {
        "nodes": [_node(node) for node in drawn["nodes"]],
        "edges": [{**edge, "source": str(edge["source"]), "target": str(edge["target"])} for edge in drawn["edges"]],
    }


def schemas(graph: Graph, graph_id: str) -> dict[str, Any]:
    """`graph_id` and the JSON schemas of input, output, state, config (its `configurable`) and context."""
    return {"graph_id": graph_id, **_five_schemas(graph)}


def unknown_schemas(graph_id: str) -> dict[str, Any]:
    """What `schemas` says of a graph that cannot be looked at."""
    return {"graph_id": graph_id, **dict.fromkeys(_FIVE)}


def subgraphs(graph: Graph, recurse: bool = False, namespace: str | None = None) -> dict[str, dict[str, Any]]:
    """The five schemas of each subgraph by its namespace (`parent|child`), or of the one at `namespace`."""
    found = graph.get_subgraphs(namespace=namespace, recurse=recurse)
    return {name: _five_schemas(subgraph) for name, subgraph in found if isinstance(subgraph, Pregel)}


def _node(node: dict[str, Any]) -> dict[str, Any]:
    name = str(node["id"])
    data = node.get("data")
    if not isinstance(data, dict):  # __end__ has none; a few kinds of node have only their name
        data = {"name": data or name}
    shape = {"id": name, "type": "runnable", "data": data}
    if "metadata" in node:
        # Users may hang anything on a node; what JSON cannot carry becomes its repr.
        shape["metadata"] = json.loads(json.dumps(node["metadata"], default=repr, skipkeys=True))
    return shape


def _five_schemas(graph: Graph) -> dict[str, Schema | None]:
    context = _first(graph.get_context_jsonschema, lambda: _of_type(graph.context_schema))
    return {
        "input_schema": _first(graph.get_input_jsonschema, lambda: _of_fields("Input", _input_fields(graph))),
        "output_schema": _first(graph.get_output_jsonschema, lambda: _of_fields("Output", _output_fields(graph))),
        "state_schema": _first(lambda: _of_type(_state_type(graph)), lambda: _of_fields("State", _state_fields(graph))),
        # Either of config.configurable and context fills the other, so they have one schema.
        "config_schema": context,
        "context_schema": context,
    }


def _first(*ways: Callable[[], Schema | None]) -> Schema | None:
    for way in ways:
        try:
            schema = way()
        except Exception:  # noqa: BLE001, S112 - the user's types decide what goes wrong in here
            continue
        if schema is not None:
            return schema
    return None


def _state_type(graph: Graph) -> Any:
    return graph.builder.state_schema if isinstance(graph, CompiledStateGraph) else None


def _state_fields(graph: Graph) -> Mapping[str, Any]:
    return _typed_fields(_state_type(graph)) or _channel_fields(graph, list(graph.stream_channels_list))


def _input_fields(graph: Graph) -> Mapping[str, Any]:
    if isinstance(graph, CompiledStateGraph):
        return _typed_fields(graph.builder.input_schema)
    return _channel_fields(graph, graph.input_channels)


def _output_fields(graph: Graph) -> Mapping[str, Any]:
    if isinstance(graph, CompiledStateGraph):
        return _typed_fields(graph.builder.output_schema)
    return _channel_fields(graph, graph.output_channels)


def _typed_fields(cls: Any) -> Mapping[str, Any]:
    return get_type_hints(cls, include_extras=True) if isinstance(cls, type) else {}


def _channel_fields(graph: Graph, names: Any) -> Mapping[str, Any]:
    keys = [names] if isinstance(names, str) else list(names)
    channels = {key: graph.channels[key] for key in keys}
    return {key: channel.UpdateType for key, channel in channels.items() if isinstance(channel, BaseChannel)}


def _of_type(annotation: Any) -> Schema | None:
    if annotation is None:
        return None
    return TypeAdapter(_portable(annotation)).json_schema(schema_generator=_QuietJsonSchema)


def _of_fields(title: str, fields: Mapping[str, Any]) -> Schema | None:
    """An object schema, field by field: one that cannot be expressed does not take the others with it."""
    if not fields:
        return None
    adapters = {key: adapter for key, hint in fields.items() if (adapter := _adapter(hint)) is not None}
    schemas, shared = TypeAdapter.json_schemas(
        [(key, "validation", adapter) for key, adapter in adapters.items()],
        ref_template=_REFERENCE,
        schema_generator=_QuietJsonSchema,
    )
    properties = {key: schemas.get((key, "validation"), {}) for key in fields}
    return {"title": title, "type": "object", "properties": properties, **shared}


def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    try:
        adapter = TypeAdapter[Any](_portable(annotation))
        adapter.json_schema(schema_generator=_QuietJsonSchema)
    except Exception:  # noqa: BLE001 - the user's types decide what goes wrong in here
        return None
    return adapter


def _portable(annotation: Any) -> Any:
    """The same type, with `typing.TypedDict`s, which pydantic refuses before Python 3.12, made anew as
    `typing_extensions.TypedDict`s, at any depth that generics reach."""
    if is_typeddict(annotation):
        return _portable_typed_dict(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return Annotated[_portable(arguments[0]), *arguments[1:]]
    inside = tuple(map(_portable, arguments))
    if inside == arguments:
        return annotation
    if origin is UnionType:
        return Union[inside]  # noqa: UP007 - the members are only known here
    return origin[inside if len(inside) > 1 else inside[0]]


def _portable_typed_dict(cls: Any) -> Any:
    if type(cls).__module__ != "typing":
        return cls
    fields = {key: _portable(hint) for key, hint in get_type_hints(cls, include_extras=True).items()}
    return TypedDict(cls.__name__, fields, total=cls.__total__)  # type: ignore[operator]
