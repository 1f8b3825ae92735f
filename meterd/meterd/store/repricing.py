"""Pricing again: which rows the prices in force price otherwise, and letting them take it.

    ledger rows ─ on a reader ─▶ Change: by client, period and model, before and after
                                   └ row numbers ─ in steps, on the writer ─▶ `repriced`, rollups

What the newest edition of the price book, and the agency's own prices, say of a call's time is
the price it takes: a model that the book learned of later is priced for the time before, too.
Own prices begin on a day, and none may begin in a closed period: what had no price there takes
the first own price that came after. The ledger's rows stay. What changes in a closed period is
posted in the client's next open one, so that its invoice stays as it is and the next one has the
adjustment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from meterd.money import exact
from meterd.pricing.book import PriceBook
from meterd.pricing.naming import book_tools
from meterd.pricing.price import cost_of
from meterd.pricing.price_list import PriceList
from meterd.pricing.rate_card import NOTHING_COUNTED
from meterd.store import price_books, refold
from meterd.store.interning import KindRow, call_of, counts_as, kind_from
from meterd.store.ledger_row import unpack
from meterd.store.quotes import Quotes
from meterd.store.rate_column import Counted, is_request
from meterd.store.refold import CURRENT_RATE, Refold

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from meterd.config.agency import Agency
    from meterd.pricing.rate_card import Rate
    from meterd.store.engine import Engine
    from meterd.store.sums import Rates

PAGE_ROWS = 20_000
STEP_ROWS = 1_000
"""Rows priced again in one transaction: about 10 ms."""
ROWS_MAX = 5_000_000
"""Row numbers held in memory; what is beyond takes another run."""

_SELECT = (
    "SELECT l.id, c.name, l.kind, p.period, p.closed_at_ms IS NOT NULL, l.billed_at_ms, "
    f"l.input_tokens, l.cache_read_tokens, l.output_tokens, l.reasoning_tokens, {CURRENT_RATE} "
    "rate_now, l.rest FROM ledger l JOIN tags t ON t.id = l.tag JOIN clients c ON c.id = t.client "
    "LEFT JOIN periods p ON p.client = c.id AND p.start_ms <= l.billed_at_ms "
    "AND p.end_ms > l.billed_at_ms WHERE l.id >= :first AND l.id < :end "
    "AND (:client IS NULL OR c.name = :client) "
    "AND NOT EXISTS (SELECT 1 FROM uncounted u WHERE u.row = l.id)"
)


class ChangeKey(NamedTuple):
    """What a line of a reprice is about."""

    client: str
    period: int
    is_closed: bool
    provider: str
    model: str


@dataclass(slots=True)
class Change:
    """What prices in force change for it; US dollars, exact."""

    records: int = 0
    newly_priced: int = 0
    before: Decimal = Decimal(0)
    after: Decimal = Decimal(0)


class _Numbers:
    """Numbers of rates for a dry run: the ledger's, and negative ones for what it doesn't have."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._known: dict[tuple[str, str, str, bytes], int] = {
            (provider, model, basis, bytes(entry)): number
            for number, provider, model, basis, entry in connection.execute(
                "SELECT id, provider, model, basis, entry_hash FROM rates"
            )
        }
        self.rates: dict[int, Rate] = {}

    def rate(self, rate: Rate) -> int:
        key = (rate.provider, rate.model, rate.basis, rate.entry_hash)
        number = self._known.setdefault(key, -1 - len(self._known))
        self.rates[number] = rate
        return number

    def nothing_counted(self) -> int:
        return self.rate(NOTHING_COUNTED)


@dataclass(slots=True)
class Repricing:
    """Looks for rows that the prices in force price otherwise. One reader's pages at a time."""

    agency: Agency
    rates: Rates
    client: str | None
    is_all: bool
    changes: dict[ChangeKey, Change] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    _quotes: Quotes | None = None
    _numbers: _Numbers | None = None
    _kinds: dict[int, KindRow] = field(default_factory=dict)

    def look(self, connection: sqlite3.Connection, first: int, end: int) -> None:
        """Look at the rows `[first, end)`."""
        if self._numbers is None:
            self._numbers = _Numbers(connection)
            book = PriceBook(price_books.editions(connection)).newest()
            self._quotes = Quotes(self._numbers, PriceList(book, self.agency.prices))
        only = "" if self.is_all else f" AND ({CURRENT_RATE}) IS NULL"
        values = {"first": first, "end": end, "client": self.client}
        for row in connection.execute(f"{_SELECT}{only}", values).fetchall():
            self._look_at(connection, *row)

    def _look_at(
        self,
        connection: sqlite3.Connection,
        number: int,
        client: str,
        kind_number: int,
        period: int,
        is_closed: int,
        at_ms: int,
        took: int,
        read: int,
        gave: int,
        thought: int,
        rate: int | None,
        rest: bytes | None,
    ) -> None:
        assert self._quotes is not None
        kind = self._kind(connection, kind_number)
        rare = unpack(rest, at_ms)
        counts = Counted(
            took, read, gave, thought, rare.cache_write_tokens, rare.cache_write_long_tokens,
            rare.audio_input_tokens, rare.audio_output_tokens,
        )  # fmt: skip
        counted = is_request(kind, counts)
        call = _Priced(kind, client, at_ms, counts, rare.tool_calls, counted)
        new = _rate_for(self._quotes, call, is_late=rate is None and bool(is_closed))
        if new == rate or len(self.rows) >= ROWS_MAX:
            return
        self.rows.append(number)
        key = ChangeKey(client, period, bool(is_closed), kind.kind.provider, kind.kind.model)
        change = self.changes.setdefault(key, Change())
        change.records += 1
        change.newly_priced += rate is None
        tools = book_tools(rare.tool_calls)
        with exact():
            if rate is not None:
                old = self.rates.get(connection, rate)
                change.before += cost_of(old, counts, tools, int(counted))
            if new is not None:
                change.after += cost_of(self._rate(new), counts, tools, int(counted))

    def _rate(self, number: int) -> Rate:
        assert self._numbers is not None
        return self._numbers.rates[number]

    def _kind(self, connection: sqlite3.Connection, number: int) -> KindRow:
        kind = self._kinds.get(number)
        if kind is None:
            model, fields = connection.execute(
                "SELECT model, fields FROM kinds WHERE id = ?", (number,)
            ).fetchone()
            value = kind_from(fields)
            kind = KindRow(number, model, value, counts_as(value), call_of(value))
            self._kinds[number] = kind
        return kind


