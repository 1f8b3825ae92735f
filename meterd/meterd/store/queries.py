"""What is read of rollups and quotas. Each function is one short read on a reader's connection.

By client alone, a month is read from `rollup_month`; anything finer from `rollup_day`, client
by client, since a client's period is a range of its days.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meterd.store.calendar import day_around, day_name, period_around
from meterd.store.sums import SUMMED, Tally
from meterd.store.values import (
    Grouping,
    PeriodBounds,
    PeriodIndex,
    RollupRow,
    UnpricedModel,
)

if TYPE_CHECKING:
    import sqlite3
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
    Grouping.CLIENT: "r.client",
    Grouping.PROJECT: "r.tag",
    Grouping.MODEL: "r.model",
    Grouping.DAY: "r.day",
}


def rollup(
    connection: sqlite3.Connection, rates: Rates, agency: Agency, query: RollupQuery
) -> list[RollupRow]:
    """Sums by the keys asked for; greatest cost first, by day in order of days."""
    tallies: dict[tuple[object, ...], Tally] = {}
    by = tuple(dict.fromkeys(query.by))
    rows = (
        _by_month(connection, by, query)
        if set(by) <= {Grouping.CLIENT}
        else _by_day(connection, by, query, agency)
    )
    width = len(by)
    for row in rows:
        rate = row[width]
        tally = tallies.get(row[:width])
        if tally is None:
            tally = tallies[row[:width]] = Tally()
        tally.add(row[width + 1 : -1], row[-1], rates.get(connection, rate) if rate else None)
    named = _named(connection, by, tallies)
    return sorted(named, key=lambda row: (row.day, -row.cost, row.client, row.project, row.model))


def _by_month(
    connection: sqlite3.Connection, by: tuple[Grouping, ...], query: RollupQuery
) -> Iterator[Any]:
    keys = ", ".join([*(_KEYS[key] for key in by), "r.rate"])
    where, values = _conditions(connection, query)
    yield from connection.execute(
        f"{_CLIENTS} SELECT {keys}, {SUMMED} FROM seen JOIN rollup_month r "
        f"ON r.client = seen.client WHERE {where} GROUP BY {keys}",
        values,
    )


def _by_day(
    connection: sqlite3.Connection,
    by: tuple[Grouping, ...],
    query: RollupQuery,
    agency: Agency,
) -> Iterator[Any]:
    keys = ", ".join([*(_KEYS[key] for key in by), "r.rate"])
    posted = "" if query.posted_in is None else f" AND r.posted_in = {int(query.posted_in)}"
    select = (
        f"SELECT {keys}, {SUMMED} FROM rollup_day r "
        f"WHERE r.client = ? AND r.day >= ? AND r.day < ?{posted} GROUP BY {keys}"
    )
    for client, first_day, end_day in _day_ranges(connection, query, agency):
        yield from connection.execute(select, (client, first_day, end_day))


def _day_ranges(
    connection: sqlite3.Connection, query: RollupQuery, agency: Agency
) -> list[tuple[int, int, int]]:
    """The days `[first, end)` that each client's period has; of several periods, one range each."""
    where = ["TRUE"]
    values: list[object] = []
    if query.period is not None:
        where.append("p.period = ?")
        values.append(query.period)
    if query.client is not None:
        where.append("p.client = (SELECT id FROM clients WHERE name = ?)")
        values.append(query.client)
    return [
        (client, _day_of(agency, start_ms), _day_of(agency, end_ms))
        for client, start_ms, end_ms in connection.execute(
            "SELECT p.client, p.start_ms, p.end_ms FROM periods p "
            f"WHERE {' AND '.join(where)} ORDER BY p.client, p.start_ms",
            values,
        )
    ]


def _day_of(agency: Agency, bound_ms: int) -> int:
    """The day that begins at a period's bound, whichever way a later tzdata has moved it."""
    return day_around(agency, bound_ms + 6 * 3_600_000).number


