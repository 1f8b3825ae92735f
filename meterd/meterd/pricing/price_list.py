"""The prices in force: the agency's own, where one matches, before the book's.

    PriceOverride … ─┐
                     ├─ segment(client, call, at) ─▶ rates around a moment, by bracket
    PriceBook ───────┘

Of several overrides that match, the one that names the client goes first, then the exact
model, then the latest start. An override holds from its UTC day on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from meterd.config.agency import BEGINNING
from meterd.money import exact
from meterd.pricing import rate_card
from meterd.pricing.naming import book_provider, book_tool
from meterd.pricing.rate_card import FOREVER_MS, UNPRICED, Rate, Segment, rate_from_decimals

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meterd.config.agency import PriceOverride
    from meterd.pricing.book import PriceBook

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Call(NamedTuple):
    """What of a call decides its price beside client, moment and tokens."""

    provider: str
    request_model: str
    response_model: str
    service_tier: str = ""
    speed: str = ""
    processing: str = ""
    inference_geo: str = ""

    @property
    def context(self) -> dict[str, str]:
        """What the response stated, without what it didn't."""
        return {name: value for name in _CONTEXT if (value := str(getattr(self, name)))}


_CONTEXT = ("service_tier", "speed", "processing", "inference_geo")


@dataclass(frozen=True)
class PriceList:
    """The book and the overrides of one configuration."""

    book: PriceBook
    overrides: Sequence[PriceOverride] = ()

    def own_clients(self) -> frozenset[str]:
        """The clients that have prices of their own; for all others a call's price is the same."""
        return frozenset(override.client for override in self.overrides if override.client)

    def segment(self, client: str, call: Call, at_ms: int) -> Segment:
        """The rates around a moment."""
        matching = [own for own in self.overrides if matches(own, client, call)]
        if not matching:
            return self._of_book(call, at_ms)
        boundaries = sorted(_start_ms(own) for own in matching)
        from_ms = max((b for b in boundaries if b <= at_ms), default=-FOREVER_MS)
        to_ms = min((b for b in boundaries if b > at_ms), default=FOREVER_MS)
        started = [own for own in matching if _start_ms(own) <= at_ms]
        below = self._below(started, call, at_ms)
        segment = self._bracketed(started, below, call)
        return Segment(
            max(from_ms, below.from_ms), min(to_ms, below.to_ms), segment.starts, segment.rates
        )

    def next_own_start(self, client: str, call: Call, at_ms: int) -> int | None:
        """When the first of the agency's own prices after a moment begins; None: none does."""
        starts = (_start_ms(own) for own in self.overrides if matches(own, client, call))
        return min((start for start in starts if start > at_ms), default=None)

    def _of_book(self, call: Call, at_ms: int) -> Segment:
        return self.book.segment(
            call.provider, call.request_model, call.response_model, call.context, at_ms
        )

    def _below(self, started: Sequence[PriceOverride], call: Call, at_ms: int) -> Segment:
        """What holds where no override names rates: the book's price, or another model's."""
        same_as = next((own.same_as for own in _by_rank(started, call) if own.same_as), "")
        if not same_as:
            return self._of_book(call, at_ms)
        provider, slash, model = same_as.partition("/")
        if not slash:
            provider, model = call.provider, same_as
        segment = self.book.segment(provider, model, "", call.context, at_ms)
        if segment is UNPRICED and slash:  # a model's own name may hold the slash
            segment = self.book.segment(call.provider, same_as, "", call.context, at_ms)
        return segment

    def _bracketed(self, started: Sequence[PriceOverride], below: Segment, call: Call) -> Segment:
        own_starts = {own.above_input_tokens for own in started if own.above_input_tokens}
        starts = tuple(sorted({*below.starts, *own_starts}))
        rates = tuple(
            self._rate(started, below.rate_for(start + 1), start, call) for start in (-1, *starts)
        )
        return Segment(below.from_ms, below.to_ms, starts, rates)

    def _rate(
        self, started: Sequence[PriceOverride], below: Rate | None, start: int, call: Call
    ) -> Rate | None:
        holding = [own for own in started if own.above_input_tokens <= max(start, 0)]
        chosen = next(iter(_by_rank(holding, call)), None)
        if chosen is None:
            return below
        if not chosen.rates and below is None:
            return None
        return rate_from_decimals(
            book_provider(call.provider),
            call.response_model or call.request_model,
            _basis(chosen, below),
            dict(_prices(chosen, below)),
            below.book if below and not chosen.rates else "",
        )


def matches(own: PriceOverride, client: str, call: Call) -> bool:
    """Whether an override is for a client's call, whenever it was made."""
    return (
        own.client in ("", client)
        and own.provider in ("", call.provider, book_provider(call.provider))
        and any(fnmatchcase(model, own.model) for model in _models(call))
        and all(getattr(own, name) in ("", getattr(call, name)) for name in _CONTEXT)
    )


def _models(call: Call) -> Iterator[str]:
    return filter(None, (call.response_model, call.request_model))


def _by_rank(overrides: Sequence[PriceOverride], call: Call) -> list[PriceOverride]:
    """Best first: with a client, exact model, stated context, latest start, highest bracket."""
    return sorted(
        overrides,
        key=lambda own: (
            bool(own.client),
            own.model in _models(call),
            sum(bool(getattr(own, name)) for name in _CONTEXT),
            own.from_day,
            own.above_input_tokens,
        ),
        reverse=True,
    )


def _prices(own: PriceOverride, below: Rate | None) -> Iterator[tuple[str, Decimal | None]]:
    """Prices a unit: the override's own rates, else the price below times its factor."""
    with exact():
        if own.rates:
            for kind, rate in own.rates.items():
                yield kind, rate.scaleb(-6)
        elif below is not None:
            for kind, price in below.prices.items():
                yield kind, _times(price, below.scale, own.multiplier)
        for tool, rate in own.tool_rates.items():
            yield rate_card.TOOL + book_tool(tool), rate.scaleb(-3)
        if own.per_request:
            yield rate_card.REQUEST, own.per_request


def _times(price: int | None, scale: int, factor: Decimal) -> Decimal | None:
    return None if price is None else Decimal(price).scaleb(-scale) * factor


def _basis(own: PriceOverride, below: Rate | None) -> str:
    parts = ["meterd.toml"]
    if own.client:
        parts.append(f"client {own.client}")
    parts.append(f"model {own.model}")
    if own.from_day != BEGINNING:
        parts.append(f"from {own.from_day.isoformat()}")
    if own.above_input_tokens:
        parts.append(f"more than {own.above_input_tokens} input tokens")
    parts += [f"{name}={value}" for name, value in _own_context(own).items()]
    if not own.rates and below is not None:
        factor = f"{own.multiplier} × " if own.multiplier != 1 else ""
        parts.append(f"{factor}{below.provider}/{below.model} {below.basis}")
    return ", ".join(parts)


def _own_context(own: PriceOverride) -> Mapping[str, str]:
    return {name: value for name in _CONTEXT if (value := str(getattr(own, name)))}


def _start_ms(own: PriceOverride) -> int:
    if own.from_day == BEGINNING:
        return -FOREVER_MS
    start = datetime.combine(own.from_day, time.min, tzinfo=UTC)
    return (start - _EPOCH) // timedelta(milliseconds=1)
