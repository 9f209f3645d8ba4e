"""What an API key looks like: `hf_<id>_<secret>`.

The id is found by, and may be seen; the secret is 256 random bits. It is stored as its SHA-256: nobody can try 2^256
secrets, so that a slow or salted hash, which passwords need, would add nothing but work for whoever sends wrong keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

ID_BYTES = 8
SECRET_BYTES = 32

_FORM = re.compile(rf"hf_([0-9a-f]{{{2 * ID_BYTES}}})_([0-9a-f]{{{2 * SECRET_BYTES}}})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as its holder sends it; `digest` is what is stored of its secret."""

    key_id: str
    digest: bytes


def written(key_id: bytes, secret: bytes) -> str:
    """The key of these random bytes."""
    assert (len(key_id), len(secret)) == (ID_BYTES, SECRET_BYTES)
    return f"hf_{key_id.hex()}_{secret.hex()}"


def parsed(text: str) -> ApiKey | None:
    """The key, or None for what is none. The id is part of what is hashed: a secret is good for its own id alone."""
    match = _FORM.fullmatch(text)
    return ApiKey(match[1], sha256(text.encode("ascii")).digest()) if match else None
