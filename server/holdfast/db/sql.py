"""Named SQL: one verb, one statement, one name, in `queries/*.sql`.

A statement starts with a line `-- name: verb` and goes on to the next such line. Parameters are psycopg's `%(name)s`.
`%%verb%%` is what stands under that name in the same file; `%%VERB%%` is put in by the code.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)
_PART = re.compile(r"%%([a-z_]+)%%")


@cache
def statements(stem: str) -> dict[str, str]:
    """All statements of `queries/<stem>.sql` by name."""
    text = resources.files("holdfast.db").joinpath("queries", f"{stem}.sql").read_text("utf-8")
    parts = _NAME.split(text)[1:]
    named = {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}
    return {name: _whole(body, named) + "\n" for name, body in named.items()}


def _whole(body: str, named: dict[str, str]) -> str:
    """The statement with its parts, and theirs."""
    return _PART.sub(lambda part: _whole(named[part[1]], named), body)
