"""The OpenAPI document: it is valid, complete, and says of every operation what clients have to know."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from openapi_spec_validator import OpenAPIV31SpecValidator

from holdfast.api.application import create_app
from holdfast.api.openapi import apart
from tests.support import documents
from tests.support.documents import Document, found

OFFICIAL = """
POST /a2a/{assistant_id}
POST /assistants
POST /assistants/count
POST /assistants/search
DELETE /assistants/{assistant_id}
GET /assistants/{assistant_id}
PATCH /assistants/{assistant_id}
GET /assistants/{assistant_id}/graph
POST /assistants/{assistant_id}/latest
GET /assistants/{assistant_id}/schemas
GET /assistants/{assistant_id}/subgraphs
GET /assistants/{assistant_id}/subgraphs/{namespace}
POST /assistants/{assistant_id}/versions
POST /runs/crons
POST /runs/crons/count
POST /runs/crons/search
DELETE /runs/crons/{cron_id}
GET /runs/crons/{cron_id}
PATCH /runs/crons/{cron_id}
POST /threads/{thread_id}/runs/crons
DELETE /mcp/
GET /mcp/
POST /mcp/
POST /runs
POST /runs/batch
POST /runs/stream
POST /runs/wait
DELETE /store/items
GET /store/items
PUT /store/items
POST /store/items/search
POST /store/namespaces
GET /docs
GET /info
GET /metrics
GET /ok
POST /runs/cancel
GET /threads/{thread_id}/runs
POST /threads/{thread_id}/runs
POST /threads/{thread_id}/runs/stream
POST /threads/{thread_id}/runs/wait
DELETE /threads/{thread_id}/runs/{run_id}
GET /threads/{thread_id}/runs/{run_id}
POST /threads/{thread_id}/runs/{run_id}/cancel
GET /threads/{thread_id}/runs/{run_id}/join
GET /threads/{thread_id}/runs/{run_id}/stream
POST /threads
POST /threads/count
POST /threads/prune
POST /threads/search
DELETE /threads/{thread_id}
GET /threads/{thread_id}
PATCH /threads/{thread_id}
POST /threads/{thread_id}/copy
GET /threads/{thread_id}/history
POST /threads/{thread_id}/history
GET /threads/{thread_id}/state
POST /threads/{thread_id}/state
POST /threads/{thread_id}/state/checkpoint
GET /threads/{thread_id}/state/{checkpoint_id}
GET /threads/{thread_id}/storage
GET /threads/{thread_id}/stream
"""
"""What the official server documents, but for its event streaming protocol (`commands` and `stream/events`)."""

UNDOCUMENTED = {
    "GET /",
    "GET /health",
    "GET /docs",
    "GET /mcp",
    "POST /mcp",
    "DELETE /mcp",
    "GET /.well-known/agent.json",
    "GET /a2a/{assistant_id}/.well-known/agent-card.json",
    "GET /a2a/{assistant_id}/.well-known/agent.json",
}
"""Other names of documented operations, and the page that shows the document."""

REFUSING = {"GET /mcp/", "DELETE /mcp/"}
"""Operations that are there to be refused, as MCP wants it."""


def application(**api_keys: str) -> FastAPI:
    """Our application, as far as its document needs it: with two graphs and these keys."""
    services: Any = SimpleNamespace(
        catalog=SimpleNamespace(ids=lambda: ("weather", "news")), settings=SimpleNamespace(authenticates=bool(api_keys))
    )
    return create_app(services)


@pytest.fixture(scope="module")
def document() -> Document:
    return application().openapi()


def operations(document: Document) -> Iterator[tuple[str, Document]]:
    """`GET /path` and what is said of it."""
    for method, path, operation in documents.operations(document):
        yield f"{method} {path}", operation


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


@pytest.mark.requirement("openapi.valid")
def test_it_is_valid_openapi(document: Document) -> None:
    assert document["openapi"].startswith("3.1")
    assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


@pytest.mark.requirement("openapi.operations")
def test_it_lists_what_is_served_and_nothing_else(document: Document) -> None:
    served = {
        f"{method} {route.path}"
        for route in iter_route_contexts(application().routes)
        for method in (route.methods or set()) - {"HEAD"}
    }
    documented = {name for name, _ in operations(document)}
    assert documented <= served
    assert {
        name for name in served - documented if "/docs/" not in name and name != "GET /openapi.json"
    } == UNDOCUMENTED


@pytest.mark.requirement("openapi.operations")
def test_it_lists_all_that_the_official_server_does(document: Document) -> None:
    official = set(OFFICIAL.split("\n")) - {""}
    assert len(official) == 62
    assert official - {name for name, _ in operations(document)} == {"GET /docs"}


@pytest.mark.requirement("openapi.valid")
def test_every_reference_leads_somewhere_and_every_component_is_used(document: Document) -> None:
    for reference in set(references(document)):
        assert found(document, {"$ref": reference})
    components = {f"#/components/{kind}/{name}" for kind, named in document["components"].items() for name in named}
    assert components - set(references(document)) == set()


def test_nothing_of_the_framework_shows(document: Document) -> None:
    text = json.dumps(document)
    assert "x-model" not in text
    assert "x-part-of" not in text
    assert "ValidationError" not in text


@pytest.mark.requirement("openapi.valid")
def test_every_operation_has_a_name_a_summary_and_a_described_resource(document: Document) -> None:
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for name, operation in operations(document):
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)+", operation["operationId"]), name
        assert operation["summary"], name
        assert len(operation["tags"]) == 1, name
        assert operation["tags"][0] in described, name
    assert {operation["tags"][0] for _, operation in operations(document)} == described


@pytest.mark.requirement("openapi.answers")
def test_every_operation_says_what_it_answers(document: Document) -> None:
    for name, operation in operations(document):
        answers = {int(status): found(document, response) for status, response in operation["responses"].items()}
        assert (min(answers) < 300) == (name not in REFUSING), name
        for status, answer in answers.items():
            assert answer["description"], (name, status)
            assert ("content" in answer) == (status not in (202, 204)), (name, status)
            for media in answer.get("content", {}).values():
                assert media["schema"], (name, status)


@pytest.mark.requirement("openapi.errors")
def test_every_operation_says_what_it_refuses(document: Document) -> None:
    for name, operation in operations(document):
        refused = {int(status) for status in operation["responses"] if int(status) >= 400}
        if operation["tags"] == ["System"]:
            continue
        assert 401 in refused, name
        if name in REFUSING:
            continue
        assert {403, 503} <= refused, name
        assert (413 in refused) == ("requestBody" in operation), name
        if operation["tags"][0] not in ("MCP", "A2A"):
            assert 422 in refused, name


@pytest.mark.requirement("openapi.errors")
def test_errors_have_one_shape_but_for_health_and_json_rpc(document: Document) -> None:
    other = set()
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                schema = found(document, response)["content"]["application/json"]["schema"]
                if schema != {"$ref": "#/components/schemas/Problem"}:
                    other.add((name, status))
    assert other == {("GET /ok", "503"), ("GET /ready", "503"), ("POST /mcp/", "400")}


def test_every_parameter_is_described(document: Document) -> None:
    for name, operation in operations(document):
        parameters = [found(document, parameter) for parameter in operation.get("parameters", ())]
        in_path = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", name)), name
        for parameter in parameters:
            obvious = parameter["name"] in ("limit", "offset", "format", "key")
            assert obvious or parameter.get("description"), (name, parameter["name"])


@pytest.mark.requirement("openapi.examples")
def test_every_body_has_an_example_that_fits_the_served_graphs(document: Document) -> None:
    for name, operation in operations(document):
        if "requestBody" in operation:
            media = operation["requestBody"]["content"]["application/json"]
            examples = found(document, media["schema"]).get("examples") or [media["example"]]
            assert examples, name
            assert '"agent"' not in json.dumps(examples), name
    assert found(document, {"$ref": "#/components/schemas/RunCreate"})["examples"][0]["assistant_id"] == "weather"


def test_keys_are_asked_for_where_there_are_keys(document: Document) -> None:
    assert "security" not in document
    locked = application(secret="ada").openapi()
    assert [list(way) for way in locked["security"]] == [["ApiKey"], ["Bearer"]]
    assert set(locked["components"]["securitySchemes"]) == {"ApiKey", "Bearer"}
    assert [str(error) for error in OpenAPIV31SpecValidator(locked).iter_errors()] == []
    for name, operation in operations(locked):
        assert (operation.get("security") == []) == (operation["tags"] == ["System"]), name


@pytest.mark.requirement("openapi.own_application")
def test_schemas_of_the_projects_own_application_stay_apart(document: Document) -> None:
    own = {"type": "object", "properties": {"price": {"type": "number"}}}
    cup = {"type": "object", "properties": {"of": {"$ref": "#/components/schemas/Item"}}}
    added = {
        "paths": {"/cups": {"get": {"responses": {"200": {"schema": {"$ref": "#/components/schemas/Item"}}}}}},
        "components": {"schemas": {"Item": own, "Cup": cup}},
    }
    moved = apart(added, document)
    assert moved["components"]["schemas"]["AppItem"] == own
    assert set(references(moved)) == {"#/components/schemas/AppItem"}
    assert apart(moved, document) == moved
