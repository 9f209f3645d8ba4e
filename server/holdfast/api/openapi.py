"""The OpenAPI document: what the routes say of themselves (`api/documents.py`), and what they refer to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pkgutil import resolve_name
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from holdfast.api.documents import (
    EXAMPLE_GRAPH,
    HEADER_PARAMETERS,
    HEADERS,
    MODEL,
    PART_OF,
    PATH_PARAMETERS,
    REFUSAL_HEADERS,
    REFUSALS,
    Document,
    json_of,
    place,
    reference,
)
from holdfast.wire.problems import Problem

PART = "Selected"
"""In front of the name of a model of which a request may select some fields."""

OPEN = "System"
"""The tag of operations that ask nobody who they are."""

TAGS = [
    {"name": OPEN, "description": "Health, identity and figures; these ask nobody who they are."},
    {"name": "Assistants", "description": "A graph under a name, with settings of its own, in versions."},
    {"name": "Threads", "description": "Conversations: metadata, states, history, and what all their runs say."},
    {"name": "Thread Runs", "description": "Executions of an assistant on a thread: started, followed, cancelled."},
    {"name": "Stateless Runs", "description": "Runs that get a thread of their own, which goes with them."},
    {"name": "Crons", "description": "Runs that are started by the clock."},
    {"name": "Approvals", "description": "Questions that graphs asked, who decided what, and when."},
    {"name": "Store", "description": "Items in namespaces, which outlive their threads. Nodes reach the same ones."},
    {"name": "MCP", "description": "The Model Context Protocol: every assistant is a tool."},
    {"name": "A2A", "description": "Agent2Agent: every assistant is an agent."},
]

_SECURITY: Mapping[str, Document] = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
}


def document(app: FastAPI) -> Document:
    """The OpenAPI document of an application's routes, made once."""
    if app.openapi_schema is None:
        services = app.state.services
        drawn = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=TAGS
        )
        app.openapi_schema = _completed(drawn, services.catalog.ids()[0], locked=services.settings.authenticates)
    return app.openapi_schema


def operation_id(route: APIRoute) -> str:
    """`threads_create`, `thread_runs_stream`: the resource and what is done."""
    return "_".join(map(str, [*route.tags, route.name])).lower().replace(" ", "_")


def apart(part: Document, taken: Document) -> Document:
    """A document whose schemas are called otherwise where `taken` has others of the same name."""
    ours = taken.get("components", {}).get("schemas", {})
    theirs = part.get("components", {}).get("schemas", {})
    clashing = {name for name, schema in theirs.items() if ours.get(name, schema) != schema}
    references = {reference("schemas", name)["$ref"]: reference("schemas", f"App{name}")["$ref"] for name in clashing}

    def renamed(node: Document) -> Document:
        return {**node, "$ref": references.get(node["$ref"], node["$ref"])} if "$ref" in node else node

    if not clashing:
        return part
    moved = _each_object(part, renamed)
    schemas = {
        f"App{name}" if name in clashing else name: schema for name, schema in moved["components"]["schemas"].items()
    }
    return {**moved, "components": {**moved["components"], "schemas": schemas}}


def _completed(drawn: Document, graph_id: str, *, locked: bool) -> Document:
    """The framework's document with everything that is named in it."""
    for operation in _operations(drawn):
        _settle(operation)
    models = {name: resolve_name(name) for name in sorted({*_models(drawn), place(Problem)})}
    references, schemas = models_json_schema(
        [(model, "validation") for model in models.values()],
        ref_template=reference("schemas", "{model}")["$ref"],
    )
    known = {name: references[model, "validation"]["$ref"] for name, model in models.items()}
    parts: dict[str, Document] = {}

    def referring(node: Document) -> Document:
        if MODEL in node:
            return {"$ref": known[node[MODEL]]}
        if PART_OF in node:
            name = known[node[PART_OF]].rsplit("/", 1)[1]
            whole = schemas["$defs"][name]
            parts[PART + name] = {**whole, "required": [], "description": f"The selected fields of a {name}."}
            return reference("schemas", PART + name)
        if "examples" in node:
            return {**node, "examples": [_of_graph(example, graph_id) for example in node["examples"]]}
        return node

    completed: Document = _each_object(drawn, referring)
    components = {**_common(), "schemas": dict(sorted({**schemas["$defs"], **parts}.items()))}
    completed["components"] = _each_object(components, referring)
    if locked:
        _lock(completed)
    return completed


def _lock(completed: Document) -> None:
    completed["components"]["securitySchemes"] = dict(_SECURITY)
    completed["security"] = [{name: []} for name in _SECURITY]
    for operation in _operations(completed):
        if operation["tags"] == [OPEN]:
            operation["security"] = []


def _common() -> Document:
    """The components that are no schemas."""
    problem = json_of(reference("schemas", Problem.__name__))
    return {
        "responses": {
            name: {
                "description": meaning,
                "content": problem,
                "headers": {header: reference("headers", header) for header in REFUSAL_HEADERS.get(status, ())},
            }
            for status, (name, meaning) in REFUSALS.items()
        },
        "headers": dict(HEADERS),
        "parameters": {
            **{
                name: {"name": name, "in": "path", "required": True, "description": meaning, "schema": schema}
                for name, (meaning, schema) in PATH_PARAMETERS.items()
            },
            **{
                name: {"name": name, "in": "header", "description": meaning, "schema": schema}
                for name, (meaning, schema) in HEADER_PARAMETERS.items()
            },
        },
    }


def _operations(drawn: Document) -> Iterator[Document]:
    for path in drawn["paths"].values():
        yield from path.values()


def _models(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if MODEL in node:
            yield node[MODEL]
        for value in node.values():
            yield from _models(value)
    elif isinstance(node, list):
        for value in node:
            yield from _models(value)


def _each_object(node: Any, change: Callable[[Document], Document]) -> Any:
    """A copy in which every object went through `change`, the outer ones first."""
    if isinstance(node, dict):
        return {key: _each_object(value, change) for key, value in change(node).items()}
    return [_each_object(value, change) for value in node] if isinstance(node, list) else node


def _settle(operation: Document) -> None:
    """Refer to what is described elsewhere, and take out what the framework believes that we answer to bad input."""
    operation["responses"] = {
        status: {"$ref": response["$ref"]} if "$ref" in response else response
        for status, response in operation["responses"].items()
        if "HTTPValidationError" not in str(response)
    }
    if "parameters" in operation:
        operation["parameters"] = [
            reference("parameters", parameter["name"]) if parameter.get("in") == "path" else parameter
            for parameter in operation["parameters"]
        ]


def _of_graph(example: Any, graph_id: str) -> Any:
    if isinstance(example, dict):
        return {key: _of_graph(value, graph_id) for key, value in example.items()}
    if isinstance(example, list):
        return [_of_graph(value, graph_id) for value in example]
    return graph_id if example == EXAMPLE_GRAPH else example
