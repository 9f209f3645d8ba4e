"""The form of API keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast.rules.apikey import ID_BYTES, SECRET_BYTES, parsed, written

IDS, SECRETS = st.binary(min_size=ID_BYTES, max_size=ID_BYTES), st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)


@given(IDS, SECRETS)
def test_what_is_written_is_read(key_id: bytes, secret: bytes) -> None:
    key = parsed(written(key_id, secret))
    assert key is not None
    assert key.key_id == key_id.hex()
    assert secret.hex() not in repr(key)


@given(IDS, IDS, SECRETS, SECRETS)
def test_another_id_or_another_secret_is_another_digest(one: bytes, two: bytes, first: bytes, second: bytes) -> None:
    digests = {parsed(written(key_id, secret)) for key_id in (one, two) for secret in (first, second)}
    assert len(digests) == len({one, two}) * len({first, second})


@given(st.text() | st.from_regex(r"hf_[0-9a-fA-F]{15,17}_[0-9a-fA-F]{63,65}\n?", fullmatch=True))
def test_what_is_none_is_none(text: str) -> None:
    key = parsed(text)
    assert key is None or (len(text) == 3 + 2 * ID_BYTES + 1 + 2 * SECRET_BYTES and text == text.lower())
