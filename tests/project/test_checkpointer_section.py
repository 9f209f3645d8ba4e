"""`checkpointer.storage` of langgraph.json: the documented example, and graphs that are kept in their own way."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from holdfast.errors import ProjectError
from holdfast.project import load_project
from holdfast.sections import Sections
from tests.support.server import ROOT


def test_the_documented_section_does_what_the_page_says() -> None:
    page = (ROOT / "docs" / "storage.md").read_text("utf-8")
    [example] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    sections = Sections.model_validate(json.loads(example))
    assert sections.unknown_keys() == []
    assert sections.checkpointer.by_element("anything")
    assert not sections.checkpointer.by_element("shared")


def test_lists_are_stored_whole_unless_somebody_says_otherwise() -> None:
    assert not Sections.model_validate({}).checkpointer.by_element("agent")
    given = Sections.model_validate({"checkpointer": {"graphs": {"agent": {"storage": "elements"}}}})
    assert given.checkpointer.by_element("agent")
    assert not given.checkpointer.by_element("another")


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"storage": "deltas"}, "checkpointer.storage"),
        ({"graphs": {"agent": {}}}, "checkpointer.graphs.agent.storage"),
        ({"graphs": {"other": {"storage": "elements"}}}, "'checkpointer.graphs' names 'other'"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, section: dict[str, object], problem: str) -> None:
    (tmp_path / "g.py").write_text("graph = None")
    config = tmp_path / "langgraph.json"
    config.write_text(json.dumps({"dependencies": ["."], "graphs": {"agent": "./g.py:graph"}, "checkpointer": section}))
    with pytest.raises(ProjectError, match=re.escape(problem)):
        load_project(config)