def _conditions(connection: sqlite3.Connection, query: RollupQuery) -> tuple[str, list[object]]:
    where = ["TRUE"]
    values: list[object] = []
    if query.period is not None:
        where.append("r.period = ?")
        values.append(query.period)
    if query.posted_in is not None:
        where.append("r.posted_in = ?")
        values.append(query.posted_in)
    if query.client is not None:
        found = connection.execute(
            "SELECT id FROM clients WHERE name = ?", (query.client,)
        ).fetchone()
        where.append("r.client = ?")
        values.append(found[0] if found else -1)
    return " AND ".join(where), values


def _named(
    connection: sqlite3.Connection,
    by: tuple[Grouping, ...],
    tallies: dict[tuple[object, ...], Tally],
) -> list[RollupRow]:
    """The rows, with names in place of numbers. Projects of one name are one row, so are models."""
    merged: dict[tuple[str, str, str, str], Tally] = {}
    names: dict[tuple[Grouping, object], str] = {}
    for key, tally in tallies.items():
        named = {Grouping.CLIENT: "", Grouping.PROJECT: "", Grouping.MODEL: "", Grouping.DAY: ""}
        for grouping, number in zip(by, key, strict=True):
            if (grouping, number) not in names:
                names[grouping, number] = _name(connection, grouping, number)
            named[grouping] = names[grouping, number]
        values = tuple(named.values())
        row_key = (values[0], values[1], values[2], values[3])
        if row_key in merged:
            _merge(merged[row_key], tally)
        else:
            merged[row_key] = tally
    return [
        RollupRow(
            sums=tally.as_sums(),
            cost=tally.cost,
            client=client,
            project=project,
            model=model,
            day=day,
        )
        for (client, project, model, day), tally in merged.items()
    ]


def _merge(into: Tally, tally: Tally) -> None:
    into.sums = [one + other for one, other in zip(into.sums, tally.sums, strict=True)]
    into.cost_units += tally.cost_units
    into.unpriced_requests += tally.unpriced_requests
    into.unpriced_tokens += tally.unpriced_tokens


_NAMES = {
    Grouping.CLIENT: "SELECT name FROM clients WHERE id = ?",
    Grouping.PROJECT: "SELECT project FROM tags WHERE id = ?",
    Grouping.MODEL: "SELECT name FROM models WHERE id = ?",
}


def _name(connection: sqlite3.Connection, grouping: Grouping, number: object) -> str:
    if grouping is Grouping.DAY:
        assert isinstance(number, int)
        return day_name(number)
    (name,) = connection.execute(_NAMES[grouping], (number,)).fetchone()
    return str(name)


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
    """(project, model) → (tokens, of which estimated)."""
    used: dict[tuple[str, str], tuple[int, int]] = {}
    found = connection.execute(
        "SELECT p.client, p.start_ms, p.end_ms FROM periods p WHERE p.period = ? "
        "AND p.client = (SELECT id FROM clients WHERE name = ?)",
        (period, client),
    ).fetchone()
    number, first_day, end_day = (
        (found[0], _day_of(agency, found[1]), _day_of(agency, found[2])) if found else (-1, 0, 0)
    )
    rows = connection.execute(
        "SELECT t.project, m.name, sum(r.input_tokens + r.output_tokens), "
        "sum(r.estimated_tokens) FROM rollup_day r JOIN tags t ON t.id = r.tag "
        "JOIN models m ON m.id = r.model "
        "WHERE r.client = ? AND r.day >= ? AND r.day < ? GROUP BY 1, 2 "
        "UNION ALL SELECT t.project, m.name, sum(q.tokens), 0 FROM quota_shifts q "
        "JOIN tags t ON t.id = q.tag JOIN models m ON m.id = q.model "
        "WHERE q.client = (SELECT id FROM clients WHERE name = ?) AND q.period = ? GROUP BY 1, 2",
        (number, first_day, end_day, client, period),
    )
    for project, model, tokens, estimated in rows:
        before = used.get((project, model), (0, 0))
        used[project, model] = before[0] + tokens, before[1] + estimated
    return used


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
