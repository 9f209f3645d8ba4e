"""The OpenAPI document, and whether an answer is as it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
from openapi_schema_validator import OAS31Validator

Document = dict[str, Any]


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Method, path and what is said of it."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def found(document: Document, node: Document) -> Document:
    """What a reference refers to, or the object itself."""
    while "$ref" in node:
        target = document
        for key in node["$ref"].removeprefix("#/").split("/"):
            target = target[key]
        node = target
    return node


def closed(document: Document) -> Document:
    """The document, with no other fields in what is answered than those that it names.

    For clients it stays open: we may add fields. For us a field that it does not name is a mistake.
    """
    schemas = document["components"]["schemas"]
    waiting = [operation["responses"] for _, _, operation in operations(document)]
    seen = set[str]()
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            name = str(node.get("$ref", "")).rpartition("/")[2]
            if name in schemas and name not in seen:
                seen.add(name)
                waiting.append(schemas[name])
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    for name in seen:
        if "properties" in schemas[name]:
            schemas[name].setdefault("additionalProperties", False)
    return document


def differences(document: Document, schema: Document, value: Any) -> list[str]:
    """Where a value is not as a schema of the document says."""
    validator = OAS31Validator(
        {**schema, "components": document["components"]}, format_checker=OAS31Validator.FORMAT_CHECKER
    )
    return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(value)]


def surprises(document: Document, operation: Document, answer: httpx.Response) -> list[str]:
    """What of an answer the operation does not say: its status, its headers, its media type, its body."""
    said = operation["responses"].get(str(answer.status_code))
    if said is None:
        return [f"{answer.status_code}: {answer.text[:300]}"]
    said = found(document, said)
    headers = {name: found(document, header) for name, header in said.get("headers", {}).items()}
    wrong = [f"no {name}" for name, header in headers.items() if header.get("required") and name not in answer.headers]
    for name, header in headers.items():
        if name in answer.headers:
            wrong += differences(document, header["schema"], answer.headers[name])
    if "content" not in said:
        return [*wrong, *(["a body"] if answer.content else [])]
    media_type = answer.headers["content-type"].partition(";")[0]
    if media_type not in said["content"]:
        return [*wrong, media_type]
    schema = said["content"][media_type]["schema"]
    return wrong + (differences(document, schema, answer.json()) if media_type == "application/json" else [])
