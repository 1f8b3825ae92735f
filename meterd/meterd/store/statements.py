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
from meterd.pricing.price import FACTORS
from meterd.store import queries
from meterd.store.values import PeriodIndex

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Mapping, Sequence

    from meterd.config.agency import Agency
    from meterd.store.sums import Rates


PART_CLIENTS = 50
"""Clients whose usage is read in one go: about 0.1 s with ten projects and eight models."""

_USAGE = (
    "FROM rollup_day r WHERE r.client = ? AND r.day >= ? AND r.day < ? AND r.posted_in <= ? "
    "GROUP BY r.tag, r.rate"
)
_COMMON = ", ".join(f"sum(r.{name})" for name in FACTORS[:5])
_RARE = " | ".join(f"r.{name}" for name in FACTORS[5:])
# Most rows have none of the rest: one look whether there is any saves a third of the time.
_PLAIN = (
    f"SELECT r.tag, r.rate, sum(r.estimated_tokens), max({_RARE}) <> 0 OR count(r.tool_calls), "
    f"{_COMMON} {_USAGE}"
)
_FULL = (
    "SELECT r.tag, r.rate, sum(r.estimated_tokens), "
    "group_concat(iif(r.tool_calls IS NULL, NULL, r.rate || ' ' || r.tool_calls), char(10)), "
    + ", ".join(f"sum(r.{name})" for name in FACTORS)
    + f" {_USAGE}"
)


_NONE = (0,) * len(FACTORS)


def users(
    connection: sqlite3.Connection,
    period: PeriodIndex,
    posted_through: PeriodIndex,
    client: str | None,
) -> list[str]:
    """The clients that used something in a period, as far as a bill of a period knows it."""
    return [
        name
        for (name,) in connection.execute(
            "SELECT DISTINCT c.name FROM rollup_month r JOIN clients c ON c.id = r.client "
            "WHERE r.period = ?1 AND r.posted_in <= ?2 AND (?3 IS NULL OR c.name = ?3) ORDER BY 1",
            (period, posted_through, client),
        )
    ]


def statements(
    connection: sqlite3.Connection,
    rates: Rates,
    agency: Agency,
    period: PeriodIndex,
    posted_through: PeriodIndex,
    clients: Sequence[str],
) -> dict[str, Statement]:
    """By client: the usage of one period that a bill of that or a later period rests on."""
    marks = ",".join("?" * len(clients))
    numbers = dict(
        connection.execute(f"SELECT name, id FROM clients WHERE name IN ({marks})", tuple(clients))
    )
    opened = bounds(connection, period)
    grants = granted(connection, period)
    found = {}
    for name in clients:
        if name in numbers:
            its = opened.get(name) or computed(agency, name, period)
            days = queries.days_of(agency, its.start_unix_ns, its.end_unix_ns)
            values = (numbers[name], *days, posted_through)
            projects = _projects(connection, rates, values)
            found[name] = _statement(name, its, projects, grants.get(name, 0))
    return found


class _Project:
    """A project's usage, added up over its rates."""

    __slots__ = ("cost", "estimated", "requests", "tokens", "unpriced")

    def __init__(self) -> None:
        self.requests = self.tokens = self.estimated = self.unpriced = 0
        self.cost = Decimal(0)


def _projects(
    connection: sqlite3.Connection, rates: Rates, values: tuple[int, ...]
) -> dict[str, _Project]:
    """By project: a client's usage of some days, priced under each of its rates."""
    rows = connection.execute(_PLAIN, values).fetchall()
    if any(row[3] for row in rows):
        rows = connection.execute(_FULL, values).fetchall()
    names = dict(connection.execute("SELECT id, project FROM tags WHERE client = ?", (values[0],)))
    found: dict[str, _Project] = {}
    with exact():
        for tag, rate, estimated, tools, *counts in rows:
            project = found.setdefault(names[tag], _Project())
            project.requests += counts[0]
            project.tokens += counts[1] + counts[3]
            project.estimated += estimated
            if not rate:
                project.unpriced += counts[0]
                continue
            project.cost += rates.cost(connection, rate, [*counts, *_NONE][: len(FACTORS)])
            if tools:
                project.cost += rates.cost_of_tools(connection, tools)
    return found


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


def open_before(
    connection: sqlite3.Connection, period: PeriodIndex, clients: Collection[str]
) -> list[PeriodIndex]:
    """Earlier periods that bill usage of some of the clients and that nobody has closed."""
    found = connection.execute(
        "SELECT DISTINCT r.posted_in, c.name FROM rollup_month r "
        "JOIN clients c ON c.id = r.client LEFT JOIN periods p "
        "ON p.client = r.client AND p.period = r.posted_in "
        "WHERE r.posted_in < ? AND p.closed_at_ms IS NULL",
        (period,),
    )
    return sorted({PeriodIndex(index) for index, name in found if name in clients})


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


def _statement(
    client: str, period: Period, projects: Mapping[str, _Project], granted_tokens: int
) -> Statement:
    with exact():
        cost = sum((one.cost for one in projects.values()), Decimal(0))
    ordered = sorted(projects.items(), key=lambda item: (-item[1].cost, item[0]))
    return Statement(
        client,
        period,
        requests=sum(one.requests for one in projects.values()),
        tokens=sum(one.tokens for one in projects.values()),
        estimated_tokens=sum(one.estimated for one in projects.values()),
        unpriced_requests=sum(one.unpriced for one in projects.values()),
        cost=cost,
        projects=tuple(
            ProjectUsage(name, one.requests, one.tokens, one.cost) for name, one in ordered
        )
        if any(projects)
        else (),
        granted_tokens=granted_tokens,
    )
