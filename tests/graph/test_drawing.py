"""docs/agent.md is true: its drawing is the graph, and the files that it names are there."""

from __future__ import annotations

import re

import pytest

from tests.graph.drawing import DOCUMENT, drawn

TEXT = DOCUMENT.read_text()


def test_A1_the_drawing_in_the_documentation_is_the_graph() -> None:
    assert drawn(TEXT) == TEXT, "python -m tests.graph.drawing draws it anew"
    for name in ("agent", "tools", "error_handler", "ask_human", "give_up"):
        assert f"\t{name}({name})" in TEXT


def test_A1_an_old_drawing_is_replaced_and_the_text_around_it_kept() -> None:
    old = TEXT.replace("error_handler(error_handler)", "another_handler(another_handler)")
    assert old != TEXT
    assert drawn(old) == TEXT
    with pytest.raises(ValueError, match="marks"):
        drawn("no marks")


def test_A1_the_table_has_every_row_and_names_files_that_are_there() -> None:
    rows = re.findall(r"^\| ([AO]\d+) \| (.*) \|$", TEXT, re.MULTILINE)
    assert [row for row, _ in rows] == [*(f"A{number}" for number in range(1, 20)), "O8"]
    named = {name for _, cells in rows for name in re.findall(r"`((?:graph|tests)/[\w/.]+)`", cells)}
    assert len(named) > 10
    assert [name for name in sorted(named) if not (DOCUMENT.parents[1] / name).is_file()] == []
