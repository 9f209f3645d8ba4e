from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.wire.codec import dumps
from holdfast.wire.sse import (
    HEARTBEAT,
    event_id,
    event_name,
    frame,
    matches,
    numbered,
    parse_last_event_id,
    run_done,
    split,
    thread_matches,
)

NAMES = st.from_regex(r"[a-z]+(/[a-z]+)?(\|[\w:-]+){0,3}", fullmatch=True)
DATA = st.recursive(
    st.text() | st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
IDS = st.none() | st.builds(event_id, st.integers(0, 10**13), st.integers(0, 10**9))


def test_a_frame_has_the_bytes_of_the_contract() -> None:
    assert frame("values", b'{"a":1}', None) == b'event: values\r\ndata: {"a":1}\r\n\r\n'
    assert frame("values|sub:1", b"null", "17-3") == b"event: values|sub:1\r\ndata: null\r\nid: 17-3\r\n\r\n"
    assert HEARTBEAT == b": heartbeat\r\n\r\n"


@settings(deadline=None)
@given(st.lists(st.tuples(NAMES, DATA, IDS)))
def test_a_block_falls_apart_into_the_frames_it_was_made_of(events: list[tuple[str, Any, str | None]]) -> None:
    frames = [frame(name, dumps(data), ident) for name, data, ident in events]
    assert split(b"".join(frames)) == frames
    assert [event_name(one) for one in frames] == [name for name, _, _ in events]


def test_heartbeats_are_frames_without_a_name() -> None:
    block = frame("values", b"1", None) + HEARTBEAT
    assert [event_name(one) for one in split(block)] == ["values", ""]


def test_a_block_that_was_cut_short_is_noticed() -> None:
    with pytest.raises(ValueError, match="middle of a frame"):
        split(frame("values", b"1", None)[:-1])


@pytest.mark.parametrize(
    ("header", "seq"),
    [(None, None), ("-1", 0), ("-", 0), ("0", 0), ("1763700000000-17", 17), ("0-0", 0)],
)
def test_a_last_event_id_names_the_event_to_go_on_after(header: str | None, seq: int | None) -> None:
    assert parse_last_event_id(header) == seq


@settings(deadline=None)
@given(st.integers(0, 10**13), st.integers(0, 10**15))
def test_an_event_id_is_read_back(ms: int, seq: int) -> None:
    assert parse_last_event_id(event_id(ms, seq)) == seq


@pytest.mark.parametrize(
    "header", ["", "x", "5", "-2", "1-", "-1-1", "1-2-3", " 1-2", "1-x", "\u0661-\u0662", "1-" + "9" * 40]
)
def test_a_last_event_id_of_another_kind_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match="Invalid last-event-id"):
        parse_last_event_id(header)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("values", "values"),
        ("values|sub:1|inner:2", "values"),
        ("messages", "messages-tuple"),
        ("messages|sub:1", "messages-tuple"),
        ("messages/partial", "messages"),
        ("messages/metadata|sub:1", "messages"),
        ("custom", "custom"),
    ],
)
def test_a_filter_passes_the_events_of_its_modes(name: str, mode: str) -> None:
    everything = frozenset({"values", "messages", "messages-tuple", "custom"})
    assert matches(name, frozenset({mode}))
    assert not matches(name, everything - {mode})


def test_errors_pass_every_filter_and_the_run_metadata_none() -> None:
    assert matches("error", frozenset({"values"}))
    assert not matches("metadata", frozenset({"values"}))


def test_a_frame_without_an_id_gets_one_in_its_place_and_an_id_of_its_own_stays() -> None:
    assert numbered(frame("values", b"1", None), 17, 3) == frame("values", b"1", "17-3")
    assert numbered(frame("values", b"1", "16-3"), 17, 3) == frame("values", b"1", "16-3")


@settings(deadline=None)
@given(NAMES, DATA)
def test_what_looks_like_an_id_inside_the_data_is_none(name: str, data: Any) -> None:
    told = frame(name, dumps(["\r\nid: 1-1\r\n\r\n", data]), None)
    assert numbered(told, 17, 3).endswith(b"\r\nid: 17-3\r\n\r\n")
    assert split(numbered(told, 17, 3)) == [numbered(told, 17, 3)]


def test_the_end_of_a_run_is_metadata_in_the_stream_of_its_thread() -> None:
    run_id = UUID(int=7)
    assert (
        run_done(run_id)
        == b'event: metadata\r\ndata: {"status":"run_done","run_id":"%b"}\r\n\r\n' % str(run_id).encode()
    )


@pytest.mark.parametrize(
    ("name", "modes"),
    [
        ("metadata", {"run_modes", "lifecycle"}),
        ("values|sub:1", {"run_modes"}),
        ("lifecycle", {"run_modes"}),
        ("error", {"run_modes"}),
        ("state_update", {"state_update"}),
    ],
)
def test_a_threads_follower_gets_the_events_of_its_modes(name: str, modes: set[str]) -> None:
    for mode in ("run_modes", "lifecycle", "state_update"):
        assert thread_matches(name, frozenset({mode})) is (mode in modes)
