"""JSON-RPC 2.0, as far as MCP and A2A have it in common; the official SDKs know the rest."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Message(BaseModel):
    """A request; without an id, a notification."""

    model_config = ConfigDict(extra="allow")

    jsonrpc: Literal["2.0"]
    method: str
    id: int | str = Field(default_factory=int)
    params: dict[str, Any] | None = None


class MessageError(BaseModel):
    """Why a request was not carried out."""

    code: int
    message: str
    data: Any = None


class MessageResult(BaseModel):
    """The answer to a request: a result, or an error."""

    jsonrpc: Literal["2.0"]
    id: int | str | None
    result: Any = None
    error: MessageError | None = None


class AgentCard(BaseModel):
    """An assistant as an agent, in the shape of either generation of A2A."""

    model_config = ConfigDict(extra="allow")

    name: str
    description: str
    version: str
    url: str
    capabilities: dict[str, Any]
    skills: list[dict[str, Any]]