class _Priced(NamedTuple):
    """What of a row decides its rate."""

    kind: KindRow
    client: str
    at_ms: int
    counts: Counted
    tool_calls: tuple[tuple[str, int], ...]
    is_request: bool


def _rate_for(quotes: Quotes, call: _Priced, *, is_late: bool) -> int | None:
    """The rate that a row takes; `is_late`: it has none, and its period is closed."""
    quote = quotes.quote(call.kind, call.client, call.at_ms)
    rate = quotes.rate_of(quote, call.counts, call.tool_calls, is_request=call.is_request)
    if rate is None and is_late:
        later = quotes.first_own(call.kind, call.client, call.at_ms)
        if later is not None:
            rate = quotes.rate_of(later, call.counts, call.tool_calls, is_request=call.is_request)
    return rate


def begin(engine: Engine, who: str, why: str) -> int:
    """A reprice is recorded; its number."""
    return refold.begin_reprice(engine, who, why)


def take(engine: Engine, number: int, rows: Sequence[int]) -> int:
    """Let some rows take the prices in force, closed periods included; how many did."""
    again = Refold(engine)
    quotes = Quotes(engine.interning, PriceList(engine.book.newest(), engine.agency.prices))
    marks = ",".join("?" * len(rows))
    changed = 0
    for row in again.rows(f" WHERE l.id IN ({marks})", tuple(rows)):
        call = _Priced(
            row.kind, row.tag.client_name, row.billed_at_ms, row.counts, row.rare.tool_calls,
            is_request(row.kind, row.counts),
        )  # fmt: skip
        rate = _rate_for(quotes, call, is_late=row.rate is None and again.is_closed(row))
        if rate == row.rate:
            continue
        engine.connection.execute(
            "INSERT OR REPLACE INTO repriced VALUES (?, ?, ?)", (row.id, number, rate)
        )
        again.add(row, sign=-1, rate=row.rate)
        again.add(row, rate=rate)
        changed += 1
    return changed


def span(connection: sqlite3.Connection) -> tuple[int, int]:
    """The rows that the ledger has, `[first, end)`."""
    first, end = connection.execute(
        "SELECT coalesce(min(first_row), 1), coalesce(max(end_row), 1) FROM runs"
    ).fetchone()
    return int(first), int(end)


class PriceDifference(NamedTuple):
    """A price of a used model that another edition says otherwise; US dollars a unit."""

    provider: str
    model: str
    kind: str
    before: Decimal | None
    after: Decimal | None


def differences(connection: sqlite3.Connection, now_ms: int) -> list[PriceDifference]:
    """What the installed book says otherwise than the one in force, of the models in the ledger."""
    known = price_books.editions(connection)
    old, new = PriceBook(known).newest(), PriceBook([PriceBook().installed()])
    found = []
    for provider, model in connection.execute(
        "SELECT provider, name FROM models ORDER BY provider, name"
    ):
        prices = [_prices(book, provider, model, now_ms) for book in (old, new)]
        for kind in sorted({*prices[0], *prices[1]}):
            before, after = prices[0].get(kind), prices[1].get(kind)
            if before != after:
                found.append(PriceDifference(provider, model, kind, before, after))
    return found


def _prices(book: PriceBook, provider: str, model: str, at_ms: int) -> dict[str, Decimal | None]:
    """A model's ordinary prices at a moment, in the lowest bracket."""
    rate = book.segment(provider, model, model, {}, at_ms).rates[0]
    if rate is None:
        return {}
    with exact():
        return {
            kind: None if price is None else Decimal(price).scaleb(-rate.scale)
            for kind, price in rate.prices.items()
        }


class UsedRate(NamedTuple):
    """A rate that priced usage of a period; number 0: the usage has no price."""

    provider: str
    model: str
    number: int
    requests: int


def used_rates(connection: sqlite3.Connection, period: int) -> list[UsedRate]:
    """The models used in a period, with the rates that priced them."""
    return [
        UsedRate(*row)
        for row in connection.execute(
            "SELECT m.provider, m.name, r.rate, sum(r.requests) FROM periods p "
            "JOIN rollup_day r ON r.client = p.client AND r.day >= p.start_ms / 86400000 - 1 "
            "AND r.day <= p.end_ms / 86400000 + 1 JOIN models m ON m.id = r.model "
            "WHERE p.period = ? GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
            (period,),
        )
    ]


def rate(connection: sqlite3.Connection, rates: Rates, number: int) -> Rate:
    """A rate of the ledger by its number."""
    return rates.get(connection, number)
