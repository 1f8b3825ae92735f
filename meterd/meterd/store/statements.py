"""Statements read from the rollups: what clients used in a period, for a bill to rest on.

rollup_day  ─ by client and project ─▶ Statement   (exact cost in whole numbers)
rollup_month ─ posted_in ─▶ which closed periods grew since they were closed
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.billing.period import Period, period_at
from meterd.billing.statement import ProjectUsage, Statement
from meterd.clock import moment_of
from meterd.money import exact
from meterd.store import queries
from meterd.store.values import Grouping, PeriodIndex, RollupQuery

if TYPE_CHECKING:
    import sqlite3

    from meterd.config.agency import Agency
    from meterd.store.sums import Rates
    from meterd.store.values import RollupRow


def statements(
    connection: sqlite3.Connection,
    rates: Rates,
    agency: Agency,
    period: PeriodIndex,
    posted_through: PeriodIndex,
    client: str | None,
) -> dict[str, Statement]:
    """By client: the usage of one period that a bill of that or a later period rests on."""
    rows = queries.rollup(
        connection,
        rates,
        agency,
        RollupQuery(
            period=period,
            by=(Grouping.CLIENT, Grouping.PROJECT),
            client=client,
            posted_through=posted_through,
        ),
    )
    by_client: dict[str, list[RollupRow]] = {}
    for row in rows:
        by_client.setdefault(row.client, []).append(row)
    opened = bounds(connection, period)
    grants = granted(connection, period)
    return {
        name: _statement(
            name, opened.get(name) or computed(agency, name, period), found, grants.get(name, 0)
        )
        for name, found in by_client.items()
    }


def empties(
    connection: sqlite3.Connection, agency: Agency, period: PeriodIndex, clients: list[str]
) -> dict[str, Statement]:
    """The statements of clients that used nothing."""
    opened = bounds(connection, period)
    grants = granted(connection, period)
    return {
        client: Statement(
            client,
            opened.get(client) or computed(agency, client, period),
            granted_tokens=grants.get(client, 0),
        )
        for client in clients
    }


def posted(
    connection: sqlite3.Connection, posted_in: PeriodIndex
) -> dict[PeriodIndex, frozenset[str]]:
    """By period of use: the clients that a period bills usage of."""
    found: dict[PeriodIndex, set[str]] = {}
    for name, period in connection.execute(
        "SELECT DISTINCT c.name, r.period FROM rollup_month r JOIN clients c ON c.id = r.client "
        "WHERE r.posted_in = ?",
        (posted_in,),
    ):
        found.setdefault(PeriodIndex(period), set()).add(name)
    return {period: frozenset(names) for period, names in found.items()}


def open_before(connection: sqlite3.Connection, period: PeriodIndex) -> list[PeriodIndex]:
    """Earlier periods that bill usage and that nobody has closed."""
    return [
        PeriodIndex(index)
        for (index,) in connection.execute(
            "SELECT DISTINCT r.posted_in FROM rollup_month r LEFT JOIN periods p "
            "ON p.client = r.client AND p.period = r.posted_in "
            "WHERE r.posted_in < ? AND p.closed_at_ms IS NULL ORDER BY 1",
            (period,),
        )
    ]


def tokens_by_period(
    connection: sqlite3.Connection, posted_through: PeriodIndex, client: str | None
) -> dict[str, dict[PeriodIndex, int]]:
    """By client: the tokens of each period, as far as a bill of a period knows them."""
    found: dict[str, dict[PeriodIndex, int]] = {}
    for name, period, tokens in connection.execute(
        "SELECT c.name, r.period, sum(r.input_tokens + r.output_tokens) FROM rollup_month r "
        "JOIN clients c ON c.id = r.client WHERE r.posted_in <= ?1 "
        "AND (?2 IS NULL OR r.client = (SELECT id FROM clients WHERE name = ?2)) "
        "GROUP BY r.client, r.period",
        (posted_through, client),
    ):
        found.setdefault(name, {})[PeriodIndex(period)] = tokens
    return found


def rates_used(
    connection: sqlite3.Connection, period: PeriodIndex, posted_through: PeriodIndex
) -> dict[str, tuple[int, ...]]:
    """By client: the rates that priced a period's usage, sorted."""
    found: dict[str, list[int]] = {}
    for name, rate in connection.execute(
        "SELECT DISTINCT c.name, r.rate FROM rollup_month r JOIN clients c ON c.id = r.client "
        "WHERE r.period = ? AND r.posted_in <= ? AND r.rate > 0 ORDER BY 1, 2",
        (period, posted_through),
    ):
        found.setdefault(name, []).append(rate)
    return {name: tuple(rates) for name, rates in found.items()}


def books_of_rates(connection: sqlite3.Connection) -> dict[int, str]:
    """By rate: the version of the price book it was read from; empty: the agency's own price."""
    return dict(connection.execute("SELECT id, book FROM rates"))


def first_row(connection: sqlite3.Connection, start_ms: int) -> int:
    """The first ledger row that can lie at a moment or after it."""
    (row,) = connection.execute(
        "SELECT coalesce(min(first_row), 0) FROM runs WHERE greatest_ms >= ?", (start_ms,)
    ).fetchone()
    return int(row)


def computed(agency: Agency, client: str, period: PeriodIndex) -> Period:
    """A period that no record has opened yet."""
    return period_at(period, agency.zone, agency.anchor_of(client))


def bounds(connection: sqlite3.Connection, period: PeriodIndex) -> dict[str, Period]:
    """By client: the bounds of a period, of those that opened it."""
    name = f"{period // 12:04d}-{period % 12 + 1:02d}"
    return {
        client: Period(moment_of(start * 1_000_000), moment_of(end * 1_000_000), name, period)
        for client, start, end in connection.execute(
            "SELECT c.name, p.start_ms, p.end_ms FROM periods p JOIN clients c ON c.id = p.client "
            "WHERE p.period = ?",
            (period,),
        )
    }


def granted(connection: sqlite3.Connection, period: PeriodIndex) -> dict[str, int]:
    """By client: the tokens granted by hand in a period."""
    return dict(
        connection.execute(
            "SELECT client, sum(tokens) FROM grants WHERE period = ? GROUP BY client", (period,)
        )
    )


def _statement(client: str, period: Period, rows: list[RollupRow], granted: int) -> Statement:
    with exact():
        cost = sum((row.cost for row in rows), Decimal(0))
    projects = sorted(rows, key=lambda row: (-row.cost, row.project))
    return Statement(
        client,
        period,
        requests=sum(row.sums.requests for row in rows),
        tokens=sum(row.sums.tokens for row in rows),
        estimated_tokens=sum(row.sums.estimated_tokens for row in rows),
        unpriced_requests=sum(row.sums.unpriced_requests for row in rows),
        cost=cost,
        projects=tuple(
            ProjectUsage(row.project, row.sums.requests, row.sums.tokens, row.cost)
            for row in projects
        )
        if any(row.project for row in rows)
        else (),
        granted_tokens=granted,
    )
