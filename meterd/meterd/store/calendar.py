"""The calendar: which local day, which period, and which period's bill a moment belongs to.

    billed_at ─▶ day [start, end) of the agency ─▶ the client's period ─▶ posted_in

Bounds of a period are stored when its first record comes and never move, whatever a later
tzdata says. A closed period takes nothing more: what arrives for it is posted in the
client's next open one.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, NamedTuple

from meterd.billing.period import day_of, day_start, period_at, period_of_unix_ns
from meterd.clock import moment_of, unix_ns_of

if TYPE_CHECKING:
    import sqlite3

    from meterd.billing.period import Period
    from meterd.config.agency import Agency

EPOCH_DAY = date(1970, 1, 1)
DAY_MS = 86_400_000
PERIODS_MAX = 100_000
"""Bounds kept in memory."""


class Day(NamedTuple):
    """A local day: days since 1970-01-01, and its bounds."""

    number: int
    start_ms: int
    end_ms: int


class Bounds(NamedTuple):
    """A client's period: its index and bounds."""

    period: int
    start_ms: int
    end_ms: int


class Stretch(NamedTuple):
    """Local days that follow one another at 24 hours each; a shorter or longer one is alone."""

    first_day: int
    days: int
    start_ms: int
    first_end_ms: int
    """Where its first day ends."""
    end_ms: int


class Calendar:
    """Days and periods of one agency. Writer's thread only, inside its transaction."""

    def __init__(self, connection: sqlite3.Connection, agency: Agency) -> None:
        self._connection = connection
        self.agency = agency
        self._day = Day(0, 0, 0)
        self._periods: dict[int, Bounds] = {}
        self._posted_in: dict[tuple[int, int], int] = {}

    def forget(self) -> None:
        """Drop what is in memory: a transaction was rolled back, or a period closed."""
        self._periods.clear()
        self._posted_in.clear()

    def day(self, at_ms: int) -> Day:
        """The local day of a moment."""
        if not self._day.start_ms <= at_ms < self._day.end_ms:
            self._day = day_around(self.agency, at_ms)
        return self._day

    def stretch(self, at_ms: int, until_ms: int) -> Stretch:
        """The days from a moment on that are of one length, up to about another moment."""
        first = self.day(at_ms)
        end_ms, days = first.end_ms, 1
        if end_ms - first.start_ms == DAY_MS:
            while end_ms <= until_ms:
                after = day_around(self.agency, end_ms)
                if after.end_ms - after.start_ms != DAY_MS:
                    break
                end_ms, days = after.end_ms, days + 1
        return Stretch(first.number, days, first.start_ms, first.end_ms, end_ms)

    def period(self, client: int, name: str, at_ms: int) -> Bounds:
        """The client's period around a moment; opened, with its bounds, if it is its first."""
        bounds = self._periods.get(client)
        if bounds is None or not bounds.start_ms <= at_ms < bounds.end_ms:
            bounds = self._open(client, name, at_ms)
            if len(self._periods) > PERIODS_MAX:
                self._periods.clear()
            self._periods[client] = bounds
        return bounds

    def bounds(self, client: int, name: str, period: int) -> Bounds:
        """The bounds of a client's period by its index: as stored, else computed."""
        stored = self._connection.execute(
            "SELECT period, start_ms, end_ms FROM periods WHERE client = ? AND period = ?",
            (client, period),
        ).fetchone()
        if stored is not None:
            return Bounds(*stored)
        computed = period_at(period, self.agency.zone, self.agency.anchor_of(name))
        return _bounds(computed)

    def posted_in(self, client: int, period: int) -> int:
        """The period that bills what was used in one: itself, or the next open one."""
        key = (client, period)
        posted = self._posted_in.get(key)
        if posted is None:
            if len(self._posted_in) > PERIODS_MAX:
                self._posted_in.clear()
            posted = self._posted_in[key] = self._next_open(client, period)
        return posted

    def _next_open(self, client: int, period: int) -> int:
        closed = {
            index
            for (index,) in self._connection.execute(
                "SELECT period FROM periods WHERE client = ? AND period >= ? "
                "AND closed_at_ms IS NOT NULL",
                (client, period),
            )
        }
        while period in closed:
            period += 1
        return period

    def _open(self, client: int, name: str, at_ms: int) -> Bounds:
        stored = self._connection.execute(
            "SELECT period, start_ms, end_ms FROM periods "
            "WHERE client = ? AND start_ms <= ? AND end_ms > ?",
            (client, at_ms, at_ms),
        ).fetchone()
        if stored is not None:
            return Bounds(*stored)
        bounds = period_around(self.agency, name, at_ms)
        self._connection.execute(
            "INSERT INTO periods (client, period, start_ms, end_ms) VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            (client, *bounds),
        )
        return bounds


def day_around(agency: Agency, at_ms: int) -> Day:
    """The local day of a moment, by the agency's time zone."""
    day = day_of(moment_of(at_ms * 1_000_000), agency.zone)
    return Day(
        (day - EPOCH_DAY).days,
        _ms(day, agency),
        _ms(day + timedelta(days=1), agency),
    )


def period_around(agency: Agency, client: str, at_ms: int) -> Bounds:
    """A client's period around a moment, computed."""
    period = period_of_unix_ns(at_ms * 1_000_000, agency.zone, agency.anchor_of(client))
    return _bounds(period)


def day_name(number: int) -> str:
    """A day as people write it: 2026-11-25."""
    return (EPOCH_DAY + timedelta(days=number)).isoformat()


def day_number(day: date) -> int:
    """A local day as the rollups know it."""
    return (day - EPOCH_DAY).days


def _bounds(period: Period) -> Bounds:
    return Bounds(period.index, period.start_unix_ns // 1_000_000, period.end_unix_ns // 1_000_000)


def _ms(day: date, agency: Agency) -> int:
    return unix_ns_of(day_start(day, agency.zone)) // 1_000_000
