"""What is read of rollups and quotas. Each function is one short read on a reader's connection.

By client alone, a month is read from `rollup_total`; by what bills it from `rollup_month`;
anything finer from `rollup_day`, client by client, since a client's period is a range of its days.
"""

from __future__ import annotations

import sqlite3
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from meterd.money import exact
from meterd.store import totals
from meterd.store.calendar import day_around, day_name, period_around
from meterd.store.sums import BY_RATE, SUMMED, SUMMED_UNPRICED, Added, cost_from_units
from meterd.store.values import (
    Grouping,
    PeriodBounds,
    PeriodIndex,
    RollupRow,
    UnpricedModel,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.config.agency import Agency
    from meterd.store.sums import Rates
    from meterd.store.values import RollupQuery

_CLIENTS = """
    WITH RECURSIVE seen (client) AS (
        SELECT min(client) FROM rollup_month
        UNION ALL
        SELECT (SELECT min(client) FROM rollup_month WHERE client > seen.client)
        FROM seen WHERE seen.client IS NOT NULL
    )
"""
"""The clients of the rollups, found by a seek each: there are far more rows than clients."""

_KEYS = {
    Grouping.CLIENT: ("r.client", "(SELECT name FROM clients WHERE id = g.client)"),
    Grouping.PROJECT: ("r.tag", "(SELECT project FROM tags WHERE id = g.tag)"),
    Grouping.MODEL: ("r.model", "(SELECT name FROM models WHERE id = g.model)"),
    Grouping.DAY: ("r.day", "g.day"),
}


class _Source(NamedTuple):
    """Rows of a rollup `r` that a query asks for: what stands behind FROM, and its values."""

    rows: str
    values: tuple[object, ...]


def rollup(
    connection: sqlite3.Connection, rates: Rates, agency: Agency, query: RollupQuery
) -> list[RollupRow]:
    """Sums by the keys asked for; greatest cost first, by day in order of days."""
    by = tuple(dict.fromkeys(query.by))
    if by == (Grouping.CLIENT,) and query.period is not None and query.posted_in is None:
        return totals.by_client(connection, rates, query.period, query.client)
    found: dict[tuple[str, ...], Added] = {}
    for source in _sources(connection, by, query, agency):
        for key, added in _added(connection, rates, by, source):
            found[key] = found[key].plus(added) if key in found else added
    rows = [_row(by, key, added) for key, added in found.items()]
    return sorted(rows, key=lambda row: (row.day, -row.cost, row.client, row.project, row.model))


def _sources(
    connection: sqlite3.Connection,
    by: tuple[Grouping, ...],
    query: RollupQuery,
    agency: Agency,
) -> Iterator[_Source]:
    where, values = _conditions(connection, query)
    if set(by) <= {Grouping.CLIENT}:
        clients = _CLIENTS if query.client is None else ""
        seen = "seen JOIN rollup_month r ON r.client = seen.client" if clients else "rollup_month r"
        in_period = "" if query.period is None else f" AND r.period = {int(query.period)}"
        yield _Source(f"{seen} WHERE {where}{in_period}", values)
        return
    if query.period is None:
        yield _Source(f"rollup_day r WHERE {where}", values)
        return
    # Nearly always all clients' periods are the same days: one source.
    for start_ms, end_ms in connection.execute(
        "SELECT DISTINCT start_ms, end_ms FROM periods WHERE period = ?", (query.period,)
    ).fetchall():
        yield _Source(
            "periods p JOIN rollup_day r ON r.client = p.client AND r.day >= ? AND r.day < ? "
            f"WHERE p.period = ? AND p.start_ms = ? AND p.end_ms = ? AND {where}",
            (
                _day_of(agency, start_ms),
                _day_of(agency, end_ms),
                query.period,
                start_ms,
                end_ms,
                *values,
            ),
        )


def _conditions(
    connection: sqlite3.Connection, query: RollupQuery
) -> tuple[str, tuple[object, ...]]:
    where = ["TRUE"]
    values: list[object] = []
    if query.posted_in is not None:
        where.append("r.posted_in = ?")
        values.append(query.posted_in)
    if query.client is not None:
        found = connection.execute(
            "SELECT id FROM clients WHERE name = ?", (query.client,)
        ).fetchone()
        where.append("r.client = ?")
        values.append(found[0] if found else -1)
    return " AND ".join(where), tuple(values)


def _added(
    connection: sqlite3.Connection, rates: Rates, by: tuple[Grouping, ...], source: _Source
) -> Iterator[tuple[tuple[str, ...], Added]]:
    """The sums and costs of a source, by names."""
    try:
        found = connection.execute(_select(by, source, SUMMED), source.values).fetchall()
    except sqlite3.OperationalError as fault:
        if "integer overflow" not in str(fault):
            raise
        found = connection.execute(_select(by, source, SUMMED_UNPRICED), source.values).fetchall()
    width = max(1, len(by))
    with exact():
        for row in found:
            numbers = row[2 * width :]
            units, tools = numbers[-2], numbers[-1]
            cost = (
                cost_from_units(units)
                if isinstance(units, int)
                else _cost_in_python(connection, rates, by, source, row[width : 2 * width])
            )
            if tools:
                cost += rates.cost_of_tools(connection, tools)
            if numbers[0] is not None:
                yield row[:width], Added(numbers[:-4], numbers[-4], numbers[-3], cost)


def _select(by: tuple[Grouping, ...], source: _Source, sums: str) -> str:
    keys = ", ".join(_KEYS[key][0] for key in by) or "NULL"
    names = ", ".join(_KEYS[key][1] for key in by) or "NULL"
    clients = _CLIENTS if source.rows.startswith("seen ") else ""
    rows, where = source.rows.split(" WHERE ", 1)
    return (
        f"{clients} SELECT {names}, g.* FROM (SELECT {keys}, {sums} FROM {rows} "
        f"LEFT JOIN rate_factors f ON f.rate = r.rate WHERE {where} GROUP BY {keys}) g"
    )


def _cost_in_python(
    connection: sqlite3.Connection,
    rates: Rates,
    by: tuple[Grouping, ...],
    source: _Source,
    key: tuple[int, ...],
) -> Decimal:
    """The cost of one group whose number doesn't fit into 64 bits, or whose prices don't."""
    clients = _CLIENTS if source.rows.startswith("seen ") else ""
    mine = "".join(f" AND {_KEYS[grouping][0]} = ?" for grouping in by)
    total = Decimal(0)
    for rate, *counts in connection.execute(
        f"{clients} SELECT {BY_RATE} FROM {source.rows}{mine} AND r.rate GROUP BY r.rate",
        (*source.values, *key[: len(by)]),
    ).fetchall():
        total += rates.cost(connection, rate, counts)
    return total


def _row(by: tuple[Grouping, ...], key: tuple[str, ...], added: Added) -> RollupRow:
    named = dict(zip(by, key, strict=False))
    return RollupRow(
        sums=added.as_sums(),
        cost=added.cost,
        client=named.get(Grouping.CLIENT, ""),
        project=named.get(Grouping.PROJECT, ""),
        model=named.get(Grouping.MODEL, ""),
        day=day_name(int(named[Grouping.DAY])) if Grouping.DAY in named else "",
    )


def _day_of(agency: Agency, bound_ms: int) -> int:
    """The day that begins at a period's bound, whichever way a later tzdata has moved it."""
    return day_around(agency, bound_ms + 6 * 3_600_000).number


def days_of(agency: Agency, start_unix_ns: int, end_unix_ns: int) -> tuple[int, int]:
    """The days `[first, end)` that a period with these bounds has."""
    return _day_of(agency, start_unix_ns // 1_000_000), _day_of(agency, end_unix_ns // 1_000_000)


def _day_ranges(
    connection: sqlite3.Connection, query: RollupQuery, agency: Agency
) -> list[tuple[int, int, int]]:
    """The days `[first, end)` that each client's period has; of several periods, one range each."""
    return [
        (client, _day_of(agency, start_ms), _day_of(agency, end_ms))
        for client, start_ms, end_ms in connection.execute(
            "SELECT client, start_ms, end_ms FROM periods WHERE ?1 IS NULL OR period = ?1",
            (query.period,),
        )
    ]


# ── quotas ──


def used_tokens(
    connection: sqlite3.Connection,
    agency: Agency,
    client: str,
    period: PeriodIndex,
    project: str,
    model: str,
) -> int:
    """Tokens that count against a quota; an empty client, project or model: all of them."""
    if project or model:
        return sum(
            tokens
            for name in ([client] if client else _client_names(connection))
            for (its_project, its_model), (tokens, _) in used_by(
                connection, agency, name, period
            ).items()
            if project in ("", its_project) and model in ("", its_model)
        )
    whose = "AND r.client = (SELECT id FROM clients WHERE name = ?2)" if client else ""
    (billed,) = connection.execute(
        f"{_CLIENTS} SELECT coalesce(sum(r.input_tokens + r.output_tokens), 0) FROM seen "
        f"JOIN rollup_month r ON r.client = seen.client WHERE r.period = ?1 {whose}",
        (period, client)[: 2 if client else 1],
    ).fetchone()
    (shifted,) = connection.execute(
        f"SELECT coalesce(sum(r.tokens), 0) FROM quota_shifts r WHERE r.period = ?1 {whose}",
        (period, client)[: 2 if client else 1],
    ).fetchone()
    return int(billed) + int(shifted)


def used_by(
    connection: sqlite3.Connection, agency: Agency, client: str, period: PeriodIndex
) -> dict[tuple[str, str], tuple[int, int]]:
    """(project, model) → (tokens, of which estimated); of all clients together for ""."""
    used: dict[tuple[str, str], tuple[int, int]] = {}
    for project, model, tokens, estimated in _usage_rows(connection, agency, client, period):
        before = used.get((project, model), (0, 0))
        used[project, model] = before[0] + tokens, before[1] + estimated
    return used


def _usage_rows(
    connection: sqlite3.Connection, agency: Agency, client: str, period: PeriodIndex
) -> Iterator[tuple[str, str, int, int]]:
    whose = "AND client = (SELECT id FROM clients WHERE name = :client)" if client else ""
    named = {"client": client, "period": period}
    bounds = connection.execute(
        f"SELECT DISTINCT start_ms, end_ms FROM periods WHERE period = :period {whose}", named
    ).fetchall()
    for start_ms, end_ms in bounds:  # as many as there are anchors
        yield from connection.execute(
            "SELECT t.project, m.name, sum(r.input_tokens + r.output_tokens), "
            "sum(r.estimated_tokens) FROM rollup_day r JOIN tags t ON t.id = r.tag "
            "JOIN models m ON m.id = r.model WHERE r.day >= :first AND r.day < :end "
            "AND r.client IN (SELECT client FROM periods WHERE period = :period "
            f"AND start_ms = :start_ms AND end_ms = :end_ms {whose}) GROUP BY 1, 2",
            {
                **named,
                "start_ms": start_ms,
                "end_ms": end_ms,
                "first": _day_of(agency, start_ms),
                "end": _day_of(agency, end_ms),
            },
        )
    yield from connection.execute(
        "SELECT t.project, m.name, sum(q.tokens), 0 FROM quota_shifts q "
        "JOIN tags t ON t.id = q.tag JOIN models m ON m.id = q.model "
        f"WHERE q.period = :period {whose.replace('client =', 'q.client =')} GROUP BY 1, 2",
        named,
    )


def _client_names(connection: sqlite3.Connection) -> list[str]:
    return [
        name
        for (name,) in connection.execute(
            f"{_CLIENTS} SELECT c.name FROM seen JOIN clients c ON c.id = seen.client"
        )
    ]


# ── periods, prices ──


def period(connection: sqlite3.Connection, agency: Agency, client: str, at_ms: int) -> PeriodBounds:
    """The client's period that a moment lies in: as stored if it was opened, else computed."""
    found = connection.execute(
        "SELECT period, start_ms, end_ms FROM periods WHERE "
        "client = (SELECT id FROM clients WHERE name = ?) AND start_ms <= ? AND end_ms > ?",
        (client, at_ms, at_ms),
    ).fetchone()
    index, start_ms, end_ms = found or period_around(agency, client, at_ms)
    return PeriodBounds(client=client, period=PeriodIndex(index), start_ms=start_ms, end_ms=end_ms)


def unpriced(
    connection: sqlite3.Connection, agency: Agency, query: RollupQuery
) -> list[UnpricedModel]:
    """Models without a price, most tokens first."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for client, first_day, end_day in _day_ranges(connection, query, agency):
        for provider, name, requests, tokens in connection.execute(
            "SELECT m.provider, m.name, sum(r.requests), sum(r.input_tokens + r.output_tokens) "
            "FROM rollup_day r JOIN models m ON m.id = r.model "
            "WHERE r.client = ? AND r.day >= ? AND r.day < ? AND r.rate = 0 GROUP BY 1, 2",
            (client, first_day, end_day),
        ):
            before = found.get((provider, name), (0, 0))
            found[provider, name] = before[0] + requests, before[1] + tokens
    return sorted(
        (
            UnpricedModel(provider=provider, model=name, requests=requests, tokens=tokens)
            for (provider, name), (requests, tokens) in found.items()
            if requests or tokens
        ),
        key=lambda row: (-row.tokens, row.provider, row.model),
    )


def closed_periods(
    connection: sqlite3.Connection, client: str | None
) -> list[tuple[str, PeriodIndex]]:
    """The periods closed so far, by client and time."""
    return [
        (name, PeriodIndex(index))
        for name, index in connection.execute(
            "SELECT c.name, p.period FROM periods p JOIN clients c ON c.id = p.client "
            "WHERE p.closed_at_ms IS NOT NULL AND (?1 IS NULL OR c.name = ?1) ORDER BY 1, 2",
            (client,),
        )
    ]
