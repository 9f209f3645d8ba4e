"""Assistants as MCP tools: names, input schemas and results, in the shapes of the MCP specification.

A tool's input is the graph's, with two properties more (named in `Controls`) that an interrupt makes necessary: a run
that asks something keeps its thread, and the next call answers it there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from holdfast.wire import codec

Schema = dict[str, Any]

NAME_LENGTH = 64
"""The MCP specification allows 128 characters, some model providers no more than this."""

_NO_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_PRIMITIVES = frozenset({"string", "number", "integer", "boolean"})
_REFERENCE = "#/$defs/"

_MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": {"type": "string", "enum": ["user", "assistant", "system"]},
        "content": {"type": "string"},
    },
    "required": ["role", "content"],
}


def tool_names(assistants: Iterable[Mapping[str, Any]], system: Collection[UUID]) -> dict[str, Mapping[str, Any]]:
    """The assistants by the names of their tools, in a stable order.

    A name that several assistants have belongs to the project's own graph (`system`), if one has it; all others carry a
    piece of their id. So a name never passes from one assistant to another.
    """
    rows = sorted(assistants, key=lambda row: (row["assistant_id"] not in system, row["graph_id"], row["assistant_id"]))
    claims: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        claims.setdefault(_base_name(row), []).append(row)
    named: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        base = _base_name(row)
        own = [rival for rival in claims[base] if rival["assistant_id"] in system]
        named[base if [row] in (claims[base], own) else _marked(base, row["assistant_id"])] = row
    return named


@dataclass(frozen=True, slots=True)
class Controls:
    """What a call may say besides the graph's input; a graph that has such a key itself keeps it."""

    thread_id: str
    resume: str


@dataclass(frozen=True, slots=True)
class ToolInput:
    """A tool's input: its JSON schema, and how arguments become the graph's input.

    `whole` names the argument that is the input of a graph that does not take an object.
    """

    schema: Schema
    controls: Controls
    whole: str | None

    @classmethod
    def of(cls, graph: Schema | None) -> ToolInput:
        """From the graph's input schema; None where none could be derived."""
        graph = _root(graph) if graph is not None else {"type": "object"}
        whole = None
        if "properties" not in graph and graph.get("type") != "object":
            definitions = {"$defs": graph.pop("$defs")} if "$defs" in graph else {}
            graph, whole = {"type": "object", "properties": {"input": graph}, **definitions}, "input"
        properties = dict(graph.get("properties", {}))
        for name, schema in properties.items():
            properties[name] = _without_message_classes(schema)
        controls = Controls(_free("thread_id", properties), _free("resume", properties))
        # A call that answers a question gives no input, so nothing can be required here: the graph says what it lacks.
        schema = {key: value for key, value in graph.items() if key != "required"}
        schema |= {"type": "object", "properties": {**properties, **_control_schemas(controls)}}
        return cls(_with_used_definitions(schema), controls, whole)

    def graph_input(self, arguments: Mapping[str, Any]) -> Any:
        """What of a call's arguments is the graph's."""
        if self.whole is not None:
            return arguments.get(self.whole)
        return {
            key: value for key, value in arguments.items() if key not in (self.controls.thread_id, self.controls.resume)
        }


def tool_view(name: str, assistant: Mapping[str, Any], input_schema: Schema) -> dict[str, Any]:
    """An assistant as clients see it in `tools/list`."""
    return {
        "name": name,
        "title": assistant["name"],
        "description": assistant["description"] or f"Runs the agent {assistant['name']}.",
        "inputSchema": input_schema,
    }


def page(tools: list[dict[str, Any]], cursor: str | None) -> dict[str, Any]:
    """The result of `tools/list`; nobody may keep it for other callers."""
    more = {"nextCursor": cursor} if cursor is not None else {}
    return {"resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private", **more}


def completed(output: Any) -> dict[str, Any]:
    """The result of a run that ended: its output as JSON text, and as structured content if it is an object."""
    structured = {"structuredContent": output} if isinstance(output, dict) else {}
    return {**_result(codec.dumps(output).decode()), **structured}


def failed(message: str) -> dict[str, Any]:
    """The result of a run that failed, in words that a model can act upon."""
    return {**_result(message), "isError": True}


def asked(thread_id: UUID, interrupts: list[Any], output: Any, controls: Controls) -> dict[str, Any]:
    """The result of a run that waits for an answer, and how to give it."""
    how = (
        f"This call needs input. Answer by calling the tool again with {controls.thread_id} and {controls.resume}"
        " (the answer, or {interrupt_id: answer} for each of several interrupts)."
    )
    state = {
        "status": "input_required",
        "thread_id": str(thread_id),
        "interrupts": interrupts,
        "instructions": how,
        "output": output,
    }
    return completed(state)


