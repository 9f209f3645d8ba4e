"""The life of a question as a table, and what policies come to."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.errors import Conflict
from holdfast.rules.admission import is_held
from holdfast.rules.approval import (
    APPROVAL_MOVES,
    ApprovalState,
    ApprovalVerb,
    Deadline,
    Open,
    Policies,
    Policy,
    stricter,
    verb_at_end,
)

X, Y = "x" * 32, "y" * 32
HITL = {"action_requests": [{"name": "send"}, {"name": "pay"}], "review_configs": []}


def test_what_is_settled_stays_settled() -> None:
    settled = {state for state, moves in APPROVAL_MOVES.items() if not moves}
    assert settled == {"answered", "expired", "discarded", "withdrawn"}
    assert set(APPROVAL_MOVES) == set(ApprovalState)
    for moves in APPROVAL_MOVES.values():
        assert set(moves.values()) <= set(ApprovalState)


@pytest.mark.parametrize(
    ("state", "decider", "asked", "unread", "verb"),
    [
        ("pending", None, {X: b"q"}, (), None),
        ("pending", None, {}, (), ApprovalVerb.DISCARD),
        ("pending", None, {Y: b"q"}, (), ApprovalVerb.DISCARD),
        ("pending", None, {X: b"other"}, (), ApprovalVerb.DISCARD),
        ("answering", "mine", {}, (), ApprovalVerb.CONFIRM),
        ("answering", "mine", {X: b"q"}, (), ApprovalVerb.RELEASE),
        ("answering", "mine", {}, (X,), ApprovalVerb.DISCARD),
        ("answering", "mine", {X: b"q"}, (X,), ApprovalVerb.RELEASE),
        ("answering", "theirs", {X: b"q"}, (), None),
        ("answering", "theirs", {}, (), ApprovalVerb.DISCARD),
        ("expiring", "mine", {}, (), ApprovalVerb.CONFIRM),
    ],
)
def test_the_end_of_a_run_settles_what_it_was_about(
    state: str, decider: str | None, asked: dict[str, bytes], unread: tuple[str, ...], verb: ApprovalVerb | None
) -> None:
    before = Open(X, ApprovalState(state), decider, b"q")
    assert verb_at_end(before, asked, run_id="mine", unread=frozenset(unread)) is verb
    assert verb is None or verb in APPROVAL_MOVES[before.state]


@pytest.mark.parametrize(
    ("policy", "asks", "active", "held"),
    [
        *(("discard", asks, active, False) for asks in (True, False) for active in (0, 1)),
        *(("enqueue", asks, active, asks) for asks in (True, False) for active in (0, 1)),
        *(("reject", False, active, False) for active in (0, 1)),
        ("reject", True, 1, False),
    ],
)
def test_input_waits_while_something_is_asked(policy: Any, asks: bool, active: int, held: bool) -> None:
    assert is_held(policy, asks=asks, active=active) is held


def test_input_is_refused_while_something_is_asked() -> None:
    with pytest.raises(Conflict, match="waits for an answer"):
        is_held("reject", asks=True, active=0)


def test_the_stricter_policy_wins() -> None:
    assert stricter("discard", "enqueue") == "enqueue"
    assert stricter("reject", "discard") == "reject"
    assert stricter("enqueue", "enqueue") == "enqueue"


def test_a_graph_without_a_policy_has_the_default() -> None:
    policies = Policies(Policy("enqueue"), {"strict": Policy("reject")})
    assert (policies.of("strict").on_pending, policies.of("other").on_pending) == ("reject", "enqueue")


def test_a_rejection_answers_every_request() -> None:
    answer = Deadline(90, "reject").answer_to(HITL)
    assert [decision["type"] for decision in answer["decisions"]] == ["reject", "reject"]
    assert "90 seconds" in answer["decisions"][0]["message"]


@pytest.mark.parametrize("question", [None, "may I?", {}, {"action_requests": []}, {"action_requests": "all"}, [1]])
def test_what_has_no_requests_cannot_be_rejected(question: Any) -> None:
    with pytest.raises(ValueError, match="action_requests"):
        Deadline(90, "reject").answer_to(question)
    assert Deadline(90, "answer", answer=None).answer_to(question) is None
