"""Quotes: which rate a sort of call takes now, resolved once per kind and span of time."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple, Protocol

from meterd.pricing.naming import book_tools
from meterd.pricing.price import can_price

if TYPE_CHECKING:
    from meterd.pricing.price import Counts
    from meterd.pricing.price_list import PriceList
    from meterd.pricing.rate_card import Rate
    from meterd.store.interning import KindRow

QUOTES_MAX = 50_000


class RateNumbers(Protocol):
    """Numbers for rates: those of the ledger, or provisional ones that a dry run makes up."""

    def rate(self, rate: Rate) -> int:
        """A rate's number."""
        ...

    def nothing_counted(self) -> int:
        """The rate of records that used nothing."""
        ...


class Quote(NamedTuple):
    """The rates of one kind (and client, if it has prices of its own) within `[from_ms, to_ms)`."""

    from_ms: int
    to_ms: int
    starts: tuple[int, ...]
    rates: tuple[Rate | None, ...]
    ids: tuple[int | None, ...]
    """By bracket; None: unpriced."""

    def bracket(self, input_tokens: int) -> int:
        """The bracket of a request with this much input."""
        return bisect_left(self.starts, input_tokens)


class Quotes:
    """Quotes by kind. Writer's thread only."""

    def __init__(self, interning: RateNumbers, prices: PriceList) -> None:
        self._interning = interning
        self.prices = prices
        self._own_clients = prices.own_clients()
        self._known: dict[tuple[int, str], Quote] = {}
        self._first_own: dict[tuple[int, str, int], Quote] = {}

    def forget(self) -> None:
        """Drop what is in memory: rate numbers of a rolled back transaction are none."""
        self._known.clear()
        self._first_own.clear()

    @property
    def has_any_own(self) -> bool:
        """Whether any client has prices of its own."""
        return bool(self._own_clients)

    def has_own(self, client: str) -> bool:
        """Whether a client has prices of its own."""
        return client in self._own_clients

    def quote(self, kind: KindRow, client: str, at_ms: int) -> Quote:
        """The quote around a moment."""
        key = (kind.id, client if client in self._own_clients else "")
        quote = self._known.get(key)
        if quote is None or not quote.from_ms <= at_ms < quote.to_ms:
            if len(self._known) > QUOTES_MAX:
                self._known.clear()
            quote = self._known[key] = self._resolve(kind, client, at_ms)
        return quote

    def first_own(self, kind: KindRow, client: str, at_ms: int) -> Quote | None:
        """The first of the agency's own prices after a moment; None: none is for such a call."""
        start = self.prices.next_own_start(client, kind.call, at_ms)
        if start is None:
            return None
        key = (kind.id, client if client in self._own_clients else "", start)
        quote = self._first_own.get(key)
        if quote is None:
            if len(self._first_own) > QUOTES_MAX:
                self._first_own.clear()
            quote = self._first_own[key] = self._resolve(kind, client, start)
        return quote

    def _resolve(self, kind: KindRow, client: str, at_ms: int) -> Quote:
        segment = self.prices.segment(client, kind.call, at_ms)
        ids = tuple(None if rate is None else self._interning.rate(rate) for rate in segment.rates)
        return Quote(segment.from_ms, segment.to_ms, segment.starts, segment.rates, ids)

    def rate_of(
        self,
        quote: Quote,
        counts: Counts,
        tool_calls: tuple[tuple[str, int], ...],
        is_request: bool,
    ) -> int | None:
        """The rate of one record; None: something that it counted has no price.

        Args:
            is_request: it is a request, so that where nothing is known of its model
                its cost isn't known either, even if it counted nothing.
        """
        bracket = quote.bracket(counts.input_tokens)
        rate = quote.rates[bracket]
        tools = book_tools(tool_calls)
        if rate is not None and can_price(rate, counts, tools):
            return quote.ids[bracket]
        if not is_request and not tools and not counts.input_tokens and not counts.output_tokens:
            return self._interning.nothing_counted()
        return None
