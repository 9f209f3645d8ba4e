"""Reserved names of the store, and its filters, taken apart: `{"a": 1, "b": {"$gt": 2}, "c": {"d": "x"}}`.

The filters' language is LangGraph's: a plain value must be equal, an object with operators compares, an object without
goes one level down. Keys and values are data all the way; none of them becomes part of a query's text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.errors import Invalid

OWNER_MARK = "holdfast-owner:"
"""Root labels that begin with this hold an owner's tree (`db/trees.py`); nobody else finds or names what is in it."""

EQUALITY = frozenset({"$eq", "$ne"})
ORDER = frozenset({"$gt", "$gte", "$lt", "$lte"})
MOST_TERMS = 100


@dataclass(frozen=True, slots=True)
class Term:
    """One condition: what is at `path` in an item's value, compared with `value`."""

    path: tuple[str, ...]
    operator: str
    value: Any


def terms(wanted: Mapping[str, Any]) -> list[Term]:
    """All conditions of a filter; all of them must hold.

    Raises:
        Invalid: an unknown operator, one that cannot compare this value, or too many conditions.
    """
    found = [term for key, value in wanted.items() for term in _terms((key,), value)]
    if len(found) > MOST_TERMS:
        raise Invalid(f"filter: at most {MOST_TERMS} conditions")
    return found


def _terms(path: tuple[str, ...], wanted: Any) -> Iterator[Term]:
    if not isinstance(wanted, Mapping) or not wanted:
        yield Term(path, "$eq", wanted)
    elif any(key.startswith("$") for key in wanted):
        for operator, value in wanted.items():
            yield _comparison(path, operator, value)
    else:
        for key, value in wanted.items():
            yield from _terms((*path, key), value)


def _comparison(path: tuple[str, ...], operator: str, value: Any) -> Term:
    if operator not in EQUALITY | ORDER:
        known = ", ".join(sorted(EQUALITY | ORDER))
        raise Invalid(f"filter: unknown operator {operator!r} for {'.'.join(path)!r}; there are {known}")
    if operator in ORDER and (isinstance(value, bool) or not isinstance(value, int | float | str)):
        raise Invalid(f"filter: {operator} compares numbers or texts, not {type(value).__name__}")
    return Term(path, operator, value)
