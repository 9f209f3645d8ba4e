"""What routes say about themselves for the OpenAPI document.

Routes read their bodies and write their answers themselves, so the framework knows neither. Each says in its decorator
what it takes, answers and refuses (`docs`), with models of `wire/`. What many have in common stands in the tables here
and is referred to. `api/openapi.py` makes the document of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from holdfast.wire.idempotency import PATTERN

Document = dict[str, Any]

MODEL, PART_OF = "x-model", "x-part-of"
"""In place of a schema: a model by its place, whole or with all of its fields optional. A model's JSON schema costs
about a millisecond, so schemas are made when the document is asked for, not at every start."""

EXAMPLE_GRAPH = "agent"
"""The graph of the examples. The document shows the first one that is served in its place."""

REFUSALS: Mapping[int, tuple[str, str]] = {
    400: ("BadRequest", "Well formed, but it makes no sense here."),
    401: ("Unauthenticated", "No valid credential."),
    403: ("Forbidden", "A valid credential that may not do this."),
    404: ("Missing", "There is no such thing, or it is not the caller's."),
    405: ("NotAllowed", "There is no such method here."),
    409: ("Conflict", "What is there does not allow it: it exists, is busy, or has changed."),
    413: ("TooLarge", "The body is over the limit."),
    422: ("Invalid", "Malformed or contradictory."),
    429: ("TooMany", "The operator's limit for one caller is reached; it may be asked again later."),
    501: ("Unsupported", "Where this server keeps checkpoints, it cannot be done."),
    502: ("EmbeddingFailed", "The embedding model did not answer as it should; nothing was stored or searched."),
    503: ("Unavailable", "The database is not available right now; the same request may succeed later."),
}

HEADERS: Mapping[str, Document] = {
    "content-location": {
        "description": "Which run this is about: the path of the run.",
        "required": True,
        "schema": {"type": "string", "pattern": "^(/threads/[^/]+)?/runs/[^/]+$"},
    },
    "location": {
        "description": "Where a client that was cut off goes on, with `Last-Event-ID` if it follows events.",
        "required": True,
        "schema": {"type": "string", "pattern": "^/(threads|runs)/"},
    },
    "x-pagination-next": {
        "description": "The offset of the next page. Absent on the last one.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "x-pagination-total": {
        "description": "How many are known to be there by now: one more than were shown, unless this is the last page.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "idempotent-replayed": {
        "description": "The request was carried out before; this is what it made then.",
        "schema": {"type": "string", "const": "true"},
    },
    "www-authenticate": {"description": "How to authenticate.", "schema": {"type": "string"}},
    "retry-after": {"description": "Seconds to wait before the next try.", "schema": {"type": "string"}},
}
REFUSAL_HEADERS = {401: ("www-authenticate",), 429: ("retry-after",), 503: ("retry-after",)}

_UUID: Document = {"type": "string", "format": "uuid"}
PATH_PARAMETERS: Mapping[str, tuple[str, Document]] = {
    "assistant_id": ("The assistant's id, or the name of a graph.", {"type": "string", "examples": [EXAMPLE_GRAPH]}),
    "thread_id": ("The thread's id.", _UUID),
    "run_id": ("The run's id.", _UUID),
    "cron_id": ("The cron's id.", _UUID),
    "approval_id": ("The approval's id.", _UUID),
    "checkpoint_id": ("The checkpoint's id. For an unknown one the state is empty.", {"type": "string"}),
    "namespace": ("The subgraph: names of nodes, joined by `|`.", {"type": "string"}),
}
HEADER_PARAMETERS: Mapping[str, tuple[str, Document]] = {
    "Idempotency-Key": (
        "Names this request: sent again with the same key, it is answered with what it made before.",
        {"type": "string", "pattern": f"^({PATTERN})$"},
    ),
    "Last-Event-ID": (
        "The id of the last event that the client saw; `-1` is before the first. Without it only live events come.",
        {"type": "string", "pattern": r"^(-1|-|0|[0-9]{1,16}-[0-9]{1,18})$"},
    ),
    "Prefer": ("`return=minimal`: answer 204 without a body.", {"type": "string", "enum": ["return=minimal"]}),
}

EVENTS: Document = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "description": "One of the server-sent events, with CRLF line ends. A run's first is `metadata`; if it"
            " fails, `error` is its last. Every five seconds of a stream there is a comment, `: heartbeat`.",
            "properties": {
                "event": {"type": "string", "description": "The stream mode; `mode|namespace` from a subgraph."},
                "data": {"type": "string", "contentMediaType": "application/json", "description": "In one line."},
                "id": {"type": "string", "description": "If the stream can be resumed: for `Last-Event-ID`."},
            },
            "required": ["event", "data"],
            "examples": [
                {"event": "metadata", "data": '{"run_id":"01a1ff0e-af3f-76c0-a36a-c6f444f86e2a","attempt":1}'},
                {"event": "values", "data": '{"messages":[{"type":"human","content":"What is 6 times 7?"}]}'},
            ],
        }
    }
}
"""Server-sent events."""

FOLLOWING = "The run's events."
NONE: Mapping[int, type[BaseModel]] = {}
PAGED = ("x-pagination-next", "x-pagination-total")
RUNNING = ("content-location", "location")


def docs(
    *,
    takes: type[BaseModel] | None = None,
    example: Document | None = None,
    answers: Any = None,
    means: str | None = None,
    refuses: Sequence[int] = (),
    fails: Mapping[int, type[BaseModel]] = NONE,
    status: int = 200,
    or_nothing: int | None = None,
    headers: Sequence[str] = (),
    sends: Sequence[str | Document] = (),
    once: bool = False,
    partly: bool = False,
    asks: bool = True,
) -> dict[str, Any]:
    """How an operation shows up in the document: arguments for its decorator.

    Args:
        takes, example: the model of its body; and a body, where the model's own examples do not fit.
        answers: the model of its answer, a list of one, `int`, or a media type and what it holds; None: no body.
        means: what the answer is, in a sentence.
        fails: errors that have a shape of their own.
        status, or_nothing: of its answer; and of one without a body, if it may give that instead.
        refuses: statuses of its errors, beside those that every such operation has.
        headers: of its answer, beside those that follow from the rest.
        sends: headers of the request; or parameters, where the route itself reads the query.
        once: it can be repeated by its `Idempotency-Key`.
        partly: only the fields come that a request selects.
        asks: it wants to know the caller.
    """
    expected = [401, 403, 422, 429, 503] if asks else []
    answer: Document = {"description": means or ("Done." if answers is None else "The answer.")}
    if answers is not None:
        answer["content"] = answers if isinstance(answers, dict) else json_of(schema_of(answers, partly=partly))
    if shown := [*headers, *(["idempotent-replayed"] if once else [])]:
        answer["headers"] = {name: reference("headers", name) for name in shown}
    extra: dict[str, Any] = {}
    if takes is not None:
        expected.append(413)
        body = {"schema": schema_of(takes), **({"example": example} if example else {})}
        extra["requestBody"] = {"required": True, "content": {"application/json": body}}
    if given := [*sends, *(["Idempotency-Key"] if once else [])]:
        extra["parameters"] = [reference("parameters", one) if isinstance(one, str) else one for one in given]
    refusals = {number: refusal(number) for number in sorted({*expected, *refuses})}
    refusals |= {
        number: {"description": REFUSALS[number][1], "content": json_of(schema_of(model))}
        for number, model in fails.items()
    }
    bare = {or_nothing: {"description": "Done."}} if or_nothing else {}
    return {"responses": {status: answer, **bare, **refusals}, "openapi_extra": extra}


def refused(*statuses: int) -> dict[str, Any]:
    """How an operation shows up in the document that does nothing but refuse."""
    return {"responses": {status: refusal(status) for status in statuses}}


def refusal(status: int) -> Document:
    """An error among an operation's responses."""
    return reference("responses", REFUSALS[status][0])


def json_of(schema: Document) -> Document:
    """A body of JSON."""
    return {"application/json": {"schema": schema}}


def reference(kind: str, name: str) -> Document:
    """Where the document keeps something that many refer to."""
    return {"$ref": f"#/components/{kind}/{name}"}


def schema_of(model: Any, *, partly: bool = False) -> Document:
    """A model, a list of one or `int`, until the document is made."""
    if get_origin(model) is list:
        return {"type": "array", "items": schema_of(get_args(model)[0], partly=partly)}
    if model is int:
        return {"type": "integer", "minimum": 0}
    whole = {MODEL: place(model)}
    return {"anyOf": [whole, {PART_OF: place(model)}]} if partly else whole


def place(model: type) -> str:
    return f"{model.__module__}:{model.__qualname__}"
