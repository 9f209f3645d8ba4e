"""Assistants on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field

from holdfast.wire.times import time


class AssistantTerms(BaseModel):
    """The body of `POST /assistants/count`: all terms must hold."""

    metadata: dict[str, Any] | None = None
    graph_id: str | None = None
    name: str | None = None


class AssistantSearch(AssistantTerms):
    """The body of `POST /assistants/search`."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 10
    offset: Annotated[int, Field(ge=0)] = 0


def assistant_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """An assistant as clients see it."""
    return {
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
