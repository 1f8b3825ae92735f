"""A clock that stands still until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from meterd.clock import moment_of, unix_ns_of

A_NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)
"""The middle of a month, the middle of a day, in every zone far from a bound of either."""


class ManualClock:
    """`meterd.clock.Clock`, moved by hand; wall time may step back, the monotonic never does."""

    def __init__(self, now: datetime = A_NOON) -> None:
        self._wall_ns = unix_ns_of(now)
        self._monotonic_ns = 1_000_000_000

    def now(self) -> datetime:
        """Wall time, aware, UTC."""
        return moment_of(self._wall_ns)

    def unix_ns(self) -> int:
        """Wall time in nanoseconds since 1970."""
        return self._wall_ns

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary start."""
        return self._monotonic_ns

    def advance(self, by: timedelta) -> None:
        """Let time pass, on both clocks."""
        passed_ns = by // timedelta(microseconds=1) * 1_000
        assert passed_ns >= 0, "time passes forwards; step() sets the wall clock"
        self._wall_ns += passed_ns
        self._monotonic_ns += passed_ns

    def step(self, to: datetime) -> None:
        """Set the wall clock, as an operator or NTP does; no time passes."""
        self._wall_ns = unix_ns_of(to)
