"""Searching threads: a statement put together from the terms that were asked for.

What is not asked for does not leave the database: values only when they are wanted, of an extracted path only its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from holdfast.db.scope import scoped
from holdfast.db.sql import statements
from holdfast.rules.caller import Caller

SortBy = Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"]

_ORDER: Mapping[SortBy, Sequence[str]] = {
    "thread_id": ("thread_id",),
    "status": ("status", "updated_at", "thread_id"),
    "created_at": ("created_at", "thread_id"),
    "updated_at": ("updated_at", "thread_id"),
    "state_updated_at": ("state_updated_at", "thread_id"),
}
"""What decides, first to last; each but the first has an index that begins with the owner."""

Path = Sequence[str | int]
"""Where a value stands: one of the roots `values`, `metadata`, `config`, `interrupts`, then keys and list places."""


@dataclass(frozen=True, slots=True)
class ThreadFilter:
    """Search terms; None means any. `metadata` and `values` match by containment."""

    ids: Sequence[UUID] | None = None
    status: str | None = None
    metadata: Mapping[str, Any] | None = None
    values: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Which of the found threads, in which order, and what of them. `extract` is `{alias: path}`."""

    limit: int
    offset: int = 0
    sort_by: SortBy = "updated_at"
    descending: bool = True
    with_values: bool = True
    extract: Mapping[str, Path] = field(default_factory=dict)


def searching(caller: Caller, terms: ThreadFilter, page: Page) -> tuple[str, dict[str, Any]]:
    """The statement of a search, and its parameters."""
    where, params = _where(terms)
    direction = "DESC" if page.descending else "ASC"
    order = "ORDER BY " + ", ".join(f"{key} {direction}" for key in _ORDER[page.sort_by])
    found = f"{where}{order} LIMIT %(limit)s OFFSET %(offset)s"
    view, extract_params = _view(found, page.extract)
    rest = {"with_values": page.with_values, "limit": page.limit, "offset": page.offset}
    return scoped(caller, view + order, **params, **extract_params, **rest)


def getting(caller: Caller, thread_id: UUID) -> tuple[str, dict[str, Any]]:
    """The statement that reads one thread, and its parameters."""
    view, _ = _view(statements("threadsearch")["by_id"], {})
    return scoped(caller, view, thread_id=thread_id, with_values=True)


def counting(caller: Caller, terms: ThreadFilter) -> tuple[str, dict[str, Any]]:
    """The statement of a count, and its parameters."""
    where, params = _where(terms)
    return scoped(caller, statements("threadsearch")["count"] + where, **params)


def _view(found: str, extract: Mapping[str, Path]) -> tuple[str, dict[str, Any]]:
    named = statements("threadsearch")
    extracted, params = _extracted(extract)
    parts = {"%%FOUND%%": named["found"] + found, "%%EXTRACTED%%": extracted}
    view = named["view"]
    for mark, part in parts.items():
        view = view.replace(mark, part)
    return view, params


def _where(terms: ThreadFilter) -> tuple[str, dict[str, Any]]:
    params: dict[str, Any] = {}
    if terms.ids is not None:
        params["ids"] = list(terms.ids)
    if terms.status is not None:
        params["status"] = terms.status
    if terms.metadata:
        params["metadata"] = Jsonb(terms.metadata)
    if terms.values:
        params["values"] = Jsonb(terms.values)
    named = statements("threadsearch")
    return "".join(named[f"by_{term}"] for term in params), params


def _extracted(paths: Mapping[str, Path]) -> tuple[str, dict[str, Any]]:
    """An expression for `{alias: value}`, and its parameters."""
    if not paths:
        return "NULL", {}
    params: dict[str, Any] = {}
    pairs: list[str] = []
    for number, (alias, path) in enumerate(paths.items()):
        source, given, rest = _source(path)
        names = {**given, "alias": alias, "rest": [str(step) for step in rest]}
        inside = f"holdfast.as_jsonb(({source})::json) #> %(rest)s::text[]" if rest else source
        pair = f"%(alias)s::text, {inside}"
        for name in names:
            pair = pair.replace(f"%({name})s", f"%({name}_{number})s")
        params |= {f"{name}_{number}": value for name, value in names.items()}
        pairs.append(pair)
    return f"json_build_object({', '.join(pairs)})", params


def _source(path: Path) -> tuple[str, dict[str, Any], Path]:
    """The expression that a path starts from, its parameters, and what is left of the path."""
    named = statements("threadsearch")
    match path:
        case ["values", str(channel), int(place), *rest]:
            return named["element"], {"channel": channel, "place": place}, rest
        case ["values", str(channel), *rest]:
            return named["channel"], {"channel": channel}, rest
        case ["values", *rest]:
            return named["values"], {}, rest
        case ["metadata" | "config" | "interrupts" as column, *rest]:
            return str(column), {}, rest
    raise AssertionError(f"no such root: {path}")
