"""Assistants on the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator

from holdfast.wire.merging import mirrored
from holdfast.wire.times import time

AssistantField = Literal[
    "assistant_id",
    "graph_id",
    "name",
    "description",
    "config",
    "context",
    "metadata",
    "version",
    "created_at",
    "updated_at",
]
SortBy = Literal["assistant_id", "graph_id", "name", "created_at", "updated_at"]


class _Body(BaseModel):
    """A body in which an explicit null is an absent field."""

    @field_validator("*", mode="before")
    @classmethod
    def _null_is_absent(cls, value: object, info: Any) -> object:
        field = cls.model_fields[info.field_name]
        return value if value is not None or field.is_required() else field.get_default(call_default_factory=True)


class AssistantConfig(_Body):
    """`config`: what every run of the assistant starts from."""

    tags: list[str] | None = None
    recursion_limit: Annotated[int, Field(ge=1, le=100_000)] | None = None
    configurable: dict[str, Any] | None = None


class AssistantPatch(_Body):
    """The body of `PATCH /assistants/{assistant_id}`: metadata is merged shallowly, the rest replaced."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Ada's assistant", "context": {}}]})

    graph_id: str | None = None
    config: AssistantConfig | None = None
    context: dict[str, Any] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    name: str | None = None
    description: str | None = None

    def settings(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Config and context, either mirrored into the other, as far as they were given.

        A config without a configurable says nothing about the context.

        Raises:
            BadRequest: both configurable and context say something.
        """
        configurable = self.config.configurable if self.config else None
        said = configurable is not None or self.context is not None
        configurable, context = mirrored(configurable, self.context)
        config = self.config.model_dump(exclude_none=True, exclude={"configurable"}) if self.config else None
        if config is not None and configurable:
            config["configurable"] = configurable
        return config, context if said else None


class AssistantCreate(AssistantPatch):
    """The body of `POST /assistants`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"graph_id": "agent", "name": "Ada's", "metadata": {"team": "blue"}}]}
    )

    graph_id: str
    assistant_id: UUID | None = None
    if_exists: Literal["raise", "do_nothing"] = "raise"
    name: str = "Untitled"

    def settings(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Config and context, either mirrored into the other."""
        config, context = super().settings()
        if config is None:
            config = {"configurable": context} if context else {}
        return config, context or {}


class AssistantTerms(_Body):
    """The body of `POST /assistants/count`: all terms must hold."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"graph_id": "agent"}]})

    metadata: dict[str, Any] | None = None
    graph_id: str | None = None
    name: str | None = None


class AssistantSearch(AssistantTerms):
    """The body of `POST /assistants/search`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"graph_id": "agent", "limit": 20}]})

    limit: Annotated[int, Field(ge=1, le=1000)] = 10
    offset: Annotated[int, Field(ge=0)] = 0
    sort_by: SortBy = "created_at"
    sort_order: Literal["asc", "desc"] = "desc"
    select: list[AssistantField] | None = None


class VersionSearch(_Body):
    """The body of `POST /assistants/{assistant_id}/versions`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"limit": 5}]})

    metadata: dict[str, Any] | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 10
    offset: Annotated[int, Field(ge=0)] = 0


class LatestVersion(BaseModel):
    """The body of `POST /assistants/{assistant_id}/latest`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": 1}]})

    version: int


class AssistantVersion(BaseModel):
    """What an assistant was after a change."""

    assistant_id: UUID
    graph_id: str
    name: str | None
    description: str | None
    config: dict[str, Any]
    context: dict[str, Any]
    metadata: dict[str, Any]
    version: Annotated[int, Field(ge=1)]
    created_at: datetime


class Assistant(AssistantVersion):
    """A graph under a name, with settings of its own, as it is now."""

    updated_at: datetime


class Node(BaseModel):
    """A node of a drawing; `__start__` and `__end__` are there too."""

    id: str
    type: Literal["runnable"]
    data: dict[str, Any]
    metadata: dict[str, Any] = Field(default_factory=dict)


class Edge(BaseModel):
    """An edge of a drawing; a conditional one is taken if `data` says so."""

    source: str
    target: str
    conditional: bool = False
    data: Any = None


class Drawing(BaseModel):
    """A graph as nodes and edges."""

    nodes: list[Node]
    edges: list[Edge]


JsonSchema = dict[str, Any]


class SubgraphSchemas(BaseModel):
    """The JSON schemas of a graph; null where its types cannot be said in JSON schema."""

    input_schema: JsonSchema | None
    output_schema: JsonSchema | None
    state_schema: JsonSchema | None
    config_schema: JsonSchema | None
    context_schema: JsonSchema | None


class GraphSchemas(SubgraphSchemas):
    """The same, and which graph it is."""

    graph_id: str


class Subgraphs(RootModel[dict[str, SubgraphSchemas]]):
    """The schemas of subgraphs by their names: nodes, joined by `|`."""


def assistant_view(row: Mapping[str, Any], select: Sequence[AssistantField] | None = None) -> dict[str, Any]:
    """An assistant as clients see it; only the selected fields, if any are."""
    view = {
        "assistant_id": str(row["assistant_id"]),
        "graph_id": row["graph_id"],
        "name": row["name"],
        "description": row["description"],
        "config": row["config"],
        "context": row["context"],
        "metadata": row["metadata"],
        "version": row["version"],
        "created_at": time(row["created_at"]),
        "updated_at": time(row["updated_at"]),
    }
    return {key: view[key] for key in select} if select else view


def version_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """A version of an assistant as clients see it."""
    return {
        "assistant_id": str(row["assistant_id"]),
        "version": row["version"],
        "graph_id": row["graph_id"],
        "name": row["name"],
        "description": row["description"],
        "config": row["config"],
        "context": row["context"],
        "metadata": row["metadata"],
        "created_at": time(row["created_at"]),
    }
