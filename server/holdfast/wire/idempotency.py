"""The header `Idempotency-Key`, after the IETF draft of that name: `Idempotency-Key: "8e03978e-40d5-43e8"`.

The draft's form is a quoted string; what most clients send is the text without quotes. Both name the same key.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from pydantic import BaseModel

from holdfast.errors import Invalid

HEADER = "idempotency-key"
REPLAYED = {"idempotent-replayed": "true"}
"""The header of an answer that repeats an earlier one, as Stripe's API has it."""

PATTERN = r"[!#-~]{1,255}"
"""1 to 255 visible ASCII characters but no quote."""


def key_name(given: Sequence[str]) -> str | None:
    """The key that a request's headers name; None without one.

    Raises:
        Invalid: no such text, or several of them.
    """
    if not given:
        return None
    name = re.fullmatch(rf'({PATTERN})|"({PATTERN})"', given[0])
    if len(given) > 1 or name is None:
        raise Invalid("Idempotency-Key must be one text of 1 to 255 visible ASCII characters, with or without quotes")
    return name[1] or name[2]


def request_digest(operation: str, place: object, *bodies: BaseModel) -> bytes:
    """By what a request is known again: its operation, what it is about, and all that it says but for defaults."""
    said = [operation, str(place), *(body.model_dump(exclude_defaults=True) for body in bodies)]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).digest()
