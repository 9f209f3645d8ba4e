"""What a run leaves, and what a snapshot says about the work that is left."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.types import Interrupt, PregelTask, StateSnapshot

from holdfast.worker.outcome import finished_outcome, has_open_tasks


def task(name: str, *, result: Any = None, asks: bool = False) -> PregelTask:
    return PregelTask(id=name, name=name, path=(), interrupts=(Interrupt("?"),) if asks else (), result=result)


@pytest.mark.parametrize(
    ("tasks", "is_open"),
    [
        ((), False),
        ((task("a"),), True),
        ((task("a", result={}), task("b")), True),
        ((task("a", result={"x": 1}),), True),
        ((task("a", result={"x": 1}), task("b", result={"x": 2})), True),
        ((task("a", asks=True),), False),
        ((task("a", asks=True), task("b", result={"x": 1})), False),
        ((task("a", asks=True), task("b")), True),
    ],
)
def test_a_step_whose_tasks_are_all_saved_is_open_until_it_is_a_checkpoint(
    tasks: tuple[PregelTask, ...], is_open: bool
) -> None:
    snapshot = StateSnapshot({}, (), {}, None, None, None, tasks, ())
    assert has_open_tasks(snapshot) is is_open


def test_keys_that_are_no_names_of_channels_are_texts_that_postgres_takes() -> None:
    values = {"a\x00b": 1, 2: ["x"], "": None, "half \ud800": {}}
    checkpoint = {"next": (), "values": values, "config": {"configurable": {"checkpoint_id": "c"}}}
    outcome = finished_outcome(checkpoint)
    assert outcome is not None
    assert outcome.values == {"a\ufffdb": b"1", "2": [b'"x"'], "": b"null", "half \ufffd": b"{}"}
