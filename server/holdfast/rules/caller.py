"""Who asks. Every query carries a caller, and what they may not see does not exist (invariant 10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Sight(StrEnum):
    """Which rows a caller sees."""

    OWN = "own"
    """Their own; what holds unless somebody decided otherwise."""
    MATCHING = "matching"
    """Those whose metadata contains one of the caller's filters, whoever made them."""
    ALL = "all"
    """Everybody's: an authorization handler of the project let the caller through without a filter."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated party; `owner` is the name under which its rows are kept.

    `user` is what the project's authentication said about it (None without one), as graphs find it under
    `langgraph_auth_user`.
    """

    owner: str
    sight: Sight = Sight.OWN
    filters: tuple[Mapping[str, Any], ...] = ()
    user: Mapping[str, Any] | None = None
    permissions: tuple[str, ...] = field(default=())
    alone: bool = False
    """Whether nobody else can come: what belongs to everybody is then theirs to change."""


LOCAL = Caller("local", alone=True)
"""The one owner of a server without authentication."""

SERVER = Caller("holdfast", Sight.ALL)
"""Holdfast itself, for what it does of its own accord."""
