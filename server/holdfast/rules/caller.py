"""Who asks. Every query carries a caller, and what is not theirs does not exist (invariant 10)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated party; `owner` is the name under which its rows are kept."""

    owner: str


LOCAL = Caller("local")
"""The one owner of a server without authentication."""
