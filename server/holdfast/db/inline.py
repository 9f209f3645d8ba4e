"""What stands in a checkpoint itself, in JSONB, and what travels as a blob.

Strings that JSONB refuses (NUL, lone surrogates), NaN and integers over 64 bits would fail inline in the `checkpoint`
column, and it would change -0.0 and large floats, so such values travel as blobs; the stock reading code finds them
there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from langgraph.checkpoint.serde.types import _DeltaSnapshot

_SURROGATE = re.compile("[\ud800-\udfff]")
_REFUSED = re.compile("[\x00\ud800-\udfff]")
_MAX_INLINE_INT = 2**63
_MAX_INLINE_FLOAT = 1e16
"""JSONB writes larger ones without fraction or exponent: they would come back as integers."""


def split(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Channel values that stay in the JSONB column, and those that travel as blobs.

    A Delta snapshot leaves the marker `true` behind, as the stock saver does.
    """
    inline: dict[str, Any] = {}
    blobs: dict[str, Any] = {}
    for channel, value in values.items():
        if isinstance(value, _DeltaSnapshot):
            inline[channel], blobs[channel] = True, value
        elif _fits_jsonb(value):
            inline[channel] = value
        else:
            blobs[channel] = value
    return inline, blobs


def _fits_jsonb(value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, str):
        return type(value) is str and _plain_text(value)
    if isinstance(value, int):
        return type(value) is int and -_MAX_INLINE_INT <= value < _MAX_INLINE_INT
    return type(value) is float and abs(value) < _MAX_INLINE_FLOAT and repr(value) != "-0.0"


def _plain_text(text: str) -> bool:
    return "\x00" not in text and (text.isascii() or not _SURROGATE.search(text))


def plain(value: Any) -> Any:
    """Metadata with the characters that JSONB refuses replaced; it labels a checkpoint and is not state."""
    if isinstance(value, str):
        return value if _plain_text(value) else _REFUSED.sub("\ufffd", value)
    if isinstance(value, dict):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if _fits_jsonb(value) else str(value)
