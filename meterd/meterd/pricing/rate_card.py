"""A rate: unit prices as integers, frozen; a segment: which rate holds for how much input.

    PriceBook ── at a moment ─▶ Segment [from, to) ── by input tokens of the request ─▶ Rate | None

A bracket is chosen by the whole request and then holds for all its tokens (the cliff of
every provider that has brackets), so sums are priced exactly only under the rate that each
request took: rollups are kept by rate. None is unpriced, never zero.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

FOREVER_MS = 1 << 62

INPUT = "input"
CACHE_READ = "cache_read"
CACHE_WRITE = "cache_write"
CACHE_WRITE_LONG = "cache_write_long"
AUDIO_INPUT = "audio_input"
OUTPUT = "output"
REASONING = "reasoning"
AUDIO_OUTPUT = "audio_output"
REQUEST = "request"
TOOL = "tool:"
"""Before a tool's name: `tool:web_searches`."""

PARENTS: Mapping[str, str] = MappingProxyType(
    {
        CACHE_READ: INPUT,
        CACHE_WRITE: INPUT,
        CACHE_WRITE_LONG: CACHE_WRITE,
        AUDIO_INPUT: INPUT,
        REASONING: OUTPUT,
        AUDIO_OUTPUT: OUTPUT,
    }
)
"""A kind that has no price of its own takes its parent's."""

OVERLAPS = (
    (CACHE_READ, AUDIO_INPUT),
    (CACHE_WRITE, AUDIO_INPUT),
    (REASONING, AUDIO_OUTPUT),
)
"""Parts that may share tokens: where both have prices of their own, and a record has both,
how much they share decides the price, and no record says it."""


@dataclass(frozen=True)
class Rate:
    """Unit prices in US dollars × 10^-scale: a token, a request, a tool call."""

    provider: str
    model: str
    basis: str
    """What the prices rest on: start, bracket, context, override."""
    scale: int
    prices: Mapping[str, int | None]
    """By kind; the kinds that the price list itself names. None: it prices parts of the kind
    otherwise, and no record tells them apart (images, video), so the kind has no price."""
    book: str = field(default="", compare=False)
    """The version of the book they were read from."""

    @cached_property
    def entry_hash(self) -> bytes:
        """Names these very prices: 16 bytes of SHA-256 over their canonical form."""
        text = json.dumps([self.scale, dict(self.prices)], sort_keys=True)
        return hashlib.sha256(text.encode()).digest()[:16]

    @cached_property
    def _effective(self) -> dict[str, int | None]:
        return {kind: self._inherited(kind) for kind in (INPUT, OUTPUT, *PARENTS)}

    def _inherited(self, kind: str) -> int | None:
        parent = PARENTS.get(kind)
        if kind in self.prices or parent is None:
            return self.prices.get(kind)
        return self._inherited(parent)

    def price_of(self, kind: str) -> int | None:
        """A unit's price, a parent's where it has none of its own; None: there is none."""
        if kind in self._effective:
            return self._effective[kind]
        return self.prices.get(kind)

    @cached_property
    def is_total(self) -> bool:
        """Whether whatever an ordinary record counts has a price: input, output, and of their
        parts those from the cache and for reasoning."""
        ordinary = (INPUT, OUTPUT, CACHE_READ, REASONING)
        return all(self.price_of(kind) is not None for kind in ordinary)

    @cached_property
    def is_whole(self) -> bool:
        """Whether each kind of token has a price."""
        return None not in self._effective.values()

    def has_own(self, kind: str) -> bool:
        """Whether a kind is priced otherwise than its parent."""
        return self.price_of(kind) != self.price_of(PARENTS[kind])


@dataclass(frozen=True, slots=True)
class Segment:
    """A time `[from_ms, to_ms)` within which nothing but the bracket changes the price."""

    from_ms: int
    to_ms: int
    starts: tuple[int, ...]
    """Ascending: bracket `i` holds for more than `starts[i - 1]` input tokens."""
    rates: tuple[Rate | None, ...]
    """One more than `starts`; None: unpriced."""

    def rate_for(self, input_tokens: int) -> Rate | None:
        """The rate of a request with this much input: a bracket begins strictly above its start."""
        return self.rates[bisect_left(self.starts, input_tokens)]


UNPRICED = Segment(-FOREVER_MS, FOREVER_MS, (), (None,))

NOTHING_COUNTED = Rate("", "", "nothing was counted", 0, MappingProxyType({}))
"""The rate of a record that used nothing: a refused or failed call."""


def rate_from_decimals(
    provider: str, model: str, basis: str, prices: Mapping[str, Decimal | None], book: str = ""
) -> Rate:
    """A rate from exact prices a unit; the scale is the least that keeps every digit."""
    known = [price for price in prices.values() if price is not None]
    scale = max(map(_decimals, known), default=0)
    return Rate(
        provider,
        model,
        basis,
        scale,
        MappingProxyType(
            {
                kind: None if price is None else _scaled(price, scale)
                for kind, price in sorted(prices.items())
            }
        ),
        book,
    )


def _decimals(price: Decimal) -> int:
    """How many decimals a price needs; trailing zeros don't count."""
    if not price:
        return 0
    _, digits, exponent = price.as_tuple()
    places = -int(exponent)
    for digit in reversed(digits):
        if digit or places <= 0:
            break
        places -= 1
    return max(0, places)


def _scaled(price: Decimal, scale: int) -> int:
    """The price as a whole number of 10^-scale; exact by construction, whatever the context."""
    sign, digits, exponent = price.as_tuple()
    number = int("".join(map(str, digits)) or "0")
    shift = scale + int(exponent)
    whole = number * int(10**shift) if shift >= 0 else number // int(10**-shift)
    return -whole if sign else whole
