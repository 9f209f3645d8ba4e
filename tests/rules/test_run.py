"""The table of run statuses is closed, reachable and has no way out of an end."""

from __future__ import annotations

import pytest

from holdfast.rules.run import ACTIVE, RUN_MOVES, TERMINAL, RunStatus, RunVerb, StopReason


def test_the_table_has_a_row_for_every_status() -> None:
    assert set(RUN_MOVES) == set(RunStatus)


def test_every_verb_is_used_and_leads_to_one_status_wherever_it_is_allowed() -> None:
    targets = {verb: {moves[verb] for moves in RUN_MOVES.values() if verb in moves} for verb in RunVerb}
    assert {verb: len(found) for verb, found in targets.items()} == dict.fromkeys(RunVerb, 1)


def test_active_and_terminal_are_the_two_halves() -> None:
    assert {RunStatus.PENDING, RunStatus.RUNNING} == ACTIVE
    assert {RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.TIMEOUT, RunStatus.INTERRUPTED} == TERMINAL


@pytest.mark.parametrize("status", sorted(TERMINAL))
@pytest.mark.parametrize("verb", RunVerb)
def test_no_verb_moves_an_ended_run(status: RunStatus, verb: RunVerb) -> None:
    assert verb not in RUN_MOVES[status]


@pytest.mark.parametrize(
    ("status", "verb", "after"),
    [
        ("pending", "claim", "running"),
        ("pending", "cancel", "interrupted"),
        ("running", "requeue", "pending"),
        ("running", "succeed", "success"),
        ("running", "fail", "error"),
        ("running", "expire", "timeout"),
        ("running", "stop", "interrupted"),
    ],
)
def test_the_moves_of_an_active_run(status: str, verb: str, after: str) -> None:
    assert RUN_MOVES[RunStatus(status)][RunVerb(verb)] == after


def test_there_are_no_other_moves() -> None:
    assert sum(len(moves) for moves in RUN_MOVES.values()) == 7


def test_every_status_is_reached_from_pending() -> None:
    reached, frontier = {RunStatus.PENDING}, [RunStatus.PENDING]
    while frontier:
        for after in RUN_MOVES[frontier.pop()].values():
            if after not in reached:
                reached.add(after)
                frontier.append(after)
    assert reached == set(RunStatus)


def test_the_ways_to_cancel_are_stop_reasons_under_the_same_names() -> None:
    assert StopReason("interrupt") is StopReason.INTERRUPT
    assert StopReason("rollback") is StopReason.ROLLBACK