def input_required(thread_id: UUID, interrupts: list[dict[str, Any]]) -> dict[str, Any]:
    """The same for a client that asks its user by itself (protocol 2026-07-28): one form for each interrupt."""
    forms = {question["id"]: _form(question) for question in interrupts}
    state = {"thread_id": str(thread_id), "whole": [key for key, (_, whole) in forms.items() if whole]}
    return {
        "resultType": "input_required",
        "inputRequests": {
            question["id"]: {
                "method": "elicitation/create",
                "params": {
                    "mode": "form",
                    "message": _words(question["value"]),
                    "requestedSchema": forms[question["id"]][0],
                },
            }
            for question in interrupts
        },
        "requestState": codec.dumps(state).decode(),
    }


def answers(state: Mapping[str, Any], responses: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """`{interrupt_id: answer}` from a client's forms; None if its user would not answer."""
    if any(response.get("action") != "accept" for response in responses.values()):
        return None
    whole = state.get("whole") or []
    given = {key: response.get("content") or {} for key, response in responses.items()}
    return {key: content if key in whole else meant(content.get("answer")) for key, content in given.items()}


def meant(answer: Any) -> Any:
    """An answer without the text around it: a JSON object or list in a text is meant as one."""
    if isinstance(answer, str) and answer.strip()[:1] in ("{", "["):
        try:
            return codec.loads_request(answer.encode(errors="replace"))
        except ValueError:
            return answer
    return answer


def _base_name(assistant: Mapping[str, Any]) -> str:
    names = (assistant["name"] or "", assistant["graph_id"], "assistant")
    return next(filter(None, (_NO_NAME.sub("_", name).strip("_") for name in names)))[:NAME_LENGTH]


def _marked(base: str, assistant_id: UUID) -> str:
    mark = hashlib.sha256(assistant_id.bytes).hexdigest()[:12]
    return f"{base[: NAME_LENGTH - 13]}-{mark}"


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name = f"_{name}"
    return name


def _control_schemas(controls: Controls) -> Schema:
    return {
        controls.thread_id: {
            "type": "string",
            "description": "The conversation to continue. Without it the call stands alone.",
        },
        controls.resume: {
            "description": f"The answer to what an earlier call asked (status input_required), with its"
            f" {controls.thread_id}. All other arguments are ignored then.",
        },
    }


def _root(schema: Schema) -> Schema:
    """The schema with a `$ref` at its root resolved."""
    reference = schema.get("$ref", "")
    if not reference.startswith(_REFERENCE):
        return dict(schema)
    return {**schema["$defs"][reference.removeprefix(_REFERENCE)], "$defs": schema["$defs"]}


def _without_message_classes(schema: Any) -> Any:
    """Lists of LangChain messages as `{role, content}`: their classes' schemas are 20 KB that no model should read."""
    if not (isinstance(schema, dict) and schema.get("type") == "array"):
        return schema
    if f"{_REFERENCE}HumanMessage" not in _references(schema):
        return schema
    return {**schema, "items": _MESSAGE}


def _with_used_definitions(schema: Schema) -> Schema:
    definitions = schema.pop("$defs", {})
    used: set[str] = set()
    found = _references(schema)
    while found:
        names = {reference.removeprefix(_REFERENCE) for reference in found} & definitions.keys() - used
        used |= names
        found = {reference for name in names for reference in _references(definitions[name])}
    return {**schema, "$defs": {name: definitions[name] for name in sorted(used)}} if used else schema


def _references(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return {reference for item in schema for reference in _references(item)}
    if not isinstance(schema, dict):
        return set()
    own = {schema["$ref"]} if isinstance(schema.get("$ref"), str) else set()
    return own | {reference for value in schema.values() for reference in _references(value)}


def _result(text: str) -> dict[str, Any]:
    return {"resultType": "complete", "content": [{"type": "text", "text": text}], "isError": False}


def _words(value: Any) -> str:
    return value if isinstance(value, str) else codec.dumps(value).decode()


def _form(question: Mapping[str, Any]) -> tuple[Schema, bool]:
    """The form for a question, and whether all of it is the answer. Forms are flat: objects of primitives."""
    schema = question.get("response_schema") or {}
    if schema.get("type") in _PRIMITIVES:
        return _answer(schema), False
    properties = schema.get("properties")
    flat = all(isinstance(part, dict) and part.get("type") in _PRIMITIVES for part in (properties or {}).values())
    if schema.get("type") == "object" and properties and flat:
        return {key: schema[key] for key in ("type", "properties", "required") if key in schema}, True
    return _answer({"type": "string", "description": "Text, or a JSON object or list."}), False


def _answer(schema: Schema) -> Schema:
    return {"type": "object", "properties": {"answer": schema}, "required": ["answer"]}
