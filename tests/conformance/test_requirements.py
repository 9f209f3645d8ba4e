"""The manifest and the tests say the same."""

from __future__ import annotations

from tests.conformance.requirements import requirements, shown


def test_every_requirement_is_shown_by_a_test() -> None:
    assert sorted(requirements().keys() - shown().keys()) == []


def test_every_mark_names_a_requirement() -> None:
    assert sorted(shown().keys() - requirements().keys()) == []
