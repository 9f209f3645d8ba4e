"""What a turn of a conversation is checked for: pure functions of what was wanted and what was seen."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pydantic import JsonValue, TypeAdapter

Args: TypeAlias = Mapping[str, Any]
Mode: TypeAlias = Literal["offline", "real"]
WantedCall: TypeAlias = str | tuple[str, dict[str, JsonValue]]
"""A tool's name; or its name and the arguments that it has to be called with (others do not matter)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One turn as a client saw it. `usd` None: nobody knows the price."""

    answer: str = ""
    calls: Sequence[tuple[str, Args]] = ()
    results: Sequence[tuple[str, str]] = ()
    approvals: Sequence[str] = ()
    supersteps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    usd: float | None = None
    models: frozenset[str] = field(default_factory=frozenset)


Judge: TypeAlias = Callable[[Any, Seen], str | None]
"""What is wrong, or None."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of check: the shape of what it wants, and its judge."""

    wanted: TypeAdapter[Any]
    judge: Judge


def _tools(wanted: list[WantedCall], seen: Seen) -> str | None:
    fits = len(wanted) == len(seen.calls) and all(map(_is_call, wanted, seen.calls))
    return None if fits else f"called {_shown(seen.calls)}"


def _tools_in_any_order(wanted: list[WantedCall], seen: Seen) -> str | None:
    left = list(seen.calls)
    # The most particular first, so that a bare name does not take the call that only another entry fits.
    for each in sorted(wanted, key=lambda call: isinstance(call, str)):
        found = next((call for call in left if _is_call(each, call)), None)
        if found is None:
            return f"no such call: {each!r}; called {_shown(seen.calls)}"
        left.remove(found)
    return f"called more: {_shown(left)}" if left else None


def _results(wanted: list[tuple[str, str]], seen: Seen) -> str | None:
    return None if wanted == list(seen.results) else f"came to {_shown(seen.results)}"


def _approvals(wanted: list[str], seen: Seen) -> str | None:
    return None if Counter(wanted) == Counter(seen.approvals) else f"asked about {_shown(seen.approvals)}"


def _contains(wanted: list[str], seen: Seen) -> str | None:
    missing = [text for text in wanted if text.casefold() not in seen.answer.casefold()]
    return f"not in the answer: {missing}" if missing else None


def _lacks(wanted: list[str], seen: Seen) -> str | None:
    present = [text for text in wanted if text.casefold() in seen.answer.casefold()]
    return f"in the answer: {present}" if present else None


def _any_of(wanted: list[str], seen: Seen) -> str | None:
    return None if any(text.casefold() in seen.answer.casefold() for text in wanted) else "none is in the answer"


def _matches(wanted: re.Pattern[str], seen: Seen) -> str | None:
    return None if wanted.search(seen.answer) else "the answer does not match"


def _within(name: str) -> Judge:
    def judge(most: float, seen: Seen) -> str | None:
        spent = getattr(seen, name)
        # What is not known is not over a budget; the report says that it is not known.
        return f"{spent:g}" if spent is not None and spent > most else None

    return judge


_TEXTS = TypeAdapter(list[str])
_CALLS = TypeAdapter(list[WantedCall])

KINDS: Mapping[str, Kind] = {
    "tools": Kind(_CALLS, _tools),
    "tools_in_any_order": Kind(_CALLS, _tools_in_any_order),
    "results": Kind(TypeAdapter(list[tuple[str, str]]), _results),
    "approvals": Kind(_TEXTS, _approvals),
    "contains": Kind(_TEXTS, _contains),
    "lacks": Kind(_TEXTS, _lacks),
    "any_of": Kind(_TEXTS, _any_of),
    "matches": Kind(TypeAdapter(re.Pattern[str]), _matches),
    "supersteps": Kind(TypeAdapter(int), _within("supersteps")),
    "seconds": Kind(TypeAdapter(float), _within("seconds")),
    "tokens": Kind(TypeAdapter(int), _within("tokens")),
    "usd": Kind(TypeAdapter(float), _within("usd")),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a turn. `only`: the kind of model for which it makes sense, None = every."""

    kind: str
    wanted: Any
    only: Mode | None = None

    def problem(self, seen: Seen) -> str | None:
        """What is wrong, or None."""
        kind = KINDS[self.kind]
        return kind.judge(kind.wanted.validate_python(self.wanted), seen)


def with_defaults(checks: Sequence[Check]) -> Sequence[Check]:
    """A turn that says nothing about tools or approvals wants none."""
    kinds = {check.kind for check in checks}
    added = [] if kinds & {"tools", "tools_in_any_order"} else [Check("tools", [])]
    return [*checks, *added, *([] if "approvals" in kinds else [Check("approvals", [])])]


def _is_call(wanted: WantedCall, call: tuple[str, Args]) -> bool:
    name, args = (wanted, {}) if isinstance(wanted, str) else wanted
    return name == call[0] and all(_same(value, call[1].get(key)) for key, value in args.items())


def _same(wanted: JsonValue, given: object) -> bool:
    # "6*7" and "6 * 7" are the same expression, and no check should depend on a model's spacing.
    if isinstance(wanted, str) and isinstance(given, str):
        return "".join(wanted.split()) == "".join(given.split())
    return wanted == given


def _shown(calls: Sequence[object]) -> str:
    return ", ".join(map(str, calls)) or "nothing"
