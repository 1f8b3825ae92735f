"""What usage costs under a rate: whole numbers times whole numbers, exact, unrounded.

Linear in every count, so the cost of a sum is the sum of the costs: a rollup row of one rate
is priced as if it were one request. Rounding happens once, on the invoice line.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

from meterd.money import exact
from meterd.pricing.rate_card import (
    AUDIO_INPUT,
    AUDIO_OUTPUT,
    CACHE_READ,
    CACHE_WRITE,
    CACHE_WRITE_LONG,
    INPUT,
    OUTPUT,
    OVERLAPS,
    REASONING,
    REQUEST,
    TOOL,
    Rate,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


FACTORS = (
    "requests",
    "input_tokens",
    "cache_read_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cache_write_tokens",
    "cache_write_long_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
)


class Counts(Protocol):
    """What was used: one record's, or the sums of many under one rate."""

    @property
    def input_tokens(self) -> int: ...
    @property
    def cache_read_tokens(self) -> int: ...
    @property
    def cache_write_tokens(self) -> int: ...
    @property
    def cache_write_long_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def reasoning_tokens(self) -> int: ...
    @property
    def audio_input_tokens(self) -> int: ...
    @property
    def audio_output_tokens(self) -> int: ...


def cost_of(rate: Rate, counts: Counts, tools: Mapping[str, int], requests: int) -> Decimal:
    """What usage costs, in US dollars.

    Args:
        counts: parts are parts of their whole, cached and audio input of `input_tokens`.
        tools: calls by the book's name of the tool.
        requests: for a price by the request.
    """
    units = 0
    for kind, amount in _leaves(counts).items():
        if amount:
            units += amount * (rate.price_of(kind) or 0)
    for tool, calls in tools.items():
        units += calls * (rate.price_of(TOOL + tool) or 0)
    units += requests * (rate.price_of(REQUEST) or 0)
    with exact():
        return Decimal(units).scaleb(-rate.scale)


def factors_of(rate: Rate, scale: int) -> tuple[int, ...] | None:
    """What one more of each count adds to the cost, × 10^-scale; parts as parts of their whole.

    In the order of `FACTORS`. None: some price needs more decimals.
    """
    if rate.scale > scale:
        return None
    shift = int(10 ** (scale - rate.scale))

    def price(kind: str) -> int:
        return (rate.price_of(kind) or 0) * shift

    took, gave, write = price(INPUT), price(OUTPUT), price(CACHE_WRITE)
    return (
        price(REQUEST),
        took,
        price(CACHE_READ) - took,
        gave,
        price(REASONING) - gave,
        write - took,
        price(CACHE_WRITE_LONG) - write,
        price(AUDIO_INPUT) - took,
        price(AUDIO_OUTPUT) - gave,
    )


def can_price(rate: Rate, counts: Counts, tools: Mapping[str, int]) -> bool:
    """Whether every kind that was counted has a price; else the record is unpriced, never free."""
    if any(
        amount and rate.price_of(kind) is None for kind, amount in amounts_of(counts).items()
    ) or any(calls and rate.price_of(TOOL + tool) is None for tool, calls in tools.items()):
        return False
    amounts = amounts_of(counts)
    return not any(
        amounts[one] and amounts[other] and rate.has_own(one) and rate.has_own(other)
        for one, other in OVERLAPS
    )


def amounts_of(counts: Counts) -> dict[str, int]:
    """Each kind's tokens, parts inside their whole."""
    return {
        INPUT: counts.input_tokens,
        CACHE_READ: counts.cache_read_tokens,
        CACHE_WRITE: counts.cache_write_tokens,
        CACHE_WRITE_LONG: counts.cache_write_long_tokens,
        AUDIO_INPUT: counts.audio_input_tokens,
        OUTPUT: counts.output_tokens,
        REASONING: counts.reasoning_tokens,
        AUDIO_OUTPUT: counts.audio_output_tokens,
    }


def _leaves(counts: Counts) -> dict[str, int]:
    """Each token under one kind alone: the wholes without their parts."""
    return {
        INPUT: counts.input_tokens
        - counts.cache_read_tokens
        - counts.cache_write_tokens
        - counts.audio_input_tokens,
        CACHE_READ: counts.cache_read_tokens,
        CACHE_WRITE: counts.cache_write_tokens - counts.cache_write_long_tokens,
        CACHE_WRITE_LONG: counts.cache_write_long_tokens,
        AUDIO_INPUT: counts.audio_input_tokens,
        OUTPUT: counts.output_tokens - counts.reasoning_tokens - counts.audio_output_tokens,
        REASONING: counts.reasoning_tokens,
        AUDIO_OUTPUT: counts.audio_output_tokens,
    }
