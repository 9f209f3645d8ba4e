"""A thread's values by element: the rows always say exactly what was stored last, and only changes are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.db.runs import RunEnd
from holdfast.db.threads import Outcome
from holdfast.db.threadsearch import Page, ThreadFilter
from holdfast.db.values import Values, changes, pack, unpack
from holdfast.rules.run import RunStatus
from tests.db.stage import ANN, Stage

Rows = dict[tuple[str, int], bytes]

elements = st.sampled_from([b"1", b"2", b'"x"', b'{"a":1}', b"[]", b"null"])
# Around the groups of 32 elements is where it gets interesting.
lengths = st.integers(0, 5) | st.integers(29, 36) | st.integers(60, 70)
lists = lengths.flatmap(lambda length: st.lists(elements, min_size=length, max_size=length))
values = st.dictionaries(st.sampled_from(["messages", "n\u00e4me", "x"]), elements | lists, max_size=3)


@st.composite
def edits(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Values as a conversation makes them: mostly appended to, now and then changed, cut or replaced."""
    current: dict[str, Any] = draw(values)
    history = [current]
    for _ in range(draw(st.integers(1, 6))):
        current = dict(current)
        for channel, value in list(current.items()):
            how = draw(st.sampled_from(["keep", "append", "change", "cut", "drop", "replace"]))
            if how == "drop":
                del current[channel]
            elif how == "replace":
                current[channel] = draw(elements | lists)
            elif isinstance(value, list) and how == "append":
                current[channel] = value + draw(st.lists(elements, max_size=40))
            elif isinstance(value, list) and value and how in ("change", "cut"):
                at = draw(st.integers(0, len(value) - 1))
                current[channel] = value[:at] if how == "cut" else [*value[:at], draw(elements), *value[at + 1 :]]
        current |= draw(st.just({}) | values)
        history.append(current)
    return history


@given(edits())
def test_applying_the_changes_gives_exactly_the_values(history: list[dict[str, Any]]) -> None:
    rows: Rows = {}
    digests = b""
    for now in history:
        found, columns = changes(unpack(digests), now)
        for place in found.drop:
            del rows[place]
        rows |= {(channel, place): value for channel, place, value in found.put}
        assert rows == rows_of(now)
        digests = pack(columns)
        assert unpack(digests) == columns
        assert pack(unpack(digests)) == digests


@given(edits())
def test_storing_the_same_values_again_writes_nothing(history: list[dict[str, Any]]) -> None:
    for now in history:
        _, columns = changes({}, now)
        again, _ = changes(columns, now)
        assert (again.put, again.drop) == ([], [])


@given(lists, st.lists(elements, min_size=1, max_size=3))
def test_appending_writes_what_was_appended_and_digests_of_bounded_size(before: list[bytes], new: list[bytes]) -> None:
    _, columns = changes({}, {"messages": before})
    found, after = changes(columns, {"messages": [*before, *new]})
    first = len(before)
    expected = [("messages", first + n, value) for n, value in enumerate(new)]
    assert found.put == expected
    assert len(pack(after)) <= 16 + 8 * (len(before) // 32 + 1) + 8 * 31


def test_no_digests_are_no_columns() -> None:
    assert unpack(b"") == {}
    assert pack({}) == b""


def rows_of(now: Mapping[str, Any]) -> Rows:
    rows: Rows = {}
    for channel, value in now.items():
        if isinstance(value, bytes):
            rows[channel, -1] = value
        elif not value:
            rows[channel, -1] = b"[]"
        else:
            rows |= {(channel, place): element for place, element in enumerate(value)}
    return rows


def plain(now: Mapping[str, Any]) -> dict[str, Any]:
    """The same values as Python objects."""
    return {
        channel: orjson.loads(value) if isinstance(value, bytes) else [orjson.loads(element) for element in value]
        for channel, value in now.items()
    }


HISTORY: list[dict[str, Any]] = [
    {"messages": [b'"hello"'], "x": b"1"},
    {"messages": [b'"hello"', b'"there"'], "x": b"1"},
    {"messages": [b'"%d"' % n for n in range(40)], "x": b'{"a":[1,2]}'},
    {"messages": [b'"%d"' % n for n in range(39)], "x": []},
    {"messages": [b'"%d"' % n for n in range(31)], "x": [b"1"]},
    {"messages": [], "n\u00e4me": b"null"},
    {"messages": b'"whole"', "n\u00e4me": [b"null", b"[]", b"{}"]},
    {},
    {"messages": [b"[[1],2]", b'"\\ud83d\\ude00"', b"1e3", b"12345678901234567890123"]},
]


async def store(stage: Stage, thread_id: Any, now: Values) -> None:
    claim = await stage.started(thread_id)
    await stage.runs.end(claim, RunEnd(RunStatus.SUCCESS, Outcome("c", now, {}, unfinished=False)))


@pytest.mark.anyio
async def test_a_thread_shows_what_was_stored_last(stage: Stage) -> None:
    thread_id = await stage.thread()
    assert (await stage.threads.get(ANN, thread_id))["values"] is None
    for now in HISTORY:
        await store(stage, thread_id, now)
        for row in (await stage.threads.get(ANN, thread_id), await stage.threads.result(ANN, thread_id)):
            assert row is not None
            assert orjson.loads(row["values"]) == plain(now)
        stored = await stage.sql("SELECT channel, idx FROM holdfast.thread_values")
        assert {(row["channel"], row["idx"]) for row in stored} == rows_of(now).keys()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"x": {"a": 1}}, True),
        ({"x": {"a": 2}}, False),
        ({"messages": ["b"]}, True),
        ({"messages": ["b"], "x": {"a": 2}}, False),
        ({"absent": 1}, False),
        ({"empty": []}, True),
    ],
)
async def test_a_thread_is_found_by_what_it_contains(stage: Stage, wanted: dict[str, Any], found: bool) -> None:
    thread_id = await stage.thread()
    await store(stage, thread_id, {"messages": [b'"a"', b'"b"'], "x": b'{"a":1,"b":2}', "empty": []})
    rows = await stage.threads.search(ANN, ThreadFilter(values=wanted), Page(limit=10))
    assert bool(rows) is found
    assert await stage.threads.count(ANN, ThreadFilter(values=wanted)) == int(found)


@pytest.mark.anyio
async def test_a_long_conversation_writes_no_more_per_turn_than_a_short_one(stage: Stage) -> None:
    thread_id = await stage.thread()
    messages: list[bytes] = []
    written: list[int] = []
    seen: dict[tuple[str, int], str] = {}
    for turn in range(60):
        messages += [b'"question %d"' % turn, b'"answer %d"' % turn]
        await store(stage, thread_id, {"messages": messages, "x": b"true"})
        rows = await stage.sql("SELECT channel, idx, xmin::text AS written_by FROM holdfast.thread_values")
        now = {(row["channel"], row["idx"]): row["written_by"] for row in rows}
        written.append(sum(seen.get(place) != by for place, by in now.items()))
        seen = now
    assert written == [3] + [2] * 59
    (row,) = await stage.sql("SELECT length(value_digests) AS size FROM holdfast.threads")
    assert row["size"] < 600
