"""Durations as people write them."""

from __future__ import annotations

import re

_WRITTEN = re.compile(r"(\d{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def seconds_of(text: str) -> int:
    """`30s`, `90m`, `12h`, `30d`, `8w` in seconds; a 0 needs no unit.

    Raises:
        ValueError: anything else.
    """
    if text == "0":
        return 0
    if (match := _WRITTEN.fullmatch(text)) is None:
        raise ValueError(f"{text!r} is no duration; write 90m, 12h, 30d or 8w")
    return int(match[1]) * _SECONDS[match[2]]
