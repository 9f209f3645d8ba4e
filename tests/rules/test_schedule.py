"""When crons are due, across zones, clock changes and ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Invalid
from holdfast.rules.schedule import Schedule

BERLIN = "Europe/Berlin"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "timezone", "after", "due"),
    [
        ("*/5 * * * *", None, "2026-11-21 12:00:00", "2026-11-21 12:05:00"),
        ("*/5 * * * *", None, "2026-11-21 12:04:59.999", "2026-11-21 12:05:00"),
        ("0 9 * * *", None, "2026-11-21 09:00:00", "2026-11-22 09:00:00"),
        ("0 9 * * *", BERLIN, "2026-11-21 07:00:00", "2026-11-21 08:00:00"),
        ("0 9 * * *", BERLIN, "2026-07-21 06:00:00", "2026-07-21 07:00:00"),
        ("0 9 * * MON-FRI", "America/New_York", "2026-11-21 12:00:00", "2026-11-23 14:00:00"),
        ("0 0 29 2 *", None, "2026-11-21 12:00:00", "2028-02-29 00:00:00"),
        ("0 12 L * *", None, "2026-11-21 12:00:00", "2026-11-30 12:00:00"),
    ],
)
def test_the_next_due_time_is_the_first_after_the_moment(
    expression: str, timezone: str | None, after: str, due: str
) -> None:
    assert Schedule(expression, timezone).next_after(at(after)) == at(due)


def test_where_clocks_go_forward_a_job_in_the_gap_runs_right_after_it_and_once() -> None:
    # On 2026-03-29 Berlin goes from 02:00 to 03:00, which is 01:00 UTC.
    half_past_two = Schedule("30 2 * * *", BERLIN)
    first = half_past_two.next_after(at("2026-03-28 12:00:00"))
    assert first == at("2026-03-29 01:00:00")
    assert half_past_two.next_after(first) == at("2026-03-30 00:30:00")


def test_where_clocks_go_back_a_job_at_a_fixed_time_runs_once() -> None:
    # On 2026-10-25 Berlin goes from 03:00 back to 02:00: 02:45 is 00:45 UTC, and 01:45 UTC once more.
    quarter_to_three = Schedule("45 2 * * *", BERLIN)
    assert quarter_to_three.next_after(at("2026-10-24 12:00:00")) == at("2026-10-25 00:45:00")
    assert quarter_to_three.next_after(at("2026-10-25 00:45:00")) == at("2026-10-26 01:45:00")
    assert quarter_to_three.next_after(at("2026-10-25 01:30:00")) == at("2026-10-26 01:45:00")


def test_a_job_of_every_so_many_minutes_goes_on_by_real_time_through_both_changes() -> None:
    every = Schedule("*/30 * * * *", BERLIN)
    for start in ("2026-03-28 23:00:00", "2026-10-24 23:00:00"):
        moment, seen = at(start), []
        for _ in range(10):
            found = every.next_after(moment)
            assert found is not None
            seen.append(found - moment)
            moment = found
        assert set(seen) == {timedelta(minutes=30)}


def test_nothing_is_due_at_its_end_or_later() -> None:
    schedule = Schedule("0 * * * *", None, at("2026-11-21 12:00:00"))
    assert schedule.next_after(at("2026-11-21 10:30:00")) == at("2026-11-21 11:00:00")
    assert schedule.next_after(at("2026-11-21 11:00:00")) is None
    assert not schedule.ended(at("2026-11-21 11:59:59"))
    assert schedule.ended(at("2026-11-21 12:00:00"))


@pytest.mark.parametrize(
    "expression",
    [
        *("", "* * * *", "* * * * * *", "@daily", "a b c d e", "\x00 * * * *", "1" * 5000 + " * * * *"),
        *("61 * * * *", "* 24 * * *", "* * 31 2 *", "* * 30 2 *", "* * * * 8", "* * * * 5#6"),
        *("*/0 * * * *", "5-1 * * * *", "-1 * * * *"),
    ],
)
def test_what_is_no_schedule_is_refused_with_advice(expression: str) -> None:
    with pytest.raises(Invalid, match=r"Invalid cron schedule.*five fields"):
        Schedule(expression)


@pytest.mark.parametrize(
    "timezone", ["", "Mars/Olympus", "America", "../passwd", "/etc/localtime", "Europe/Berlin\n", "\x00", "x" * 5000]
)
def test_what_is_no_timezone_is_refused_with_advice(timezone: str) -> None:
    with pytest.raises(Invalid, match=r"Invalid timezone.*IANA"):
        Schedule("* * * * *", timezone)


@given(st.text(alphabet="*/-,#LW0123456789 MONJAN\x00²", max_size=30))
def test_any_text_is_a_schedule_or_refused(text: str) -> None:
    try:
        schedule = Schedule(text)
    except Invalid:
        return
    found = schedule.next_after(at("2026-11-21 12:00:00"))
    assert found is None or found > at("2026-11-21 12:00:00")


@given(
    st.sampled_from(["*/7 * * * *", "30 2 * * *", "0 */3 * * *", "15,45 1-3 * * 0"]),
    st.sampled_from([None, BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)),
)
def test_due_times_always_lie_ahead_and_on_whole_minutes(
    expression: str, timezone: str | None, moment: datetime
) -> None:
    found = Schedule(expression, timezone).next_after(moment)
    assert found is not None
    assert found > moment
    assert (found.tzinfo, found.second, found.microsecond) == (UTC, 0, 0)
