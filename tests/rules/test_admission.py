from __future__ import annotations

from typing import get_args

import pytest

from holdfast.rules.admission import Plan, Strategy, admission


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
