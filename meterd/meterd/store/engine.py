"""The engine: one connection that writes, and everything in memory that mirrors its tables.

`begin … commit` is a transaction; `rollback` forgets in memory whatever the transaction had
learned. All of it belongs to the writer's thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.ids import LedgerId, ProducerId
from meterd.pricing.price_list import PriceList
from meterd.store import schema
from meterd.store.calendar import Calendar
from meterd.store.interning import Interning
from meterd.store.leases import LeaseBook
from meterd.store.ledger import Ledger
from meterd.store.naming import OwnNames
from meterd.store.producers import Producers
from meterd.store.quotes import Quotes
from meterd.store.runs import Runs
from meterd.store.values import Committed, PeriodIndex, UsageKey

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping
    from pathlib import Path

    from meterd.config.agency import Agency
    from meterd.pricing.book import PriceBook
    from meterd.store.interning import Names
    from meterd.store.rollup import Deltas

DEDUPE_KEPT_MS = 35 * 86_400_000
_DEDUPE_SWEEP_MS = 3_600_000


class Engine:
    """One database, opened to write."""

    def __init__(self, path: Path, agency: Agency, book: PriceBook, now_ms: int) -> None:
        self.agency = agency
        self.book = book
        self.connection: sqlite3.Connection = schema.connect_writer(path)
        schema.migrate(self.connection, now_ms)
        self.ledger_id = LedgerId(schema.ledger_id(self.connection))
        self.now_ms = now_ms
        self.interning = Interning(self.connection, now_ms)
        self.producers = Producers(self.connection)
        self.leases = LeaseBook(self.connection)
        self.runs = Runs(self.connection)
        self._swept_at_ms = 0
        self._build()

    def use(self, agency: Agency) -> None:
        """Place and price by this configuration from the next transaction on."""
        self.agency = agency
        self._build()

    def _build(self) -> None:
        self.calendar = Calendar(self.connection, self.agency)
        self.quotes = Quotes(self.interning, PriceList(self.book, self.agency.prices))
        self.own_names = OwnNames(self.connection, self.interning, self.calendar)
        self.ledger = Ledger(
            self.connection,
            self.interning,
            self.calendar,
            self.quotes,
            self.own_names,
            self.producers,
            self.leases,
            self.runs,
        )

    def begin(self, now_ms: int) -> None:
        """Begin a transaction; it holds the write lock from now on."""
        self.now_ms = self.interning.now_ms = now_ms
        self.connection.execute("BEGIN IMMEDIATE")
        self.ledger.begin()
        self.leases.begin(now_ms)
        self._first_row = self.runs.next_row

    def commit(self) -> Committed | None:
        """Write what was gathered and make it durable; what to tell of it, if it is anything."""
        self.ledger.flush()
        self._sweep_dedupe()
        touched = self.producers.touched
        self.connection.execute("COMMIT")
        committed = self._committed(touched)
        self.producers.committed()
        self.ledger.begin()
        self.interning.shrink()
        return committed

    def rollback(self) -> None:
        """Nothing of the transaction happened, here or in memory."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        self.interning.forget()
        self.calendar.forget()
        self.quotes.forget()
        self.own_names.forget()
        self.producers.forget()
        self.leases.forget()
        self.runs.forget()
        self.ledger.begin()

    def close(self) -> None:
        """Let go of the database; the WAL is folded into it, if nobody else reads."""
        self.connection.close()

    def _sweep_dedupe(self) -> None:
        if self.now_ms - self._swept_at_ms < _DEDUPE_SWEEP_MS:
            return
        self._swept_at_ms = self.now_ms
        self.connection.execute(
            "DELETE FROM dedupe WHERE seen_at_ms < ?", (self.now_ms - DEDUPE_KEPT_MS,)
        )

    def _committed(self, touched: tuple[ProducerId, ...]) -> Committed | None:
        leases, deltas = self.leases, self.ledger.deltas
        if self.runs.next_row == self._first_row and not leases.settled and not leases.ended:
            return None
        names, shifted = self.interning.names, leases.shifted
        return Committed(
            first_row=self._first_row,
            end_row=self.runs.next_row,
            at_ms=self.now_ms,
            leases=leases.settled,
            ended_leases=tuple(leases.ended),
            producers=touched,
            client_tokens=_client_tokens(names, deltas, shifted),
            _usage=lambda client: _usage(names, deltas, shifted, client),
        )


def _client_tokens(
    names: Names, deltas: Deltas, shifted: Mapping[tuple[int, int, int, int], int]
) -> dict[tuple[str, PeriodIndex], int]:
    tokens = deltas.tokens_by_client()
    for (client, period, _, _), amount in shifted.items():
        tokens[client, period] = tokens.get((client, period), 0) + amount
    return {
        (names.clients[client], PeriodIndex(period)): amount
        for (client, period), amount in tokens.items()
    }


def _usage(
    names: Names,
    deltas: Deltas,
    shifted: Mapping[tuple[int, int, int, int], int],
    only: str | None,
) -> dict[UsageKey, int]:
    """Tokens by names; runs on whatever thread asks, over what no one changes any more."""
    usage: dict[UsageKey, int] = {}
    for (client, day, tag, model, _, _), plain in deltas.plains.items():
        if only is None or names.clients[client] == only:
            key = _key(names, client, deltas.months[client, day], tag, model)
            usage[key] = usage.get(key, 0) + plain[1] + plain[3]
    for (client, period, tag, model), amount in shifted.items():
        if only is None or names.clients[client] == only:
            key = _key(names, client, period, tag, model)
            usage[key] = usage.get(key, 0) + amount
    return usage


def _key(names: Names, client: int, period: int, tag: int, model: int) -> UsageKey:
    return UsageKey(
        names.clients[client],
        names.tags[tag].project,
        names.models[model],
        PeriodIndex(period),
    )
