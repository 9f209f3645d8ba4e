from __future__ import annotations

import pytest

from holdfast.rules.thread import ThreadStatus, resting_status


@pytest.mark.parametrize(
    ("failed", "unfinished", "status"),
    [
        (False, False, "idle"),
        (False, True, "interrupted"),
        (True, False, "error"),
        (True, True, "error"),
    ],
)
def test_a_thread_rests_as_its_last_run_left_it(failed: bool, unfinished: bool, status: str) -> None:
    assert resting_status(failed=failed, unfinished=unfinished) is ThreadStatus(status)


def test_a_thread_never_rests_busy() -> None:
    found = {resting_status(failed=f, unfinished=u) for f in (False, True) for u in (False, True)}
    assert ThreadStatus.BUSY not in found
