"""The engine: one connection that writes, and everything in memory that mirrors its tables.

`begin … commit` is a transaction; `rollback` forgets in memory whatever the transaction had
learned. All of it belongs to the writer's thread.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from meterd.errors import StorageFault
from meterd.ids import LedgerId, ProducerId
from meterd.pricing.price_list import PriceList
from meterd.store import backup, price_books, schema
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
    from collections.abc import Iterable
    from pathlib import Path

    from meterd.config.agency import Agency, Contract, QuotaRule
    from meterd.pricing.book import PriceBook

DEDUPE_KEPT_MS = 35 * 86_400_000
_DEDUPE_SWEEP_MS = 3_600_000


class Engine:
    """One database, opened to write."""

    def __init__(
        self,
        path: Path,
        agency: Agency,
        book: PriceBook,
        now_ms: int,
        factory: type[sqlite3.Connection] = sqlite3.Connection,
    ) -> None:
        self.agency = agency
        self.book = book
        self._path = path
        backup.set_former_log_aside(path)
        self.connection: sqlite3.Connection = schema.connect_writer(path, factory)
        try:
            schema.migrate(self.connection, now_ms)
            self._open(now_ms)
        except BaseException:
            self.connection.close()
            raise

    def _open(self, now_ms: int) -> None:
        self._inode = self._path.stat().st_ino
        self._version = self._data_version()  # before anything is read into memory
        self.ledger_id = LedgerId(schema.ledger_id(self.connection))
        self.now_ms = now_ms
        self.interning = Interning(self.connection, now_ms)
        self.producers = Producers(self.connection)
        self.leases = LeaseBook(self.connection)
        self.runs = Runs(self.connection)
        self._swept_at_ms = 0
        price_books.read(self)
        self._build()

    def _data_version(self) -> int:
        """Changes with what other connections commit, and never with one's own."""
        (version,) = self.connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    def use(self, agency: Agency) -> None:
        """Place and price by this configuration from the next transaction on."""
        self.agency = agency
        self._build()

    def _build(self) -> None:
        self._detailed = frozenset(
            name
            for name, client in self.agency.clients.items()
            if _has_detail(client.quotas)
            or any(_has_detail(self._plan_rules(contract)) for contract in client.contracts)
        )
        self._is_detailed = _has_detail(self.agency.quotas)
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

    def _plan_rules(self, contract: Contract) -> tuple[QuotaRule, ...]:
        plan = self.agency.plans.get(contract.plan)
        return contract.terms(plan).quotas if plan is not None else ()

    def begin(self, now_ms: int) -> None:
        """Begin a transaction; it holds the write lock from now on.

        Raises:
            StorageFault: somebody else has written since the last one, so that what is in
                memory holds no longer; it is to be opened anew.
        """
        self.now_ms = self.interning.now_ms = now_ms
        self.connection.execute("BEGIN IMMEDIATE")
        if self._data_version() != self._version:
            raise StorageFault(f"somebody else has written to the ledger {self._path}")
        self.leases.begin(now_ms)
        self._first_row = self.runs.next_row

    def commit(self) -> Committed | None:
        """Write what was gathered and make it durable; what to tell of it, if it is anything."""
        self.ledger.flush()
        self._sweep_dedupe()
        price_books.keep_first(self)
        touched = self.producers.touched
        committed = self._committed(touched)
        self.ledger.fold.clear()
        self.connection.execute("COMMIT")
        self._check_still_there()
        self.producers.committed()
        self.ledger.begin()
        if self.interning.is_large:
            # Places name clients and tags by number: they go with the names, or what is told of
            # a commit would look for some that aren't there.
            self.interning.forget()
            self.own_names.forget()
            self.ledger.fold.forget()
        return committed

    def _check_still_there(self) -> None:
        """A database that was deleted or moved takes commits that nobody will ever read.

        Raises:
            StorageFault: so that nothing of it is acknowledged, and a new one is opened.
        """
        try:
            is_there = self._path.stat().st_ino == self._inode
        except OSError:
            is_there = False
        if not is_there:
            raise StorageFault(f"the ledger {self._path} was deleted or moved while in use")

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
        self.ledger.forget()
        price_books.read(self)

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
        """What to tell of the transaction; its deltas are still there."""
        leases = self.leases
        if self.runs.next_row == self._first_row and not leases.settled and not leases.ended:
            return None
        return Committed(
            first_row=self._first_row,
            end_row=self.runs.next_row,
            at_ms=self.now_ms,
            leases=leases.settled,
            ended_leases=tuple(leases.ended),
            producers=touched,
            client_tokens=self._client_tokens(),
            _usage=self._usage(),
        )

    def _client_tokens(self) -> dict[tuple[str, PeriodIndex], int]:
        tokens: dict[tuple[str, PeriodIndex], int] = {}
        clients = self.interning.names.clients
        for client, period, amount in self.ledger.fold.tokens_by_client():
            tokens[clients[client], PeriodIndex(period)] = amount
        again = self.ledger.deltas.tokens_by_client().items()
        shifted = self.leases.shifted.items()
        for client, period, amount in (
            *((client, period, amount) for (client, period), amount in again),
            *((client, period, amount) for (client, period, _, _), amount in shifted),
        ):
            key = (clients[client], PeriodIndex(period))
            tokens[key] = tokens.get(key, 0) + amount
        return tokens

    def _usage(self) -> dict[UsageKey, int]:
        """Tokens by project and model, of the clients that have quotas on those."""
        names = self.interning.names
        wanted = self._detailed_clients()
        usage: dict[UsageKey, int] = {}
        rows = self.ledger.fold.tokens_in_detail(wanted)
        rows += [
            (client, period, tag, model, amount)
            for (client, period, tag, model), amount in self.leases.shifted.items()
            if client in wanted
        ]
        for client, period, tag, model, amount in rows:
            key = UsageKey(
                names.clients[client],
                names.tags[tag].project,
                names.models[model],
                PeriodIndex(period),
            )
            usage[key] = usage.get(key, 0) + amount
        return usage

    def _detailed_clients(self) -> set[int]:
        if not self._is_detailed and not self._detailed:
            return set()
        clients = {tag.client: tag.client_name for tag in self.ledger.tags.values()}
        return {
            number
            for number, name in clients.items()
            if self._is_detailed or name in self._detailed
        }


def _has_detail(rules: Iterable[QuotaRule]) -> bool:
    return any(rule.project or rule.model for rule in rules)
