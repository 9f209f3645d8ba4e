from __future__ import annotations

from typing import get_args

import pytest

from holdfast.errors import Conflict
from holdfast.rules.admission import Plan, Strategy, admission, verify_status


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_a_run_starts_on_a_quiet_thread_whatever_its_strategy(strategy: Strategy) -> None:
    assert admission(strategy, active=0) is Plan.START


@pytest.mark.parametrize("active", [1, 2, 50])
@pytest.mark.parametrize(
    ("strategy", "plan"),
    [
        ("reject", Plan.REFUSE),
        ("enqueue", Plan.WAIT),
        ("interrupt", Plan.INTERRUPT_OTHERS),
        ("rollback", Plan.ROLLBACK_OTHERS),
    ],
)
def test_a_busy_thread_is_met_by_the_strategy(strategy: Strategy, plan: Plan, active: int) -> None:
    assert admission(strategy, active=active) is plan


@pytest.mark.parametrize("wanted", [None, ["idle"], ["busy", "idle"]])
def test_a_thread_in_a_status_that_was_asked_for_takes_the_run(wanted: list[str] | None) -> None:
    verify_status("idle", wanted)


def test_a_thread_in_another_status_refuses_and_says_both() -> None:
    with pytest.raises(Conflict, match="Thread is busy, but the request wants it to be idle or error"):
        verify_status("busy", ["idle", "error"])
