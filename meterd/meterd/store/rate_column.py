"""The rate of each record of a batch, by column: one look a kind, and one for what stands out.

    kind of each record ─▶ rate of its kind ─▶ the column `rate`

Nearly always a kind has one rate for all of a batch, or one by the size of its input. A record
needs a look of its own, eight times the work, only at the edge of a price in time, with rare
counts, or where its client has prices of its own.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from meterd.store.interning import BY_TOKENS, CONTINUATION, REFUSED
from meterd.store.ledger_row import PLAIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.pricing.rate_card import Rate
    from meterd.store.batch import PlacedBatch, Rare
    from meterd.store.interning import KindRow, Tag
    from meterd.store.quotes import Quote, Quotes

NOBODY = ""
"""The client of a quote that holds for all who have no prices of their own."""


class Counted(NamedTuple):
    """One record's counts, as prices take them."""

    input_tokens: int
    cache_read_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cache_write_tokens: int
    cache_write_long_tokens: int
    audio_input_tokens: int
    audio_output_tokens: int


def rate_column(
    batch: PlacedBatch, tags: Sequence[Tag], kinds: Sequence[KindRow], quotes: Quotes
) -> Sequence[int | None]:
    """Each record's rate; None: unpriced."""
    first, last = min(batch.billed_at_ms), max(batch.billed_at_ms)
    most_input = max(batch.input_tokens) if batch.input_tokens else 0
    rates: list[int | None] = []
    special: set[int] = set()
    bracketed: dict[int, Quote] = {}
    for at, kind in enumerate(kinds):
        quote = quotes.quote(kind, NOBODY, first)
        rates.append(quote.ids[0])
        if not _is_plain(quote, kind, last, most_input):
            if last < quote.to_ms and all(rate and rate.is_total for rate in quote.rates):
                bracketed[at] = quote
            else:
                special.add(at)
    column = list(map(rates.__getitem__, batch.kind))
    if bracketed:
        _by_bracket(batch, bracketed, column)
    for at in _to_look_at(batch, tags, quotes, special):
        column[at] = _rate_at(batch, at, tags[batch.tag[at]], kinds[batch.kind[at]], quotes)
    return column


def _by_bracket(batch: PlacedBatch, bracketed: dict[int, Quote], column: list[int | None]) -> None:
    """The rates of records of kinds whose price depends on the input's size and on nothing else."""
    ids = {kind: quote.ids for kind, quote in bracketed.items()}
    starts = {kind: quote.starts for kind, quote in bracketed.items()}
    assert batch.input_tokens is not None  # else none of them would reach a bracket
    for at, (kind, took) in enumerate(zip(batch.kind, batch.input_tokens, strict=True)):
        if kind in ids:
            column[at] = ids[kind][bisect_left(starts[kind], took)]


def _is_plain(quote: Quote, kind: KindRow, last: int, most_input: int) -> bool:
    """Whether all of a kind's ordinary records take the first rate of its quote."""
    rate = quote.rates[0]
    return (
        last < quote.to_ms
        and (not quote.starts or most_input <= quote.starts[0])
        and (
            kind.counts_as not in (BY_TOKENS, REFUSED, CONTINUATION)
            if rate is None
            else rate.is_total
        )
    )


def _to_look_at(
    batch: PlacedBatch, tags: Sequence[Tag], quotes: Quotes, special: set[int]
) -> set[int]:
    positions = set(batch.rare)
    if special:
        positions.update(at for at, kind in enumerate(batch.kind) if kind in special)
    if quotes.has_any_own:
        own = {at for at, tag in enumerate(tags) if quotes.has_own(tag.client_name)}
        positions.update(at for at, tag in enumerate(batch.tag) if tag in own)
    return positions


def _rate_at(batch: PlacedBatch, at: int, tag: Tag, kind: KindRow, quotes: Quotes) -> int | None:
    quote = quotes.quote(kind, tag.client_name, batch.billed_at_ms[at])
    bracket = quote.bracket(batch.input_tokens[at] if batch.input_tokens else 0)
    rate, rare = quote.rates[bracket], batch.rare.get(at)
    if rate is not None and (rate.is_total if rare is None else _is_sure(rate, rare)):
        return quote.ids[bracket]
    counts = counted(batch, at)
    tool_calls = batch.rare.get(at, PLAIN).tool_calls
    return quotes.rate_of(quote, counts, tool_calls, is_request=is_request(kind, counts))


def _is_sure(rate: Rate, rare: Rare) -> bool:
    """Whether a record with rare counts takes the rate without a look at each of them: no tools,
    and no audio, which may share tokens with what came from the cache."""
    has_more = rare.tool_calls or rare.audio_input_tokens or rare.audio_output_tokens
    return rate.is_whole and not has_more


def is_request(kind: KindRow, counts: Counted) -> bool:
    """Whether a record counts as a request."""
    if kind.counts_as == BY_TOKENS:
        return bool(counts.input_tokens or counts.output_tokens)
    return kind.counts_as not in (REFUSED, CONTINUATION)


def counted(batch: PlacedBatch, at: int) -> Counted:
    """The counts of the record at a position."""
    rare = batch.rare.get(at, PLAIN)
    return Counted(
        batch.input_tokens[at] if batch.input_tokens else 0,
        batch.cache_read_tokens[at] if batch.cache_read_tokens else 0,
        batch.output_tokens[at] if batch.output_tokens else 0,
        batch.reasoning_tokens[at] if batch.reasoning_tokens else 0,
        rare.cache_write_tokens,
        rare.cache_write_long_tokens,
        rare.audio_input_tokens,
        rare.audio_output_tokens,
    )
