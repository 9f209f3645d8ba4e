"""The figures that a round of measuring adds up."""

from __future__ import annotations

from holdfast.rules.storage import LARGEST, StorageTally


def test_threads_are_counted_by_size_and_the_largest_are_named() -> None:
    tally = StorageTally()
    for size in range(20):
        tally.add(f"t{size}", size * 1000)
    report = tally.report
    assert (report["threads"], report["bytes"]) == (20, 190_000)
    assert (report["threads_up_to_bytes"]["4096"], report["threads_up_to_bytes"]["16384"]) == (5, 17)
    assert report["threads_up_to_bytes"]["65536"] == 20
    assert report["largest"][0] == {"thread_id": "t19", "bytes": 19_000}
    assert len(report["largest"]) == LARGEST


def test_a_thread_beyond_the_last_bound_is_counted_all_the_same() -> None:
    tally = StorageTally()
    tally.add("huge", 2**40)
    assert set(tally.report["threads_up_to_bytes"].values()) == {0}
    assert tally.report["threads"] == 1
