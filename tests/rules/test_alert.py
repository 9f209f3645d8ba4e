"""When an alert begins, is told again, and is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from holdfast.rules.alert import (
    KINDS,
    MOST_ITEMS,
    QUIET_SECONDS,
    Alert,
    Finding,
    MetricRule,
    Sighting,
    above,
    in_words,
    look_at,
    move,
    notices,
    raised,
    sightings,
)

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
REPEAT = 3600.0


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def alert(*, since: float, seen: float, told: float | None = None, once: bool = False, hold: float = 0.0) -> Alert:
    """Times are seconds ago."""
    seen_thing = Sighting("slow", "s", "Slow", "it is slow", once=once, hold_seconds=hold)
    told_at = None if told is None else ago(told)
    return Alert(seen_thing, "firing" if told_at else "pending", 1, ago(since), ago(seen), told_at)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # What lasts.
        ({"since": 0, "seen": 0}, "fire"),
        ({"since": 29, "seen": 0, "hold": 30}, None),
        ({"since": 30, "seen": 0, "hold": 30}, "fire"),
        ({"since": 90, "seen": QUIET_SECONDS, "hold": 90}, "forget"),
        ({"since": 90, "seen": 0, "told": 80}, None),
        ({"since": 90, "seen": QUIET_SECONDS - 1, "told": 80}, None),
        ({"since": 90, "seen": QUIET_SECONDS, "told": 80}, "resolve"),
        ({"since": 9000, "seen": 0, "told": REPEAT}, "remind"),
        ({"since": 9000, "seen": 0, "told": REPEAT - 1}, None),
        # What happened.
        ({"since": 500, "seen": 500, "once": True}, "fire"),
        ({"since": 500, "seen": 500, "told": 490, "once": True}, None),
        ({"since": 9000, "seen": 9000, "told": REPEAT, "once": True}, "forget"),
        ({"since": 9000, "seen": 10, "told": REPEAT, "once": True}, "remind"),
        ({"since": 9000, "seen": 10, "told": REPEAT - 1, "once": True}, None),
    ],
)
def test_what_follows_for_an_alert(given: dict[str, Any], expected: str | None) -> None:
    assert move(alert(**given), NOW, REPEAT) == expected


def test_what_happened_once_is_not_looked_at_before_it_may_be_told_again() -> None:
    assert look_at(alert(since=0, seen=0, once=True), NOW, REPEAT) == NOW + timedelta(seconds=REPEAT)
    assert look_at(alert(since=0, seen=0), NOW, REPEAT) == NOW


def test_what_begins_together_is_told_together_and_only_the_first_are_named() -> None:
    many = [
        Alert(
            Sighting("slow", str(n), "Slow", "t", "critical" if n == 3 else "warning"), "pending", 1, ago(n), NOW, None
        )
        for n in range(8)
    ]
    over = alert(since=100, seen=90, told=80)
    begun, ended = notices([*((one, "fire") for one in many), (over, "resolve"), (over, "forget")], NOW)
    assert (begun.state, begun.count, begun.severity, begun.since) == ("firing", 8, "critical", ago(7).isoformat())
    assert [item["subject"] for item in begun.items] == [str(n) for n in range(MOST_ITEMS)]
    assert (ended.state, ended.count) == ("resolved", 1)


def test_findings_become_sightings_in_words() -> None:
    found = {
        "stuck_run": Finding(6, 4000.0, ["a", "b", "c", "d", "e"]),
        "queue_wait": Finding(0),
        "no_worker": Finding(1),
    }
    stuck, worker = sightings(found)
    assert stuck.text == "6 running, nothing new from the oldest for 67 min: a, b, c, d, e, ..."
    assert (stuck.severity, worker.kind, worker.hold_seconds) == ("critical", "no_worker", 30.0)


def test_every_kind_has_a_text_that_can_be_filled_in() -> None:
    for name in KINDS:
        [seen] = sightings({name: Finding(2, 60.0, ["x"])})
        assert "{" not in seen.text


@pytest.mark.parametrize(
    ("labels", "value", "fires"),
    [
        ({"endpoint": "a", "zone": "x"}, 2.0, True),
        ({"endpoint": "a", "zone": "x"}, 1.5, False),
        ({"endpoint": "b"}, 2.0, False),
        ({}, 2.0, False),
    ],
)
def test_a_metric_is_above_its_limit_where_its_labels_are_those_of_the_rule(
    labels: dict[str, str], value: float, fires: bool
) -> None:
    rule = MetricRule("breaker", "state", 1.5, {"endpoint": "a"}, for_seconds=20, severity="critical")
    found = above([rule], [("state", labels, value), ("other", {"endpoint": "a"}, 9.0)])
    expected = [Sighting("breaker", "endpoint=a,zone=x", "breaker", "state is 2, above 1.5", "critical", False, 20)]
    assert found == (expected if fires else [])


@pytest.mark.parametrize(
    "given", [None, "budget", {}, {"kind": None}, {"kind": "Bad"}, {"kind": "a b"}, {"kind": "a" * 65}, {"kind": "\0"}]
)
def test_what_is_no_alert_is_none(given: object) -> None:
    assert raised(given, "text", "warning") is None


def test_a_raised_alert_is_cut_and_cleaned() -> None:
    seen = raised(
        {"kind": "budget", "subject": "t\0" + "x" * 500, "severity": "no"}, "a\ud800b" + "y" * 2000, "critical"
    )
    assert seen is not None
    assert (seen.title, seen.severity, seen.once) == ("budget", "critical", True)
    assert (len(seen.subject), len(seen.text)) == (200, 1000)
    assert seen.subject.startswith("t\ufffdx")
    assert seen.text.startswith("a?b")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 days")]
)
def test_durations_are_said_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
