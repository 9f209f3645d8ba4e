"""The board on which the processes of one `serve` see how busy each is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from holdfast.worker import siblings
from holdfast.worker.siblings import ABSENT, ALONE, HEAD_START, Board
from tests.support.talk import eventually


@pytest.fixture
def page() -> Iterator[int]:
    with siblings.blank(3) as file:
        yield file.fileno()


def test_who_is_alone_has_room_for_everything(page: int) -> None:
    assert Board(page, 0).room(32) >= ALONE


def test_an_idle_sibling_leaves_a_head_start(page: int) -> None:
    Board(page, 1).say(0)
    assert [Board(page, 0).room(load) for load in (0, HEAD_START, HEAD_START + 3)] == [HEAD_START, 0, -3]


def test_the_idlest_counts_and_may_have_half_as_many(page: int) -> None:
    for number, load in ((1, 30), (2, 10)):
        Board(page, number).say(load)
    assert [Board(page, 0).room(load) for load in (10, 19, 20)] == [10, 1, 0]


@pytest.mark.anyio
async def test_more_is_seen_at_once_and_less_a_little_later(page: int) -> None:
    board, other = Board(page, 0), Board(page, 1)
    for load in (9, 12, 0):
        board.say(load)
    assert other.room(0) == 24

    async def has_sunk() -> bool:
        return other.room(0) == HEAD_START

    await eventually(has_sunk, "the load has sunk")


@pytest.mark.parametrize("is_dead", [True, False])
def test_who_has_left_is_waited_for_by_nobody(page: int, is_dead: bool) -> None:
    Board(page, 1).say(0)
    if is_dead:
        siblings.erase(page, 1)
    else:
        Board(page, 1).say(ABSENT)
    assert Board(page, 0).room(32) > 0


def test_there_is_always_somebody_who_may_go_on(page: int) -> None:
    boards = [Board(page, number) for number in range(3)]
    loads = [0, 0, 0]
    for board in boards:
        board.say(0)
    for _ in range(60):
        most = max(range(3), key=lambda number: boards[number].room(loads[number]))
        assert boards[most].room(loads[most]) > 0
        loads[most] += 1
        boards[most].say(loads[most])
    assert all(more <= 2 * less for more, less in pairwise(sorted(loads, reverse=True)))
