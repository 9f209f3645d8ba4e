"""Durations as people write them."""

from __future__ import annotations

import pytest

from holdfast.rules.duration import seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("30s", 30), ("90m", 5400), ("12h", 43_200), ("30d", 2_592_000), ("8w", 4_838_400)]
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "1y", "h", "-1h", "1.5h", " 1h", "1h\n", "1 h", "1000000000h"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        seconds_of(text)
