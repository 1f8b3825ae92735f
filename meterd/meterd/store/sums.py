"""Sums read back from the rollups, and what they cost.

A row is priced under its own rate: the whole numbers of all rows are brought to one scale and
added, so that a month of thousands of rows costs milliseconds and no digit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.money import exact
from meterd.pricing import rate_card
from meterd.pricing.naming import book_tools
from meterd.pricing.rate_card import TOOL
from meterd.store.interning import rate_from_row
from meterd.store.rollup import EXTRA_COLUMNS, PLAIN_COLUMNS
from meterd.store.values import Sums

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from meterd.pricing.rate_card import Rate

SUM_COLUMNS = (*PLAIN_COLUMNS, *EXTRA_COLUMNS)
SUMMED = ", ".join(f"sum({name})" for name in SUM_COLUMNS) + ", group_concat(tool_calls, char(10))"
"""What a query selects after its keys; a `Tally` adds it up."""

SCALE = 24
"""Every price has at most this many decimals a unit; checked as each rate is read."""


@dataclass(frozen=True, slots=True)
class Factors:
    """A rate as factors of inclusive sums, × 10^-SCALE: what one more token of each adds."""

    rate: Rate
    plain: tuple[int, int, int, int, int]
    """requests, input, cache_read, output, reasoning."""
    extra: tuple[int, int, int, int]
    """cache_write, cache_write_long, audio_input, audio_output."""


class Rates:
    """The rates of a ledger, read once each: rows of `rates` never change."""

    def __init__(self) -> None:
        self._known: dict[int, Factors] = {}

    def get(self, connection: sqlite3.Connection, rate: int) -> Factors:
        """The factors of a rate."""
        known = self._known.get(rate)
        if known is None:
            row = connection.execute(
                "SELECT provider, model, basis, scale, prices, book FROM rates WHERE id = ?",
                (rate,),
            ).fetchone()
            known = self._known[rate] = _factors(rate_from_row(*row))
        return known


class Tally:
    """Adds up rows of a rollup, and their cost."""

    __slots__ = ("cost_units", "sums", "unpriced_requests", "unpriced_tokens")

    def __init__(self) -> None:
        self.sums = [0] * len(SUM_COLUMNS)
        self.cost_units = 0
        self.unpriced_requests = 0
        self.unpriced_tokens = 0

    def add(self, row: Sequence[int], tool_calls: str | None, factors: Factors | None) -> None:
        """Add one row under its rate; None: unpriced."""
        self.sums = [one + other for one, other in zip(self.sums, row, strict=True)]
        if factors is None:
            self.unpriced_requests += row[0]
            self.unpriced_tokens += row[1] + row[3]
            return
        requests, took, read, gave, thought = factors.plain
        units = requests * row[0] + took * row[1] + read * row[2] + gave * row[3] + thought * row[4]
        if row[7] or row[9] or row[10]:
            write, long, heard, said = factors.extra
            units += write * row[7] + long * row[8] + heard * row[9] + said * row[10]
        if tool_calls:
            units += _tool_units(tool_calls, factors.rate)
        self.cost_units += units

    @property
    def cost(self) -> Decimal:
        """US dollars, exact."""
        with exact():
            return Decimal(self.cost_units).scaleb(-SCALE)

    def as_sums(self) -> Sums:
        """The sums by name."""
        return Sums(
            **dict(zip(SUM_COLUMNS, self.sums, strict=True)),
            unpriced_requests=self.unpriced_requests,
            unpriced_tokens=self.unpriced_tokens,
        )


def tools_in(column: str) -> list[tuple[str, int]]:
    """The tool calls of one or several rows, as `group_concat` joined them."""
    return [
        (str(tool), int(calls))
        for line in column.splitlines()
        for tool, calls in json.loads(line).items()
    ]


def _tool_units(column: str, rate: Rate) -> int:
    shift = int(10 ** (SCALE - rate.scale))
    return sum(
        calls * (rate.price_of(TOOL + tool) or 0) * shift
        for tool, calls in book_tools(tools_in(column)).items()
    )


def _factors(rate: Rate) -> Factors:
    if rate.scale > SCALE:
        raise ValueError(f"the prices of {rate.provider}/{rate.model} have {rate.scale} decimals")
    shift = int(10 ** (SCALE - rate.scale))

    def price(kind: str) -> int:
        return (rate.price_of(kind) or 0) * shift

    took, gave = price(rate_card.INPUT), price(rate_card.OUTPUT)
    write = price(rate_card.CACHE_WRITE)
    return Factors(
        rate,
        (
            price(rate_card.REQUEST),
            took,
            price(rate_card.CACHE_READ) - took,
            gave,
            price(rate_card.REASONING) - gave,
        ),
        (
            write - took,
            price(rate_card.CACHE_WRITE_LONG) - write,
            price(rate_card.AUDIO_INPUT) - took,
            price(rate_card.AUDIO_OUTPUT) - gave,
        ),
    )
