"""Which headers of a request a run may see (`http.configurable_headers` of langgraph.json), and which are logged
(`http.logging_headers`).

Only what the project lists; `*` stands for anything, excludes win over includes. Credentials never pass, whatever the
project lists. Nor does a run see a name that means something else among its configurable values, and the two headers
that carry a trace on it always sees.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

TRACING = frozenset({"langsmith-trace", "baggage"})
CREDENTIALS = frozenset({"x-api-key", "authorization", "x-tenant-id", "x-service-key", "cookie"})
_NAMES = frozenset({"thread_id", "run_id", "assistant_id", "graph_id", "user_id", "cron_id"})
_PREFIXES = ("__", "checkpoint_", "langgraph_")


def visible(
    headers: Iterable[tuple[str, str]], *, includes: Sequence[str] = (), excludes: Sequence[str] = ()
) -> dict[str, str]:
    """The headers that pass, under their names in lower case; a name that comes twice has its values joined."""
    wanted, unwanted = _pattern(includes), _pattern(excludes)
    passing: dict[str, str] = {}
    for given, value in headers:
        name = given.lower()
        if name in TRACING or (_harmless(name) and wanted.fullmatch(name) and not unwanted.fullmatch(name)):
            passing[name] = f"{passing[name]}, {value}" if name in passing else value
    return passing


def logged(
    headers: Iterable[tuple[str, str]], *, includes: Sequence[str] = (), excludes: Sequence[str] = ()
) -> dict[str, str]:
    """The headers that are logged, under their names in lower case."""
    wanted, unwanted = _pattern(includes), _pattern(excludes)
    named = ((name.lower(), value) for name, value in headers)
    return {
        name: value
        for name, value in named
        if name not in CREDENTIALS and wanted.fullmatch(name) and not unwanted.fullmatch(name)
    }


def _harmless(name: str) -> bool:
    return name not in CREDENTIALS and name not in _NAMES and not name.startswith(_PREFIXES)


def _pattern(patterns: Sequence[str]) -> re.Pattern[str]:
    # No pattern at all is `(?!)`, which matches nothing.
    return re.compile("|".join(re.escape(pattern.lower()).replace(r"\*", ".*") for pattern in patterns) or r"(?!)")
