"""Rollup deltas that are added up record by record: rare counts, and what is folded again. Pure.

    record ─ add ─▶ Deltas ─ by day, by month ─▶ upserts

The ordinary counts of new rows go into the rollups in SQL (`fold.py`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from meterd.store.batch import Rare

Plain: TypeAlias = list[int]
"""requests, input_tokens, cache_read_tokens, output_tokens, reasoning_tokens."""

EXTRA_COLUMNS = (
    "failed_requests",
    "refused_requests",
    "cache_write_tokens",
    "cache_write_long_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "estimated_tokens",
)
PLAIN_COLUMNS = (
    "requests",
    "input_tokens",
    "cache_read_tokens",
    "output_tokens",
    "reasoning_tokens",
)


class DayKey(NamedTuple):
    """A row of `rollup_day`; rate 0 is unpriced."""

    client: int
    day: int
    tag: int
    model: int
    rate: int
    posted_in: int


class MonthKey(NamedTuple):
    """A row of `rollup_month`."""

    client: int
    period: int
    rate: int
    posted_in: int


class Extra:
    """Sums that few records have; `sums` in the order of `EXTRA_COLUMNS`."""

    __slots__ = ("sums", "tool_calls")

    def __init__(self) -> None:
        self.sums = [0] * len(EXTRA_COLUMNS)
        self.tool_calls: dict[str, int] = {}

    def add(self, sums: Iterable[int], tool_calls: Iterable[tuple[str, int]] = ()) -> None:
        """Add to each sum, and to the calls of each tool."""
        self.sums = [one + other for one, other in zip(self.sums, sums, strict=True)]
        for tool, calls in tool_calls:
            self.tool_calls[tool] = self.tool_calls.get(tool, 0) + calls


class Deltas:
    """What a transaction adds, by key."""

    __slots__ = ("extras", "months", "plains")

    def __init__(self) -> None:
        self.plains: dict[tuple[int, ...], Plain] = {}
        """By `DayKey`, as a bare tuple: a NamedTuple costs half as much again to make."""
        self.extras: dict[tuple[int, ...], Extra] = {}
        self.months: dict[tuple[int, int], int] = {}
        """(client, day) → period, for every client and day that occurs."""

    def extra(self, key: tuple[int, ...]) -> Extra:
        """The rare sums of a key; its plain ones are there too, if only as zeros."""
        extra = self.extras.get(key)
        if extra is None:
            extra = self.extras[key] = Extra()
            self.plains.setdefault(key, [0, 0, 0, 0, 0])
        return extra

    def month_plains(self) -> dict[tuple[int, ...], Plain]:
        """The plain sums by `MonthKey`."""
        by_month: dict[tuple[int, ...], Plain] = {}
        periods = self.months
        for (client, day, _, _, rate, posted), plain in self.plains.items():
            key = (client, periods[client, day], rate, posted)
            sums = by_month.get(key)
            if sums is None:
                by_month[key] = plain.copy()
            else:
                sums[0] += plain[0]
                sums[1] += plain[1]
                sums[2] += plain[2]
                sums[3] += plain[3]
                sums[4] += plain[4]
        return by_month

    def month_extras(self) -> dict[tuple[int, ...], Extra]:
        """The rare sums by `MonthKey`."""
        by_month: dict[tuple[int, ...], Extra] = {}
        for (client, day, _, _, rate, posted), extra in self.extras.items():
            key = (client, self.months[client, day], rate, posted)
            by_month.setdefault(key, Extra()).add(extra.sums, extra.tool_calls.items())
        return by_month

    def tokens_by_client(self) -> dict[tuple[int, int], int]:
        """Tokens by (client, period)."""
        tokens: dict[tuple[int, int], int] = {}
        for (client, day, *_), plain in self.plains.items():
            key = (client, self.months[client, day])
            tokens[key] = tokens.get(key, 0) + plain[1] + plain[3]
        return tokens


def rare_sums(rare: Rare) -> tuple[int, ...]:
    """What a rare record adds, in the order of `EXTRA_COLUMNS`."""
    return (
        0,
        0,
        rare.cache_write_tokens,
        rare.cache_write_long_tokens,
        rare.audio_input_tokens,
        rare.audio_output_tokens,
        0,
    )


def merged_tools(stored: str | None, added: Mapping[str, int]) -> str | None:
    """The column `tool_calls` with some more; NULL where there are none."""
    calls: dict[str, int] = json.loads(stored) if stored else {}
    for tool, count in added.items():
        calls[tool] = calls.get(tool, 0) + count
    return json.dumps(calls, sort_keys=True, separators=(",", ":")) if calls else None


_PLAIN = ", ".join(PLAIN_COLUMNS)
_ADD_PLAIN = ", ".join(f"{name} = {name} + excluded.{name}" for name in PLAIN_COLUMNS)
_ADD_EXTRA = ", ".join(f"{name} = {name} + ?" for name in EXTRA_COLUMNS)
_DAY = ", ".join(DayKey._fields)
_MONTH = ", ".join(MonthKey._fields)


def _where(fields: tuple[str, ...]) -> str:
    return " AND ".join(f"{name} = ?" for name in fields)


UPSERT_DAY = (
    f"INSERT INTO rollup_day ({_DAY}, {_PLAIN}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    f"ON CONFLICT DO UPDATE SET {_ADD_PLAIN}"
)
UPSERT_MONTH = (
    f"INSERT INTO rollup_month ({_MONTH}, {_PLAIN}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
    f"ON CONFLICT DO UPDATE SET {_ADD_PLAIN}"
)
ADD_EXTRA_DAY = f"UPDATE rollup_day SET {_ADD_EXTRA} WHERE {_where(DayKey._fields)}"
ADD_EXTRA_MONTH = f"UPDATE rollup_month SET {_ADD_EXTRA} WHERE {_where(MonthKey._fields)}"
TOOLS_DAY = f"SELECT tool_calls FROM rollup_day WHERE {_where(DayKey._fields)}"
TOOLS_MONTH = f"SELECT tool_calls FROM rollup_month WHERE {_where(MonthKey._fields)}"
SET_TOOLS_DAY = f"UPDATE rollup_day SET tool_calls = ? WHERE {_where(DayKey._fields)}"
SET_TOOLS_MONTH = f"UPDATE rollup_month SET tool_calls = ? WHERE {_where(MonthKey._fields)}"
