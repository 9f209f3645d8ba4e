"""The manifest and the tests say the same."""

from __future__ import annotations

from tests.conformance.requirements import requirements, shown, unmarked


def test_every_requirement_is_shown_by_a_test() -> None:
    assert sorted(requirements().keys() - shown().keys()) == []


def test_every_mark_names_a_requirement() -> None:
    assert sorted(shown().keys() - requirements().keys()) == []


def test_every_conformance_test_shows_a_requirement() -> None:
    assert unmarked() == []


def test_what_is_not_run_at_the_official_server_has_its_reason() -> None:
    assert [row.id for row in requirements().values() if row.harmful and not row.divergence] == []
