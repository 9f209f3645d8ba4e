"""Who asks. Every query carries a caller, and what they may not see does not exist (invariant 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from holdfast.rules.scope import ALL, USUAL


class Sight(StrEnum):
    """Which rows a caller sees."""

    OWN = "own"
    """Their own; what holds unless somebody decided otherwise."""
    MATCHING = "matching"
    """Those whose metadata contains one of the caller's filters, whoever made them."""
    ALL = "all"
    """Everybody's: an authorization handler of the project let the caller through without a filter."""


class User(dict[str, Any]):
    """What the project's authentication said about a caller: JSON data, and LangGraph's `BaseUser`."""

    @property
    def identity(self) -> str:
        return str(self["identity"])

    @property
    def display_name(self) -> str:
        return str(self.get("display_name") or self.identity)

    @property
    def is_authenticated(self) -> bool:
        return bool(self.get("is_authenticated", True))

    @property
    def permissions(self) -> Sequence[str]:
        return tuple(self.get("permissions") or ())

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated party; `owner` is the name under which its rows are kept.

    `user` is what the project's authentication said about it (None without one).
    """

    owner: str
    sight: Sight = Sight.OWN
    filters: tuple[Mapping[str, Any], ...] = ()
    user: User | None = None
    permissions: tuple[str, ...] = field(default=())
    alone: bool = False
    """Whether what belongs to everybody is theirs to change: nobody else can come, or they have the scope `admin`."""
    scopes: frozenset[str] = USUAL
    """What they may do (`rules/scope.py`); a project's own authentication decides that by itself."""

    def marked(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """The metadata of a row that this caller makes: with what their filter asks for, so that they see it."""
        if self.sight is not Sight.MATCHING or any(contains(metadata, terms) for terms in self.filters):
            return dict(metadata)
        return {**metadata, **self.filters[0]}

    def keeps(self, changes: Mapping[str, Any]) -> bool:
        """Whether a row of theirs is still one after these entries of its metadata changed."""
        if self.sight is not Sight.MATCHING:
            return True
        touched = ({key: value for key, value in terms.items() if key in changes} for terms in self.filters)
        return any(contains(changes, terms) for terms in touched)


LOCAL = Caller("local", alone=True, scopes=ALL)
"""The one owner of a server without authentication."""

SERVER = Caller("holdfast", Sight.ALL)
"""Holdfast itself, for what it does of its own accord."""


def contains(document: object, terms: object) -> bool:
    """Whether a JSON value contains another, as `@>` has it: objects by key, arrays as sets, the rest as equals."""
    if isinstance(terms, Mapping):
        return isinstance(document, Mapping) and all(
            key in document and contains(document[key], value) for key, value in terms.items()
        )
    if isinstance(terms, list):
        return isinstance(document, list) and all(any(contains(item, term) for item in document) for term in terms)
    return type(document) is type(terms) and document == terms


def identity(owner: str, user: User | None) -> dict[str, Any]:
    """Who a graph works for, as its `configurable` says it."""
    known = {"user_id": owner, "langgraph_auth_user_id": owner}
    if user is None:
        return known
    return {**known, "langgraph_auth_user": user, "langgraph_auth_permissions": list(user.permissions)}
