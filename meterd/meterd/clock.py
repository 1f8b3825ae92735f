"""The daemon's only source of time; passed in, never imported by a rule."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """What the daemon asks the time of: one for real, one that tests move by hand."""

    def now(self) -> datetime:
        """Wall time, aware, UTC. May step back when the host's clock is corrected."""
        ...

    def unix_ns(self) -> int:
        """Wall time in nanoseconds since 1970, for what is stored and sent."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary start. Never steps back. For durations."""
        ...


class SystemClock:
    """The clock of the host."""

    def now(self) -> datetime:
        """Wall time, aware, UTC."""
        return datetime.now(UTC)

    def unix_ns(self) -> int:
        """Wall time in nanoseconds since 1970."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary start."""
        return time.monotonic_ns()


def moment_of(unix_ns: int) -> datetime:
    """The aware UTC datetime of a count of nanoseconds, cut to microseconds."""
    return _EPOCH + timedelta(microseconds=unix_ns // 1000)


def unix_ns_of(moment: datetime) -> int:
    """Nanoseconds since 1970 of an aware datetime; exact, no float on the way."""
    since = moment - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000
