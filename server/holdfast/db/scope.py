"""Which rows a caller sees, as part of the SQL (invariant 10).

A statement says `%%SEES(t)%%` where it needs to know whether the caller sees the row `t` of a table with `owner` and
`metadata`, and `%%ALSO_SEES(t)%%` for a table of another resource, of which they may see something else. The condition
is text rather than a parameter, so that each kind of sight has a plan of its own.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from functools import cache
from typing import Any

from psycopg.types.json import Jsonb

from holdfast.rules.caller import Caller, Sight

_MARK = re.compile(r"%%(ALSO_)?SEES\((\w+)\)%%")

_CONDITIONS = {
    Sight.OWN: "{row}.owner = %({also}owner)s",
    Sight.MATCHING: "{row}.metadata @> ANY(%({also}filters)s::jsonb[])",
    Sight.ALL: "true",
}


@cache
def _written(statement: str, sight: Sight, also: Sight) -> str:
    def condition(mark: re.Match[str]) -> str:
        other = mark[1] is not None
        return _CONDITIONS[also if other else sight].format(row=mark[2], also="also_" if other else "")

    return _MARK.sub(condition, statement)


def scoped(caller: Caller, statement: str, also: Caller | None = None, /, **params: Any) -> tuple[str, dict[str, Any]]:
    """The statement, restricted to what the caller sees, and its parameters; `owner` is for rows that they make.

    `also` is the same party, with what they see of the other resource that the statement reads.
    """
    also = also or caller
    sights = {
        "owner": caller.owner,
        "filters": _filters(caller),
        "also_owner": also.owner,
        "also_filters": _filters(also),
    }
    return _written(statement, caller.sight, also.sight), sights | params


def sight_key(caller: Caller) -> Hashable:
    """The same for two callers who see the same rows."""
    return caller.sight, caller.owner, repr(caller.filters)


def _filters(caller: Caller) -> list[Jsonb]:
    return [Jsonb(dict(terms)) for terms in caller.filters]
