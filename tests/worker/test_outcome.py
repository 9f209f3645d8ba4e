"""What a run leaves of a state whose keys are no names."""

from __future__ import annotations

from holdfast.worker.outcome import finished_outcome


def test_keys_that_are_no_names_of_channels_are_texts_that_postgres_takes() -> None:
    values = {"a\x00b": 1, 2: ["x"], "": None, "half \ud800": {}}
    checkpoint = {"next": (), "values": values, "config": {"configurable": {"checkpoint_id": "c"}}}
    outcome = finished_outcome(checkpoint)
    assert outcome is not None
    assert outcome.values == {"a\ufffdb": b"1", "2": [b'"x"'], "": b"null", "half \ufffd": b"{}"}
