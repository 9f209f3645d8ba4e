"""Parts of threads and states: which are asked for, and how they are written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Invalid
from holdfast.wire.states import STATE_FIELDS, before_checkpoint, selected, selection
from holdfast.wire.threads import ThreadSearch, paths, thread_view

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ROW: dict[str, Any] = {
    "thread_id": UUID(int=1),
    "status": "idle",
    "metadata": {"a": 1},
    "config": {},
    "interrupts": {},
    "error": None,
    "created_at": NOON,
    "updated_at": NOON,
    "state_updated_at": NOON,
    "ttl_strategy": "delete",
    "ttl_minutes": 5.0,
    "expires_at": NOON + timedelta(minutes=5),
    "values": b'{"x":1}',
    "extracted": None,
}
SHOWN = set(ROW) - {"ttl_strategy", "ttl_minutes", "expires_at", "extracted"}


def view(**options: Any) -> dict[str, Any]:
    shown: dict[str, Any] = orjson.loads(thread_view(ROW, **options))
    return shown


def test_a_thread_shows_all_but_its_time_to_live() -> None:
    assert set(view()) == SHOWN
    assert view()["values"] == {"x": 1}


def test_a_time_to_live_is_shown_when_it_is_asked_for() -> None:
    ttl = {"strategy": "delete", "ttl_minutes": 5.0, "expires_at": "2026-01-01T12:05:00.000000+00:00"}
    assert view(with_ttl=True) == {**view(), "ttl": ttl}
    assert view(select=["ttl"]) == {"ttl": ttl}
    without = ROW | {"ttl_strategy": None, "ttl_minutes": None, "expires_at": None}
    assert orjson.loads(thread_view(without, select=["ttl"])) == {"ttl": None}


@given(st.sets(st.sampled_from([*sorted(SHOWN), "context", "ttl"]), min_size=1))
def test_any_selection_of_fields_is_json(fields: set[str]) -> None:
    assert set(view(select=fields)) == fields - {"context"}


def test_values_and_extracts_are_passed_on_as_they_came() -> None:
    row = ROW | {"values": None, "extracted": b'{"a":null}'}
    assert orjson.loads(thread_view(row, select=["values"])) == {"values": None, "extracted": {"a": None}}
    assert thread_view(row, select=["context"]) == b'{"extracted":{"a":null}}'


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("values", ("values",)),
        ("values.messages[-1].content", ("values", "messages", -1, "content")),
        ("values.messages[0][12]", ("values", "messages", 0, 12)),
        ("metadata.with space.and-dash", ("metadata", "with space", "and-dash")),
        ("metadata.0", ("metadata", "0")),
        ("interrupts[0]", ("interrupts", 0)),
        ("config.configurable.n\u00e4me", ("config", "configurable", "n\u00e4me")),
    ],
)
def test_a_path_is_taken_apart(text: str, path: tuple[str | int, ...]) -> None:
    assert paths({"alias": text}) == {"alias": path}


@given(st.text(alphabet="values.metadata[]-19x ", max_size=20))
def test_a_path_is_read_whole_or_refused(text: str) -> None:
    try:
        [path] = paths({"alias": text}).values()
    except Invalid:
        return
    root, *steps = path
    assert text == str(root) + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


def test_more_than_ten_paths_are_refused() -> None:
    ThreadSearch.model_validate({"extract": {str(number): "values" for number in range(10)}})
    with pytest.raises(ValueError, match="at most 10"):
        ThreadSearch.model_validate({"extract": {str(number): "values" for number in range(11)}})


STATE: dict[str, Any] = dict.fromkeys(STATE_FIELDS, 1) | {"values": {"a": 1, "b": 2}}


def test_a_selection_of_a_state_shows_that_part() -> None:
    assert selected(STATE, selection(None)) is STATE
    assert selected(STATE, selection([])) is STATE
    assert selected(STATE, selection(["next"])) == {"next": 1}
    assert selected(STATE, selection(["values.a", "values.c", "next,tasks"])) == {
        "values": {"a": 1},
        "next": 1,
        "tasks": 1,
    }
    assert selected(STATE, selection(["values.a", "values"])) == {"values": {"a": 1, "b": 2}}
    assert selected({**STATE, "values": [1, 2]}, selection(["values.a"])) == {"values": [1, 2]}


@pytest.mark.parametrize("name", ["valuesx", "values.", "thread_id", " next"])
def test_a_selection_of_what_no_state_has_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="Invalid select field"):
        selection(["next", name])


def test_an_empty_before_is_none() -> None:
    assert before_checkpoint("") is None
    assert (
        before_checkpoint({"configurable": {"checkpoint_id": "c"}}) == before_checkpoint({"checkpoint_id": "c"}) == "c"
    )
