"""When a quota will be used up if its client goes on as it did so far in the period."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING

from meterd.cli.figures import NS_PER_S

if TYPE_CHECKING:
    from meterd_proto.v1 import quota_pb2

_ELAPSED_MIN_NS = 6 * 3600 * NS_PER_S
"""Before that a pace says nothing: one busy minute would forecast the end of the month."""


def exhausted_on(quota: quota_pb2.QuotaStatus, now_unix_ns: int) -> str:
    """One clause, as "exhausted on the 23rd at this pace"; empty where the tokens will do.

    The pace is what was used since the period began, spread evenly. Integers alone: tokens
    and nanoseconds are too many digits for a float to be trusted with.
    """
    if quota.is_unlimited or quota.limit <= 0:
        return ""
    if quota.used >= quota.limit:
        return "exhausted"
    day = _day_of(quota, quota.limit, now_unix_ns)
    return f"exhausted on the {day} at this pace" if day else ""


def cap_reached_on(quota: quota_pb2.QuotaStatus, now_unix_ns: int) -> str:
    """The same for the cap of a soft quota: where its overage ends, and calls are refused."""
    if quota.used >= quota.cap:
        return "reached"
    day = _day_of(quota, quota.cap, now_unix_ns)
    return f"reached on the {day} at this pace" if day else ""


def _day_of(quota: quota_pb2.QuotaStatus, tokens: int, now_unix_ns: int) -> str:
    """The day on which so many tokens will be used, as "23rd"; empty: not in this period."""
    elapsed = now_unix_ns - quota.period_start_unix_ns
    if elapsed < _ELAPSED_MIN_NS or quota.used <= 0:
        return ""
    end = quota.period_start_unix_ns + elapsed * tokens // quota.used
    if end >= quota.period_end_unix_ns:
        return ""
    day = datetime.fromtimestamp(end // NS_PER_S, tz=_zone(quota.timezone)).day
    return f"{day}{_suffix(day)}"


def _zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def _suffix(day: int) -> str:
    if day in (11, 12, 13):
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
