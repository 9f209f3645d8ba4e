from __future__ import annotations

from itertools import product

import pytest

from holdfast.rules.liveness import Signs, is_dead

LEASE = 5.0


def signs(*, process_gone: bool = False, lock_free: bool = False, lease_over: bool = False) -> Signs:
    return Signs(process_gone=process_gone, lock_free=lock_free, lease_over=lease_over)


@pytest.mark.parametrize("observing_for", [0.0, 4.999, 5.0, 100.0])
def test_a_worker_without_any_sign_of_death_lives(observing_for: float) -> None:
    assert not is_dead(signs(), observing_for=observing_for, lease=LEASE)


def test_a_process_that_is_gone_is_dead_at_first_sight() -> None:
    assert is_dead(signs(process_gone=True), observing_for=0.0, lease=LEASE)


def test_a_worker_whose_session_lock_is_free_is_dead_at_first_sight() -> None:
    assert is_dead(signs(lock_free=True), observing_for=0.0, lease=LEASE)


@pytest.mark.parametrize(("observing_for", "dead"), [(0.0, False), (4.999, False), (5.0, True), (60.0, True)])
def test_a_lease_that_is_over_counts_only_for_who_has_watched_a_whole_lease(observing_for: float, dead: bool) -> None:
    assert is_dead(signs(lease_over=True), observing_for=observing_for, lease=LEASE) is dead


@pytest.mark.parametrize(("gone", "free", "over"), list(product((False, True), repeat=3)))
def test_more_signs_never_bring_a_worker_back_to_life(gone: bool, free: bool, over: bool) -> None:
    seen = is_dead(Signs(gone, free, over), observing_for=LEASE, lease=LEASE)
    assert seen is (gone or free or over)
