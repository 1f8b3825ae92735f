"""Sums read back from the rollups, and what they cost.

A row is priced under its own rate. That is done in SQL, in whole numbers, so that a month of
thousands of rows costs milliseconds; where a number would not fit into 64 bits, or a price
needs more decimals than the factors have, SQLite's answer is no integer, and the same is
done again in Python, where integers have no end.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from meterd.money import exact
from meterd.pricing.naming import book_tools
from meterd.pricing.price import FACTORS, factors_of
from meterd.pricing.rate_card import TOOL
from meterd.store.interning import FACTOR_SCALE, rate_from_row
from meterd.store.rollup import EXTRA_COLUMNS, PLAIN_COLUMNS
from meterd.store.values import Sums

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from meterd.pricing.rate_card import Rate

SUM_COLUMNS = (*PLAIN_COLUMNS, *EXTRA_COLUMNS)
_RARE = FACTORS[5:]
UNITS = (
    " + ".join(f"r.{name} * f.{name}" for name in FACTORS[:5])
    # Most rows have none of the rest: one look for all four, and not four products.
    + f" + iif({' | '.join(f'r.{name}' for name in _RARE)}, "
    + " + ".join(f"r.{name} * f.{name}" for name in _RARE)
    + ", 0)"
)
"""What a row of a rollup `r` costs under its `rate_factors` `f`, × 10^-12 US dollars."""


def _summed(units: str) -> str:
    return ", ".join(
        (
            *(f"sum(r.{name})" for name in SUM_COLUMNS),
            "sum(iif(r.rate, 0, r.requests))",
            "sum(iif(r.rate, 0, r.input_tokens + r.output_tokens))",
            units,
            "group_concat(iif(r.tool_calls IS NULL OR r.rate = 0, NULL, "
            "r.rate || ' ' || r.tool_calls), char(10))",
        )
    )


# Factors that are NULL, as a product beyond 64 bits, make the sum a floating-point number.
SUMMED = _summed(f"sum(ifnull({UNITS}, 0.0))")
"""What a query selects after its keys, from a rollup `r` joined with its `rate_factors` `f`."""

SUMMED_UNPRICED = _summed("NULL")
"""The same without the cost, where SQLite has said that it doesn't fit into 64 bits."""

BY_RATE = ", ".join(("r.rate", *(f"sum(r.{name})" for name in FACTORS)))
"""What a query selects to be priced in Python, grouped by `r.rate`."""


class Added(NamedTuple):
    """Sums of some rows of a rollup, and their cost."""

    sums: tuple[int, ...]
    unpriced_requests: int
    unpriced_tokens: int
    cost: Decimal
    """US dollars, exact."""

    def plus(self, other: Added) -> Added:
        """Both together."""
        with exact():
            return Added(
                tuple(one + another for one, another in zip(self.sums, other.sums, strict=True)),
                self.unpriced_requests + other.unpriced_requests,
                self.unpriced_tokens + other.unpriced_tokens,
                self.cost + other.cost,
            )

    def as_sums(self) -> Sums:
        """The sums by name."""
        return sums_from((*self.sums, self.unpriced_requests, self.unpriced_tokens))


def sums_from(row: Sequence[int]) -> Sums:
    """Sums by name; in the order of `SUM_COLUMNS`, then what of it is unpriced."""
    return Sums._make(map(row.__getitem__, _ORDER))


_NAMES = (*SUM_COLUMNS, "unpriced_requests", "unpriced_tokens")
_ORDER = tuple(_NAMES.index(name) for name in Sums._fields)


class Rates:
    """The rates of a ledger, read once each: rows of `rates` never change."""

    def __init__(self) -> None:
        self._known: dict[int, Rate] = {}
        self._factors: dict[int, tuple[int, ...]] = {}

    def get(self, connection: sqlite3.Connection, number: int) -> Rate:
        """A rate by its number."""
        rate = self._known.get(number)
        if rate is None:
            row = connection.execute(
                "SELECT provider, model, basis, scale, prices, book FROM rates WHERE id = ?",
                (number,),
            ).fetchone()
            rate = self._known[number] = rate_from_row(*row)
        return rate

    def cost(self, connection: sqlite3.Connection, number: int, counts: Sequence[int]) -> Decimal:
        """What sums cost under a rate; `counts` in the order of `FACTORS`."""
        rate = self.get(connection, number)
        factors = self._factors.get(number)
        if factors is None:
            made = factors_of(rate, rate.scale)
            assert made is not None
            factors = self._factors[number] = made
        units = sum(factor * count for factor, count in zip(factors, counts, strict=True))
        with exact():
            return Decimal(units).scaleb(-rate.scale)

    def cost_of_tools(self, connection: sqlite3.Connection, lines: str) -> Decimal:
        """What tool calls cost: lines of a rate's number and its calls, as `SUMMED` has them."""
        total = Decimal(0)
        for line in lines.splitlines():
            number, _, calls = line.partition(" ")
            rate = self.get(connection, int(number))
            tools = book_tools((str(tool), int(count)) for tool, count in json.loads(calls).items())
            units = sum(count * (rate.price_of(TOOL + tool) or 0) for tool, count in tools.items())
            with exact():
                total += Decimal(units).scaleb(-rate.scale)
        return total


def cost_from_units(units: int) -> Decimal:
    """The dollars of a number of units; for use within `exact`."""
    return Decimal(units).scaleb(-FACTOR_SCALE)
