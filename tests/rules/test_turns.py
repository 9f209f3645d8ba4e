"""Turns: who has least comes first, and nobody gets more than the level allows while somebody has less."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast.rules.turns import Turn, in_order, share

CIRCLES = st.lists(st.builds(Turn, st.text(min_size=1), st.integers(0, 20)), min_size=1, max_size=8)


def given_out(circle: list[Turn], free: int) -> list[int]:
    """What each would have running, least first, if all had enough that waits."""
    waiting, levels = in_order(circle), []
    while waiting:
        at_most = share(free, waiting) if free else 0
        levels.append(waiting[0].running + at_most)
        free -= at_most
        del waiting[0]
    return levels


def test_who_has_least_running_comes_first_and_of_equals_who_is_next_in_the_circle() -> None:
    circle = [Turn("ann", 2), Turn("bob", 0), Turn("cem", 1), Turn("dia", 0)]
    assert [turn.owner for turn in in_order(circle)] == ["bob", "dia", "cem", "ann"]


def test_free_slots_bring_the_owners_to_one_level() -> None:
    assert given_out([Turn("ann", 8), Turn("bob", 0)], 2) == [2, 8]
    assert given_out([Turn("ann", 3), Turn("bob", 0)], 5) == [4, 4]
    assert given_out([Turn("ann", 0)], 32) == [32]


@given(CIRCLES, st.integers(1, 40))
def test_every_free_slot_is_given_out_once(circle: list[Turn], free: int) -> None:
    assert sum(given_out(circle, free)) == sum(turn.running for turn in circle) + free


@given(CIRCLES, st.integers(1, 40))
def test_the_first_never_gets_beyond_somebody_who_gets_less(circle: list[Turn], free: int) -> None:
    levels = given_out(circle, free)
    before = [turn.running for turn in in_order(circle)]
    raised = [level for level, had in zip(levels, before, strict=True) if level > had]
    assert max(raised) - min(levels) <= 1
