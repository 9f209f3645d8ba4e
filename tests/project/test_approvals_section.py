"""`approvals` of langgraph.json: the documented example, and what goes on top of what."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from pydantic import ValidationError

from holdfast.rules.approval import Deadline
from holdfast.sections import ApprovalsSection, Sections
from tests.support.server import ROOT


def test_the_documented_section_does_what_the_page_says() -> None:
    page = (ROOT / "docs" / "approvals.md").read_text("utf-8")
    [example] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    sections = Sections.model_validate(json.loads(example))
    assert sections.unknown_keys() == []
    policies = sections.approvals.policies
    assert policies.of("anything").on_pending == "enqueue"
    assert policies.of("anything").deadline is None
    assert policies.of("payments").on_pending == "reject"
    assert policies.of("payments").deadline == Deadline(86400, "reject")
    assert policies.of("payments").by == ("another", "permission:finance")
    assert policies.of("anything").by == ()
    assert policies.of("triage").on_pending == "enqueue"
    assert policies.of("triage").deadline == Deadline(900, "escalate", webhook="https://example.com/on-call")
    assert sections.approvals.keep_days == 3650


def test_a_graph_may_be_answered_by_anybody_in_spite_of_the_default() -> None:
    graphs = {"a": {"by": []}, "b": {}, "c": {"by": "permission:legal"}}
    policies = ApprovalsSection.model_validate({"by": "another", "graphs": graphs}).policies
    assert [policies.of(graph).by for graph in "abcd"] == [(), ("another",), ("permission:legal",), ("another",)]
    assert policies.choosy
    assert not ApprovalsSection().policies.choosy


def test_a_graph_may_do_without_the_default_deadline() -> None:
    deadline = {"after_seconds": 1, "outcome": "answer", "answer": None}
    section = ApprovalsSection.model_validate({"deadline": deadline, "graphs": {"a": {"deadline": None}, "b": {}}})
    assert section.policies.of("a").deadline is None
    assert section.policies.of("b").deadline == Deadline(1, "answer")


@pytest.mark.parametrize(
    "deadline",
    [
        {},
        {"after_seconds": -1, "outcome": "reject"},
        {"after_seconds": 1e300, "outcome": "reject"},
        {"after_seconds": 1, "outcome": "reject", "webhook": "https://example.com"},
        {"after_seconds": 1, "outcome": "answer", "webhook": "https://example.com"},
        {"after_seconds": 1, "outcome": "escalate", "webhook": None},
    ],
)
def test_a_deadline_says_what_its_outcome_needs_and_nothing_else(deadline: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ApprovalsSection.model_validate({"deadline": deadline})


def test_unknown_keys_are_named_with_their_graph() -> None:
    sections = Sections.model_validate({"approvals": {"x": 1, "graphs": {"a": {"y": 1}}}})
    assert sections.unknown_keys() == ["approvals.x", "approvals.graphs.a.y"]
