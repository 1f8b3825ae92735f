"""Periods: half-open intervals [start, end) in the billing time zone, by index from an anchor.

    anchor 31:   31 Jan ──▶ 28 Feb ──▶ 31 Mar ──▶ 30 Apr      the day clamped anew each month

A period is named by the month in which it begins; its index counts months since year 0, so
that the next is one more and nothing drifts. Bounds are local midnights as `zoneinfo` gives
them with fold 0, never "plus 24 hours": a day may have 23, 24½ or 25 hours. Where there is
no midnight, the day begins at the gap; where there are two, at the first. What day or
period a moment belongs to is decided by these bounds alone, so that days and periods
neither overlap nor leave a gap, in any zone of tzdata.
"""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from meterd.clock import moment_of, unix_ns_of
from meterd.errors import InvalidRequest

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

_NAME = re.compile(r"([0-9]{4})-([0-9]{2})")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Period:
    """A billing interval [start, end), aware and UTC."""

    start: datetime
    end: datetime
    name: str
    """The month in which it begins, as `2026-11`."""
    index: int
    """Months since year 0: 12 × year + month − 1."""

    @property
    def start_unix_ns(self) -> int:
        """Its start, in nanoseconds since 1970."""
        return unix_ns_of(self.start)

    @property
    def end_unix_ns(self) -> int:
        """Its end, which is the next one's start."""
        return unix_ns_of(self.end)

    def __contains__(self, moment: datetime) -> bool:
        return self.start <= moment < self.end


def period_of(moment: datetime, zone: ZoneInfo, anchor: int = 1) -> Period:
    """The period that a moment lies in.

    Args:
        moment: aware.
        anchor: the day of the month on which periods begin, 1–31.
    """
    local = moment.astimezone(zone).date()
    index = local.year * 12 + local.month - 1
    # The local date can name the neighbour: before the anchor's day, or inside the hour
    # that a clock change puts on the other side of midnight. The bounds decide.
    period = period_at(index, zone, anchor)
    while moment < period.start:
        period = period_at(period.index - 1, zone, anchor)
    while moment >= period.end:
        period = period_at(period.index + 1, zone, anchor)
    return period


def period_named(name: str, zone: ZoneInfo, anchor: int = 1) -> Period:
    """The period that begins in the month `name`, as `2026-11`.

    Raises:
        InvalidRequest: `name` is no month.
    """
    return period_at(index_of(name), zone, anchor)


def index_of(name: str) -> int:
    """The index of the period named by a month.

    Raises:
        InvalidRequest: `name` is no month.
    """
    matched = _NAME.fullmatch(name)
    if matched is None or not 1 <= int(matched[2]) <= 12 or not 2 <= int(matched[1]) <= 9998:
        raise InvalidRequest(f"{name!r} is no month; write it as 2026-11")
    return int(matched[1]) * 12 + int(matched[2]) - 1


@lru_cache(maxsize=4096)
def period_at(index: int, zone: ZoneInfo, anchor: int = 1) -> Period:
    """The period with this index: from the anchor's day in its month to that in the next."""
    first = first_day(index, anchor)
    start = day_start(first, zone)
    end = day_start(first_day(index + 1, anchor), zone)
    return Period(start, end, f"{first.year:04d}-{first.month:02d}", index)


def first_day(index: int, anchor: int) -> date:
    """The local day on which a period begins: the anchor, clamped to the month's length."""
    if not 1 <= anchor <= 31:
        raise ValueError(f"an anchor is a day of the month, 1 to 31, not {anchor}")
    year, month = divmod(index, 12)
    return date(year, month + 1, min(anchor, monthrange(year, month + 1)[1]))


@lru_cache(maxsize=4096)
def day_start(day: date, zone: ZoneInfo) -> datetime:
    """The UTC moment at which a local day begins: its midnight, fold 0."""
    return datetime.combine(day, time.min, tzinfo=zone).astimezone(UTC)


def day_of(moment: datetime, zone: ZoneInfo) -> date:
    """The local day whose bounds hold the moment."""
    day = moment.astimezone(zone).date()
    while moment < day_start(day, zone):
        day -= _ONE_DAY
    while moment >= day_start(day + _ONE_DAY, zone):
        day += _ONE_DAY
    return day


def day_named(name: str) -> date:
    """A day written as `2026-11-25`.

    Raises:
        InvalidRequest: `name` is no day.
    """
    try:
        if _DAY.fullmatch(name):  # fromisoformat alone takes weeks, too
            return date.fromisoformat(name)
    except ValueError:
        pass
    raise InvalidRequest(f"{name!r} is no day; write it as 2026-11-25")


def period_of_unix_ns(unix_ns: int, zone: ZoneInfo, anchor: int = 1) -> Period:
    """The period that a moment, in nanoseconds since 1970, lies in."""
    return period_of(moment_of(unix_ns), zone, anchor)
