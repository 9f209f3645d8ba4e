"""The whole truth table of taking a run up again."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.rules.recovery import Dispatch, Standing, recovery, still_pending

O, A, S = Dispatch.ORIGINAL, Dispatch.ANSWERS, Dispatch.SETTLE  # noqa: E741 - a table needs short names

TABLE = {
    # (written by this run, open tasks, at breakpoint, command saved): (began with an input, began with a command)
    (False, False, False, False): (O, O),
    (False, False, False, True): (O, A),
    (False, False, True, False): (O, O),
    (False, False, True, True): (O, A),
    (False, True, False, False): (O, O),
    (False, True, False, True): (O, A),
    (False, True, True, False): (O, O),
    (False, True, True, True): (O, A),
    (True, False, False, False): (S, S),
    (True, False, False, True): (S, S),
    (True, False, True, False): (S, S),
    (True, False, True, True): (S, S),
    (True, True, False, False): (O, A),
    (True, True, False, True): (O, A),
    (True, True, True, False): (S, S),
    (True, True, True, True): (S, S),
}


def test_the_table_is_complete() -> None:
    assert set(TABLE) == set(product((False, True), repeat=4))


@pytest.mark.parametrize(("standing", "expected"), TABLE.items())
def test_a_run_is_taken_up_again_by_the_table(
    standing: tuple[bool, bool, bool, bool], expected: tuple[Dispatch, Dispatch]
) -> None:
    written, open_tasks, at_breakpoint, command_saved = standing
    seen = Standing(
        written_by_this_run=written,
        open_tasks=open_tasks,
        at_breakpoint=at_breakpoint,
        command_saved=command_saved,
    )
    assert (recovery(seen, is_command=False), recovery(seen, is_command=True)) == expected


ids = st.text("0123456789abcdef", min_size=32, max_size=32)


@given(answers=st.dictionaries(ids, st.integers()), others=st.frozensets(ids), data=st.data())
def test_only_answers_whose_question_is_open_are_delivered_and_none_is_changed(
    answers: dict[str, int], others: frozenset[str], data: st.DataObject
) -> None:
    asked = frozenset(data.draw(st.sets(st.sampled_from(sorted(answers)))) if answers else ()) | others
    delivered = still_pending(answers, asked)
    assert delivered == {key: value for key, value in answers.items() if key in asked}


def test_a_run_without_answers_delivers_none() -> None:
    assert still_pending(None, frozenset({"a" * 32})) == {}
