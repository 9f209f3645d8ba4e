"""Binding an answer to its question: every branch, then whatever hypothesis thinks of."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Conflict, Invalid
from holdfast.rules.command import Questions, bind_resume, is_answer_map, verify_binding

FIRST, SECOND, OTHER = "1" * 32, "2" * 32, "f" * 32

ids = st.text("0123456789abcdef", min_size=32, max_size=32)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
questions = st.builds(
    Questions,
    checkpoint_id=st.sampled_from(["c1", "c2"]),
    pending=st.frozensets(ids, max_size=3),
    unfinished=st.booleans(),
)


def asking(*pending: str, checkpoint_id: str | None = "c1", unfinished: bool = True) -> Questions:
    return Questions(checkpoint_id, frozenset(pending), unfinished)


def test_a_bare_value_is_bound_to_the_only_question() -> None:
    assert bind_resume("yes", asking(FIRST), addressed=None) == {FIRST: "yes"}


@pytest.mark.parametrize("value", [None, False, 0, "", [], {}, {"approve": True}, {FIRST[:-1]: 1}, {FIRST: 1, "x": 2}])
def test_whatever_is_not_a_map_of_interrupt_ids_is_one_value(value: Any) -> None:
    assert bind_resume(value, asking(FIRST), addressed=None) == {FIRST: value}


def test_a_bare_value_is_refused_while_several_questions_are_pending_and_they_are_named() -> None:
    with pytest.raises(Invalid, match=f"{FIRST}, {SECOND}"):
        bind_resume("yes", asking(SECOND, FIRST), addressed=None)


def test_a_map_answers_some_or_all_of_the_questions() -> None:
    assert bind_resume({SECOND: 2}, asking(FIRST, SECOND), addressed=None) == {SECOND: 2}
    both = {FIRST: 1, SECOND: 2}
    assert bind_resume(both, asking(FIRST, SECOND), addressed=None) == both


def test_a_map_with_one_question_that_is_not_pending_is_refused_whole() -> None:
    with pytest.raises(Conflict, match=OTHER):
        bind_resume({FIRST: 1, OTHER: 2}, asking(FIRST), addressed=None)


def test_a_map_is_refused_at_a_breakpoint_because_nothing_was_asked() -> None:
    with pytest.raises(Conflict, match=FIRST):
        bind_resume({FIRST: 1}, asking(), addressed=None)


def test_the_resume_of_a_breakpoint_carries_no_answer() -> None:
    assert bind_resume("go", asking(), addressed=None) == {}


@pytest.mark.parametrize("value", ["yes", True, {"a": 1}])
def test_nothing_can_be_resumed_where_nothing_is_left_to_do(value: Any) -> None:
    with pytest.raises(Conflict, match="nothing to resume"):
        bind_resume(value, asking(unfinished=False), addressed=None)


def test_an_answer_that_names_the_current_checkpoint_is_bound() -> None:
    assert bind_resume("yes", asking(FIRST), addressed="c1") == {FIRST: "yes"}


@pytest.mark.parametrize("resume", ["yes", {FIRST: "yes"}])
@pytest.mark.parametrize("checkpoint_id", ["c1", None])
def test_an_answer_that_names_another_checkpoint_is_refused(resume: Any, checkpoint_id: str | None) -> None:
    with pytest.raises(Conflict, match="earlier checkpoint"):
        bind_resume(resume, asking(FIRST, checkpoint_id=checkpoint_id), addressed="c0")


def test_the_bound_answers_are_a_copy() -> None:
    given = {FIRST: 1}
    bound = bind_resume(given, asking(FIRST), addressed=None)
    given[SECOND] = 2
    assert bound == {FIRST: 1}


def test_a_binding_holds_while_its_question_stands() -> None:
    verify_binding({FIRST: 1}, "c1", asking(FIRST, SECOND))


def test_a_binding_breaks_with_its_checkpoint() -> None:
    with pytest.raises(Conflict):
        verify_binding({FIRST: 1}, "c1", asking(FIRST, checkpoint_id="c2"))


def test_a_binding_breaks_with_its_question() -> None:
    with pytest.raises(Conflict):
        verify_binding({FIRST: 1}, "c1", asking(SECOND))


def test_the_resume_of_a_breakpoint_is_bound_to_its_checkpoint() -> None:
    verify_binding({}, "c1", asking())
    with pytest.raises(Conflict):
        verify_binding({}, "c1", asking(checkpoint_id="c2"))


@pytest.mark.parametrize(
    ("asked", "keys"),
    [
        (asking(FIRST, SECOND), {FIRST, SECOND}),
        (asking(FIRST, unfinished=False), {FIRST}),
        (asking(), {"breakpoint:c1"}),
        (asking(unfinished=False), set()),
    ],
)
def test_an_answer_is_keyed_by_questions_or_by_the_breakpoint(asked: Questions, keys: set[str]) -> None:
    assert asked.keys == keys


@pytest.mark.parametrize(
    ("value", "is_map"),
    [
        ({FIRST: 1}, True),
        ({FIRST: 1, SECOND: None}, True),
        ({}, False),
        ({FIRST.upper().replace("1", "A"): 1}, False),
        ({FIRST + "0": 1}, False),
        ({FIRST + "\n": 1}, False),
        ({1: 1}, False),
        ([FIRST], False),
        (FIRST, False),
        (None, False),
    ],
)
def test_a_map_of_answers_is_recognised_as_langgraph_recognises_it(value: Any, is_map: bool) -> None:
    assert is_answer_map(value) is is_map


@given(resume=values | st.dictionaries(ids, values, min_size=1, max_size=3), asked=questions)
def test_what_is_bound_answers_pending_questions_alone_and_still_holds_at_once(resume: Any, asked: Questions) -> None:
    try:
        bound = bind_resume(resume, asked, addressed=None)
    except (Conflict, Invalid):
        return
    assert bound.keys() <= asked.pending
    assert bound or asked.unfinished
    verify_binding(bound, asked.checkpoint_id, asked)


@given(resume=st.dictionaries(ids, values, min_size=1, max_size=3), before=questions, after=questions)
def test_a_binding_never_slides_onto_another_question(
    resume: dict[str, Any], before: Questions, after: Questions
) -> None:
    before = Questions(before.checkpoint_id, before.pending | resume.keys(), unfinished=True)
    bound = bind_resume(resume, before, addressed=None)
    still_asked = after.checkpoint_id == before.checkpoint_id and bound.keys() <= after.pending
    try:
        verify_binding(bound, before.checkpoint_id, after)
    except Conflict:
        assert not still_asked
    else:
        assert still_asked
