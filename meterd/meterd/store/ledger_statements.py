"""Statements added up from ledger rows alone: what a closed invoice is proved against.

    runs of the period ─▶ pages of rows ─▶ sums by tag, kind and rate ─▶ cost, in whole numbers

Nothing of the rollups is in it. Rows count as they counted when the invoice was made: by the
end of the ledger then, the late rows accepted then, and the rates in force then.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.billing.statement import ProjectUsage, Statement
from meterd.money import exact
from meterd.pricing.naming import book_tools
from meterd.pricing.price import cost_of
from meterd.store.interning import BY_TOKENS, REQUEST, counts_as, kind_from
from meterd.store.ledger_row import unpack
from meterd.store.rate_column import Counted

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from meterd.billing.period import Period
    from meterd.store.book_values import LedgerCut
    from meterd.store.sums import Rates

PAGE_ROWS = 50_000

_RATE = (
    "CASE WHEN EXISTS (SELECT 1 FROM repriced p WHERE p.row = l.id AND p.reprice <= :reprice) "
    "THEN (SELECT p.rate FROM repriced p WHERE p.row = l.id AND p.reprice <= :reprice "
    "ORDER BY p.reprice DESC LIMIT 1) ELSE l.rate END"
)
_ROWS = (
    "FROM ledger l WHERE l.id >= :first AND l.id < :end AND l.billed_at_ms >= :start_ms "
    "AND l.billed_at_ms < :end_ms AND l.id NOT IN (SELECT row FROM uncounted) "
    "AND l.id NOT IN (SELECT row FROM accepted WHERE id > :accepted)"
)
_PLAIN = (
    f"SELECT l.tag, l.kind, {_RATE} rate_now, count(*), sum(l.input_tokens + l.output_tokens > 0), "
    "sum(l.input_tokens), sum(l.cache_read_tokens), sum(l.output_tokens), "
    f"sum(l.reasoning_tokens) {_ROWS} AND l.rest IS NULL GROUP BY 1, 2, 3"
)
_RARE = (
    f"SELECT l.tag, l.kind, {_RATE}, l.input_tokens, l.cache_read_tokens, l.output_tokens, "
    f"l.reasoning_tokens, l.billed_at_ms, l.rest {_ROWS} AND l.rest IS NOT NULL"
)


class _Sums:
    """Rows of one tag, kind and rate, added up."""

    __slots__ = ("counts", "rows", "tools", "with_tokens")

    def __init__(self) -> None:
        self.rows = self.with_tokens = 0
        self.counts = [0] * 8
        self.tools: dict[str, int] = {}

    def add(self, rows: int, with_tokens: int, counts: tuple[int, ...]) -> None:
        self.rows += rows
        self.with_tokens += with_tokens
        for at, amount in enumerate(counts):
            self.counts[at] += amount


class LedgerStatements:
    """Adds up ledger rows, page by page, each a short read."""

    def __init__(self, rates: Rates, cut: LedgerCut, start_ms: int, end_ms: int) -> None:
        self._rates = rates
        self._cut = cut
        self._start_ms, self._end_ms = start_ms, end_ms
        self._sums: dict[tuple[int, int, int], _Sums] = {}

    def pages(self, connection: sqlite3.Connection) -> list[tuple[int, int]]:
        """The rows that can lie in the period, `[first, end)` each."""
        spans: list[list[int]] = []
        for first, end in connection.execute(
            "SELECT first_row, min(end_row, ?1) FROM runs WHERE first_row < ?1 "
            "AND greatest_ms >= ?2 AND least_ms < ?3 ORDER BY first_row",
            (self._cut.end_row, self._start_ms, self._end_ms),
        ):
            if spans and spans[-1][1] == first and first - spans[-1][0] < PAGE_ROWS:
                spans[-1][1] = end
            else:
                spans.append([first, end])
        return [(first, end) for first, end in spans]

    def add(self, connection: sqlite3.Connection, first: int, end: int) -> None:
        """Add the rows of a page."""
        values = {
            "first": first,
            "end": end,
            "start_ms": self._start_ms,
            "end_ms": self._end_ms,
            "accepted": self._cut.last_accepted,
            "reprice": self._cut.last_reprice,
        }
        for tag, kind, rate, rows, used, *counts in connection.execute(_PLAIN, values):
            self._of(tag, kind, rate).add(rows, used, tuple(counts))
        for tag, kind, rate, took, read, gave, thought, at_ms, rest in connection.execute(
            _RARE, values
        ):
            rare = unpack(rest, at_ms)
            sums = self._of(tag, kind, rate)
            sums.add(
                1,
                int(took + gave > 0),
                (took, read, gave, thought, rare.cache_write_tokens, rare.cache_write_long_tokens,
                 rare.audio_input_tokens, rare.audio_output_tokens),
            )  # fmt: skip
            for tool, calls in rare.tool_calls:
                sums.tools[tool] = sums.tools.get(tool, 0) + calls

    def _of(self, tag: int, kind: int, rate: int | None) -> _Sums:
        return self._sums.setdefault((tag, kind, rate or 0), _Sums())

    def statements(
        self, connection: sqlite3.Connection, bounds: Mapping[str, Period]
    ) -> dict[str, Statement]:
        """By client: what it used; of the clients whose bounds these are."""
        tags = {
            tag: (client, project)
            for tag, client, project in connection.execute(
                "SELECT t.id, c.name, t.project FROM tags t JOIN clients c ON c.id = t.client"
            )
        }
        found: dict[str, dict[str, Statement]] = {}
        for (tag, kind, rate), sums in self._sums.items():
            client, project = tags[tag]
            if client in bounds:
                part = self._part(connection, bounds[client], client, kind, rate, sums)
                mine = found.setdefault(client, {})
                mine[project] = _plus(mine[project], part) if project in mine else part
        return {client: _whole(parts) for client, parts in found.items()}

    def _part(
        self,
        connection: sqlite3.Connection,
        period: Period,
        client: str,
        kind: int,
        rate: int,
        sums: _Sums,
    ) -> Statement:
        (fields,) = connection.execute("SELECT fields FROM kinds WHERE id = ?", (kind,)).fetchone()
        how = kind_from(fields)
        counted = counts_as(how)
        requests = {REQUEST: sums.rows, BY_TOKENS: sums.with_tokens}.get(counted, 0)
        counts = Counted(*sums.counts)
        cost = Decimal(0)
        if rate:
            priced = self._rates.get(connection, rate)
            cost = cost_of(priced, counts, book_tools(sums.tools.items()), requests)
        return Statement(
            client,
            period,
            requests=requests,
            tokens=counts.input_tokens + counts.output_tokens,
            estimated_tokens=(counts.input_tokens if how.estimated & 1 else 0)
            + (counts.output_tokens if how.estimated & 2 else 0),
            unpriced_requests=0 if rate else requests,
            cost=cost,
        )


def _plus(one: Statement, other: Statement) -> Statement:
    with exact():
        cost = one.cost + other.cost
    return Statement(
        one.client,
        one.period,
        requests=one.requests + other.requests,
        tokens=one.tokens + other.tokens,
        estimated_tokens=one.estimated_tokens + other.estimated_tokens,
        unpriced_requests=one.unpriced_requests + other.unpriced_requests,
        cost=cost,
    )


def _whole(parts: Mapping[str, Statement]) -> Statement:
    """One statement of a client's projects, greatest cost first as the rollups give them."""
    whole: Statement | None = None
    for part in parts.values():
        whole = part if whole is None else _plus(whole, part)
    assert whole is not None
    projects = sorted(parts.items(), key=lambda item: (-item[1].cost, item[0]))
    shares = tuple(
        ProjectUsage(name, part.requests, part.tokens, part.cost) for name, part in projects
    )
    return Statement(
        whole.client,
        whole.period,
        whole.requests,
        whole.tokens,
        whole.estimated_tokens,
        whole.unpriced_requests,
        whole.cost,
        shares if any(parts) else (),
    )
