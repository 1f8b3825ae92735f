"""How large requests are: from the ledger's rows, for the clients that are asked about.

Sums tell a mean; a quantile, and how much of a request is its history, only rows tell.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from meterd.money import exact
from meterd.store.ledger_row import unpack
from meterd.store.sums import BY_RATE

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection

    from meterd.store.sums import Rates
    from meterd.store.values import PeriodIndex

PAGE_ROWS = 50_000
_P95 = 95

_ROWS = (
    "FROM ledger l WHERE l.id >= :first AND l.id < :end AND l.billed_at_ms >= :start_ms "
    "AND l.billed_at_ms < :end_ms AND l.tag IN (SELECT value FROM json_each(:tags)) "
    "AND l.input_tokens > 0 AND l.id NOT IN (SELECT row FROM uncounted)"
)
_SIZES = f"SELECT l.tag, l.input_tokens, count(*) {_ROWS} GROUP BY 1, 2"
_HISTORY = f"SELECT l.tag, l.input_bytes, l.billed_at_ms, l.rest {_ROWS} AND l.rest IS NOT NULL"


class InputSizes(NamedTuple):
    """Of one client or project in a period."""

    p95_input_tokens: int
    """95 of 100 requests have at most so many input tokens; 0: there were none."""
    history_bytes: int
    """Of the requests that were sampled."""
    sampled_bytes: int
    """Of those, all that was sent; 0: none was sampled."""


class Measuring:
    """Goes through the rows of some clients, page by page."""

    def __init__(self, clients: Collection[str], start_ms: int, end_ms: int) -> None:
        self._clients = clients
        self._start_ms, self._end_ms = start_ms, end_ms
        self._tags: dict[int, tuple[str, str]] = {}
        self._sizes: dict[tuple[str, str], dict[int, int]] = {}
        self._history: dict[tuple[str, str], list[int]] = {}

    def pages(self, connection: sqlite3.Connection) -> list[tuple[int, int]]:
        """The rows that can lie in the period, `[first, end)` each."""
        names = json.dumps(sorted(self._clients))
        self._tags = {
            tag: (client, project)
            for tag, client, project in connection.execute(
                "SELECT t.id, c.name, t.project FROM tags t JOIN clients c ON c.id = t.client "
                "WHERE c.name IN (SELECT value FROM json_each(?))",
                (names,),
            )
        }
        found: list[tuple[int, int]] = []
        for first, end in connection.execute(
            "SELECT first_row, end_row FROM runs WHERE greatest_ms >= ? AND least_ms < ? "
            "ORDER BY first_row",
            (self._start_ms, self._end_ms),
        ):
            if found and found[-1][1] == first and first - found[-1][0] < PAGE_ROWS:
                found[-1] = (found[-1][0], end)
            else:
                found.append((first, end))
        return found

    def add(self, connection: sqlite3.Connection, first: int, end: int) -> None:
        """Look at the rows of a page."""
        values = {
            "first": first,
            "end": end,
            "start_ms": self._start_ms,
            "end_ms": self._end_ms,
            "tags": json.dumps(sorted(self._tags)),
        }
        for tag, size, count in connection.execute(_SIZES, values):
            for key in self._keys(tag):
                sizes = self._sizes.setdefault(key, {})
                sizes[size] = sizes.get(size, 0) + count
        for tag, sent, at_ms, rest in connection.execute(_HISTORY, values):
            history = unpack(rest, at_ms).history_bytes
            if history is not None:
                for key in self._keys(tag):
                    sampled = self._history.setdefault(key, [0, 0])
                    sampled[0] += history
                    sampled[1] += sent

    def _keys(self, tag: int) -> tuple[tuple[str, str], ...]:
        """Under the client as a whole, and under its project."""
        client, project = self._tags[tag]
        return ((client, ""), (client, project)) if project else ((client, ""),)

    def sizes(self) -> dict[tuple[str, str], InputSizes]:
        """By client and project; the empty project is the whole client."""
        return {
            key: InputSizes(_quantile(sizes), *self._history.get(key, (0, 0)))
            for key, sizes in self._sizes.items()
        }


def _quantile(sizes: dict[int, int]) -> int:
    """The least size that 95 of 100 requests don't exceed (nearest rank)."""
    wanted = -(-sum(sizes.values()) * _P95 // 100)
    seen = 0
    for size in sorted(sizes):
        seen += sizes[size]
        if seen >= wanted:
            return size
    return 0


def input_costs(
    connection: sqlite3.Connection, rates: Rates, period: PeriodIndex
) -> dict[str, Decimal]:
    """By client: what its input alone cost in a period, US dollars, exact."""
    found: dict[str, Decimal] = {}
    for client, rate, _, took, read, _, _, write, long, audio, _ in connection.execute(
        f"SELECT c.name, {BY_RATE} FROM rollup_month r JOIN clients c ON c.id = r.client "
        "WHERE r.period = ? AND r.rate > 0 GROUP BY r.client, r.rate",
        (period,),
    ).fetchall():
        cost = rates.cost(connection, rate, (0, took, read, 0, 0, write, long, audio, 0))
        with exact():
            found[client] = found.get(client, Decimal(0)) + cost
    return found
