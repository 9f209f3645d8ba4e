"""Which rows a caller sees, as part of the SQL (invariant 10).

A statement says `%%SEES(t)%%` where it needs to know whether the caller sees the row `t` of a table with `owner` and
`metadata`. The condition is text rather than a parameter, so that each kind of sight has a plan of its own.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from psycopg.types.json import Jsonb

from holdfast.rules.caller import Caller, Sight

_MARK = re.compile(r"%%SEES\((\w+)\)%%")

_CONDITIONS = {
    Sight.OWN: "{row}.owner = %(owner)s",
    Sight.MATCHING: "{row}.metadata @> ANY(%(filters)s::jsonb[])",
    Sight.ALL: "true",
}


@cache
def _written(statement: str, sight: Sight) -> str:
    return _MARK.sub(lambda mark: _CONDITIONS[sight].format(row=mark[1]), statement)


def scoped(caller: Caller, statement: str, **params: Any) -> tuple[str, dict[str, Any]]:
    """The statement, restricted to what the caller sees, and its parameters; `owner` is for rows that they make."""
    filters = [Jsonb(dict(terms)) for terms in caller.filters]
    return _written(statement, caller.sight), {"owner": caller.owner, "filters": filters, **params}
