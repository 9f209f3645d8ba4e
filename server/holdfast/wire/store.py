"""The store on the wire.

A namespace is a list of labels; what is asked of it goes by `namespace` everywhere, as authorization handlers know it,
whatever the operation's own name for it is (`namespace_prefix`, `prefix`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, RootModel, field_validator

from holdfast.errors import BadRequest
from holdfast.rules.store import OWNER_MARK, terms
from holdfast.wire.threads import searchable
from holdfast.wire.times import time

MAX_BYTES = 1024
"""Of a namespace, joined, and of a key: Postgres indexes both together in some 2,700 bytes."""
MAX_PATH = 256
MAX_MINUTES = 100 * 365 * 24 * 60
MOST = 10_000
RESERVED_ROOT = "langgraph"


def _text(value: str) -> str:
    searchable(value, "it")
    if len(value.encode()) > MAX_BYTES:
        raise ValueError(f"must not be longer than {MAX_BYTES} bytes")
    return value


def _label(value: str) -> str:
    if not value or "." in value:
        raise ValueError("Namespace labels cannot be empty or contain periods ('.')")
    return _text(value)


def _namespace(labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(".".join(labels).encode()) > MAX_BYTES:
        raise ValueError(f"a namespace must not be longer than {MAX_BYTES} bytes")
    if labels and labels[0].startswith(OWNER_MARK):
        raise ValueError(f"Root labels that start with {OWNER_MARK!r} are reserved")
    return labels


Label = Annotated[str, AfterValidator(_label), Field(json_schema_extra={"pattern": "^[^.]+$"})]
Namespace = Annotated[tuple[Label, ...], AfterValidator(_namespace)]
Key = Annotated[str, Field(min_length=1), AfterValidator(_text)]
Limit = Annotated[int, Field(ge=1, le=MOST)]
Offset = Annotated[int, Field(ge=0, le=2**31 - 1)]
Path = Annotated[str, Field(min_length=1, max_length=MAX_PATH), AfterValidator(_text)]


class Asked(BaseModel):
    """What an operation asks of the store; an explicit null is as good as nothing."""

    model_config = ConfigDict(populate_by_name=True)

    @field_validator("*", mode="before")
    @classmethod
    def _null_is_absent(cls, value: object, info: Any) -> object:
        field = cls.model_fields[info.field_name]
        return field.default if value is None and not field.is_required() else value


class ItemKey(Asked):
    """Where an item is. The body of `DELETE /store/items`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"namespace": ["notes", "ada"], "key": "colour"}]})

    namespace: Namespace
    key: Key

    @property
    def place(self) -> tuple[str, ...]:
        """The namespace.

        Raises:
            BadRequest: it is empty, or its root is not for items.
        """
        if not self.namespace:
            raise BadRequest("Namespace cannot be empty.")
        if self.namespace[0] == RESERVED_ROOT:
            raise BadRequest(f'Root label for namespace cannot be "{RESERVED_ROOT}".')
        return self.namespace


class ItemRead(ItemKey):
    """The query of `GET /store/items`, its namespace split at the dots."""

    refresh_ttl: bool | None = None


class ItemPut(ItemKey):
    """The body of `PUT /store/items`. `index`: paths to embed, or false for none; `ttl` in minutes."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"namespace": ["notes", "ada"], "key": "colour", "value": {"text": "green"}}]}
    )

    value: dict[str, Any]
    index: Literal[False] | Annotated[list[Path], Field(max_length=100)] | None = None
    ttl: Annotated[float, Field(gt=0, le=MAX_MINUTES)] | None = None

    @field_validator("value")
    @classmethod
    def _storable(cls, value: dict[str, Any]) -> dict[str, Any]:
        searchable(value, "value")
        return value


class ItemSearch(Asked):
    """The body of `POST /store/items/search`; without a prefix everywhere."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"namespace_prefix": ["notes"], "filter": {"text": "green"}}]}
    )

    namespace: Namespace = Field((), validation_alias=AliasChoices("namespace_prefix", "namespace"))
    filter: dict[str, Any] | None = None
    limit: Limit = 10
    offset: Offset = 0
    query: str | None = None
    refresh_ttl: bool | None = None

    @field_validator("filter")
    @classmethod
    def _understood(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        searchable(value, "filter")
        terms(value or {})
        return value


class NamespaceSearch(Asked):
    """The body of `POST /store/namespaces`; `*` in prefix and suffix is any one label."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prefix": ["notes"], "max_depth": 2}]})

    namespace: Namespace | None = Field(None, validation_alias=AliasChoices("prefix", "namespace"))
    suffix: Namespace | None = None
    max_depth: Annotated[int, Field(ge=1, le=MAX_BYTES)] | None = None
    limit: Limit = 100
    offset: Offset = 0


class Item(BaseModel):
    """A JSON object under a namespace and a key."""

    namespace: list[str]
    key: str
    value: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class ItemOrNull(RootModel[Item | None]):
    """The item, or null where there is none."""


class FoundItem(Item):
    """An item, and how near its text is to what was searched for; null unless the search was by meaning."""

    score: float | None


class FoundItems(BaseModel):
    """What a search found, the nearest or the newest first."""

    items: list[FoundItem]


class Namespaces(BaseModel):
    """Namespaces that hold items."""

    namespaces: list[list[str]]


class _Item(Protocol):
    """An item of LangGraph's store."""

    namespace: Any
    key: str
    value: Any
    created_at: Any
    updated_at: Any


def dotted(namespaces: Sequence[str]) -> list[str]:
    """A namespace out of a query: labels joined by dots, in one parameter or several."""
    return [label for namespace in namespaces for label in namespace.split(".")] if any(namespaces) else []


def item_view(item: _Item) -> dict[str, Any]:
    """An item as clients see it."""
    return {
        "namespace": list(item.namespace),
        "key": item.key,
        "value": item.value,
        "created_at": time(item.created_at),
        "updated_at": time(item.updated_at),
    }


def found_view(item: _Item) -> Mapping[str, Any]:
    """An item of a search; `score` is null unless the search was by meaning."""
    return {**item_view(item), "score": getattr(item, "score", None)}
