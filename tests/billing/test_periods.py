"""Periods: half-open, by index, by local midnights; BILLING.md D's vectors and every zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterd.billing.period import (
    day_named,
    day_of,
    day_start,
    first_day,
    index_of,
    period_at,
    period_named,
    period_of,
    period_of_unix_ns,
)
from meterd.clock import moment_of, unix_ns_of
from meterd.errors import InvalidRequest

ONE_DAY = timedelta(days=1)


@cache
def zones() -> list[str]:
    """Every zone of tzdata; "localtime" and its like are this machine's, not tzdata's."""
    return sorted(available_timezones() - {"localtime"})


a_zone = st.sampled_from(zones()).map(ZoneInfo)
an_anchor = st.integers(1, 31)
an_index = st.integers(1900 * 12, 2100 * 12)
a_moment = st.integers(-(2**61), 2**62).map(moment_of)
a_day = st.dates(date(1900, 2, 1), date(2100, 1, 1))


@pytest.mark.parametrize(
    ("zone", "month", "start", "end", "hours"),
    [
        ("America/New_York", "2026-11", "2026-11-01T04:00", "2026-12-01T05:00", 721),
        ("America/New_York", "2026-03", "2026-03-01T05:00", "2026-04-01T04:00", 743),
        ("UTC", "2026-02", "2026-02-01T00:00", "2026-03-01T00:00", 672),
    ],
)
def test_a_month_has_the_hours_that_its_clock_changes_leave_it(
    zone: str, month: str, start: str, end: str, hours: int
) -> None:
    """720 hours added to a start would bill an hour of November in December."""
    period = period_named(month, ZoneInfo(zone))

    assert period.start == datetime.fromisoformat(start).replace(tzinfo=UTC)
    assert period.end == datetime.fromisoformat(end).replace(tzinfo=UTC)
    assert period.end - period.start == timedelta(hours=hours)
    assert period.name == month


@pytest.mark.parametrize(
    ("zone", "day", "start", "end"),
    [
        ("Europe/Berlin", "2026-10-25", "2026-10-24T22:00", "2026-10-25T23:00"),
        ("Australia/Lord_Howe", "2026-04-05", "2026-04-04T13:00", "2026-04-05T13:30"),
        ("Africa/Cairo", "2026-04-24", "2026-04-23T22:00", "2026-04-24T21:00"),
        ("America/Havana", "2026-11-01", "2026-11-01T04:00", "2026-11-02T05:00"),
    ],
)
def test_a_day_begins_at_its_first_midnight_or_where_the_gap_ends(
    zone: str, day: str, start: str, end: str
) -> None:
    """25 h, 24½ h, a day without a midnight, a day with two."""
    local, info = date.fromisoformat(day), ZoneInfo(zone)

    assert day_start(local, info) == datetime.fromisoformat(start).replace(tzinfo=UTC)
    assert day_start(local + ONE_DAY, info) == datetime.fromisoformat(end).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("anchor", "days"),
    [
        (31, ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"]),
        (29, ["2026-01-29", "2026-02-28", "2026-03-29", "2026-04-29", "2026-05-29"]),
        (30, ["2028-01-30", "2028-02-29", "2028-03-30", "2028-04-30", "2028-05-30"]),
        (1, ["2026-01-01", "2026-02-01", "2026-03-01", "2026-04-01", "2026-05-01"]),
    ],
)
def test_an_anchor_is_clamped_anew_each_month_and_never_drifts(
    anchor: int, days: list[str]
) -> None:
    """31 January, 28 February, *31* March: counting from the last start would stay at 28."""
    first = index_of(days[0][:7])

    assert [first_day(first + k, anchor).isoformat() for k in range(len(days))] == days


def test_a_period_before_the_anchors_day_belongs_to_the_month_before() -> None:
    """With an anchor of 15 the 3rd of November lies in the period named October."""
    zone = ZoneInfo("America/New_York")

    period = period_of(datetime(2026, 11, 3, 12, tzinfo=UTC), zone, anchor=15)

    assert period.name == "2026-10"
    assert (period.start, period.end) == (
        datetime(2026, 10, 15, 4, tzinfo=UTC),
        datetime(2026, 11, 15, 5, tzinfo=UTC),
    )


def test_the_end_of_a_period_is_in_the_next() -> None:
    """Half-open: the moment itself is billed once."""
    period = period_named("2026-11", ZoneInfo("Europe/Berlin"))

    assert period.start in period
    assert period.end not in period
    assert period_of(period.end, ZoneInfo("Europe/Berlin")).index == period.index + 1


def test_an_hour_that_the_clock_gives_back_stays_in_the_new_month() -> None:
    """St. John's, 1 November 2009: a minute past midnight the clock went back to 23:01."""
    zone = ZoneInfo("America/St_Johns")
    moment = datetime(2009, 11, 1, 2, 45, tzinfo=UTC)

    assert moment.astimezone(zone).date() == date(2009, 10, 31)
    assert period_of(moment, zone).name == "2009-11"
    assert day_of(moment, zone) == date(2009, 11, 1)
    assert day_of(day_start(date(2009, 11, 1), zone) - timedelta(seconds=1), zone) == date(
        2009, 10, 31
    )


