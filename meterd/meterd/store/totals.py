"""Totals: each client's period in one row, all its rates together, with what they cost.

    rollup_month ─ GROUP BY client, period ─▶ rollup_total ─ one row a client ─▶ a month by client

A row is made anew from `rollup_month`, and never added to, in the transaction that touches its
client and period: so it is right whatever way a month's sums have changed (records, rare counts,
late ones accepted, another price), and `verify` compares the two. A thousand clients with eight
rates each take 12 ms a transaction, which has a second's records where that many write at once;
reading them by rate instead took a query 13 ms.
"""

from __future__ import annotations

from decimal import Decimal
from operator import attrgetter
from typing import TYPE_CHECKING

from meterd.money import exact
from meterd.pricing.price import FACTORS
from meterd.store.sums import SUM_COLUMNS, UNITS, cost_from_units
from meterd.store.values import RollupRow, Sums

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from meterd.store.sums import Rates
    from meterd.store.values import PeriodIndex

TOUCHED = (
    "CREATE TEMP TABLE IF NOT EXISTS touched (client INTEGER, period INTEGER, "
    "PRIMARY KEY (client, period)) WITHOUT ROWID"
)

_COLUMNS = ", ".join((*SUM_COLUMNS, "unpriced_requests", "unpriced_tokens", "cost", "tool_calls"))
# The halves of a number are added apart, since a sum beyond 64 bits is an error in SQLite and a
# product beyond them is no integer any more. What doesn't fit is NULL, and made when it is read.
_COST = (
    "iif(count(iif(typeof(units) = 'integer', 1, NULL)) = count(*) "
    "AND abs(sum(units >> 32)) < 1073741824, "
    "sum(units >> 32) * 4294967296 + sum(units & 4294967295), NULL)"
)
_TOTALS = (
    "SELECT client, period, "
    + ", ".join(f"sum({name})" for name in SUM_COLUMNS)
    + ", sum(iif(rate, 0, requests)), sum(iif(rate, 0, input_tokens + output_tokens)), "
    + f"{_COST}, group_concat(iif(tool_calls IS NULL OR rate = 0, NULL, "
    "rate || ' ' || tool_calls), char(10)) "
    f"FROM (SELECT {{key}}.client, {{key}}.period, r.rate, r.tool_calls, "
    + ", ".join(f"r.{name}" for name in SUM_COLUMNS)
    + f", {UNITS} AS units FROM {{rows}} "
    "LEFT JOIN main.rate_factors f ON f.rate = r.rate) GROUP BY client, period"
)
_MAKE = f"INSERT OR REPLACE INTO main.rollup_total (client, period, {_COLUMNS}) " + _TOTALS.format(
    key="t",
    rows="temp.touched t CROSS JOIN main.rollup_month r "
    "ON r.client = t.client AND r.period = t.period",
)
_ALL = _TOTALS.format(key="r", rows="rollup_month r")
DIFFERENT = (
    f"SELECT client, period FROM (SELECT client, period, {_COLUMNS} FROM rollup_total EXCEPT "
    f"{_ALL}) UNION SELECT client, period FROM "
    f"({_ALL} EXCEPT "
    f"SELECT client, period, {_COLUMNS} FROM rollup_total) ORDER BY 1, 2"
)
"""The clients and periods whose total is not that of their rows by month."""

# In the order of `Sums`, so that a row of them is one without being sorted in Python.
_SUMS = ", ".join((*Sums._fields, "cost", "tool_calls"))
# Clients are found by a seek each: there may be far more periods than clients.
_READ = (
    "WITH RECURSIVE seen (client) AS (SELECT min(client) FROM rollup_total UNION ALL "
    "SELECT (SELECT min(client) FROM rollup_total WHERE client > seen.client) "
    "FROM seen WHERE seen.client IS NOT NULL) "
    f"SELECT c.name, r.client, {_SUMS} FROM seen CROSS JOIN rollup_total r "
    "ON r.client = seen.client AND r.period = ?1 JOIN clients c ON c.id = r.client"
)
_READ_ONE = (
    f"SELECT c.name, r.client, {_SUMS} FROM clients c JOIN rollup_total r "
    "ON r.client = c.id AND r.period = ?1 WHERE c.name = ?2"
)
_BY_RATE = (
    "SELECT rate, "
    + ", ".join(f"sum({name})" for name in FACTORS)
    + " FROM rollup_month WHERE client = ? AND period = ? AND rate GROUP BY rate"
)


def renew(connection: sqlite3.Connection, others: Iterable[tuple[int, int]]) -> None:
    """Make the totals of what a transaction has touched, before its commit.

    Args:
        others: (client, period) beside those of `temp.delta_month`.
    """
    connection.execute(
        "INSERT OR IGNORE INTO temp.touched SELECT client, period FROM temp.delta_month"
    )
    connection.executemany("INSERT OR IGNORE INTO temp.touched VALUES (?, ?)", others)
    connection.execute(_MAKE)
    connection.execute("DELETE FROM temp.touched")


def by_client(
    connection: sqlite3.Connection, rates: Rates, period: PeriodIndex, client: str | None
) -> list[RollupRow]:
    """A period's sums by client, greatest cost first."""
    found = connection.execute(
        *((_READ, (period,)) if client is None else (_READ_ONE, (period, client)))
    ).fetchall()
    rows = []
    with exact():
        for name, number, *sums, units, tools in found:
            cost = (
                _cost_by_rate(connection, rates, number, period)
                if units is None
                else cost_from_units(units)
            )
            if tools:
                cost += rates.cost_of_tools(connection, tools)
            rows.append(RollupRow(Sums._make(sums), cost, name))
    rows.sort(key=attrgetter("client"))
    rows.sort(key=attrgetter("cost"), reverse=True)  # keeps the order of equal ones
    return rows


def _cost_by_rate(
    connection: sqlite3.Connection, rates: Rates, client: int, period: PeriodIndex
) -> Decimal:
    """The cost of what 64 bits can't say, in integers without an end."""
    return sum(
        (
            rates.cost(connection, rate, counts)
            for rate, *counts in connection.execute(_BY_RATE, (client, period)).fetchall()
        ),
        Decimal(0),
    )