@given(a_moment, a_zone, an_anchor)
@settings(max_examples=600, deadline=None)
def test_every_moment_lies_in_exactly_one_period(
    moment: datetime, zone: ZoneInfo, anchor: int
) -> None:
    """In any zone, of any anchor; the neighbours don't have it too."""
    period = period_of(moment, zone, anchor)

    assert moment in period
    assert moment not in period_at(period.index - 1, zone, anchor)
    assert moment not in period_at(period.index + 1, zone, anchor)


@given(an_index, a_zone, an_anchor)
@settings(max_examples=600, deadline=None)
def test_periods_neither_overlap_nor_leave_a_gap(index: int, zone: ZoneInfo, anchor: int) -> None:
    """Each begins where the one before ends, is named by its month, and lasts about a month."""
    period, following = period_at(index, zone, anchor), period_at(index + 1, zone, anchor)

    assert period.end == following.start
    assert timedelta(days=26) < period.end - period.start < timedelta(days=33)
    assert index_of(period.name) == index
    assert period_named(period.name, zone, anchor) == period


@given(a_day, a_zone)
@settings(max_examples=600, deadline=None)
def test_days_neither_overlap_nor_leave_a_gap(day: date, zone: ZoneInfo) -> None:
    """Also where a zone skipped a whole day, as Samoa did: that one is empty, not negative."""
    start, end = day_start(day, zone), day_start(day + ONE_DAY, zone)

    assert start <= end <= start + timedelta(hours=49)
    if start < end:
        assert day_of(start, zone) == day
        assert day_of(end - timedelta(microseconds=1), zone) == day


@given(a_moment, a_zone, an_anchor)
@settings(max_examples=300, deadline=None)
def test_a_period_is_made_of_whole_days(moment: datetime, zone: ZoneInfo, anchor: int) -> None:
    """The rollup by day sums to the rollup by month, to the microsecond."""
    period = period_of(moment, zone, anchor)

    assert day_start(first_day(period.index, anchor), zone) == period.start
    assert period_of(day_start(day_of(moment, zone), zone), zone, anchor) == period


def test_a_moment_in_nanoseconds_lies_where_its_datetime_does() -> None:
    """The store counts in nanoseconds, the rules in datetimes."""
    zone = ZoneInfo("America/New_York")
    moment = datetime(2026, 12, 1, 4, 59, 59, 999_999, tzinfo=UTC)

    assert period_of_unix_ns(unix_ns_of(moment), zone).name == "2026-11"
    assert period_of_unix_ns(unix_ns_of(moment) + 1_000, zone).name == "2026-12"
    assert period_of_unix_ns(-1, ZoneInfo("UTC")).name == "1969-12"


@pytest.mark.parametrize("name", ["", "2026", "2026-13", "2026-00", "2026-1", "26-01", "٢٠٢٦-٠١"])
def test_what_is_no_month_is_refused_in_one_sentence(name: str) -> None:
    """It comes from a command line."""
    with pytest.raises(InvalidRequest, match="is no month; write it as 2026-11"):
        index_of(name)


@pytest.mark.parametrize("name", ["", "2026-02-30", "20260201", "2026-W01-1", "tomorrow"])
def test_what_is_no_day_is_refused_in_one_sentence(name: str) -> None:
    """`fromisoformat` alone would take a week's day."""
    with pytest.raises(InvalidRequest, match="is no day; write it as 2026-11-25"):
        day_named(name)


@pytest.mark.parametrize("anchor", [0, 32, -1])
def test_an_anchor_that_is_no_day_of_the_month_is_a_bug(anchor: int) -> None:
    """The configuration refuses it long before."""
    with pytest.raises(ValueError, match="1 to 31"):
        first_day(index_of("2026-11"), anchor)
