"""Groups: the records of a batch that add to the same row of the rollup.

    dimension of each record ─▶ group of each record ─▶ sums by group

Nearly always a record's group is its dimension: one day, one rate. Only those that need a
look of their own get another: at the edge of a day or a price, near a bracket, failed, or
with rare counts. So the pass over all records is a few list operations.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

from meterd.store.interning import BY_TOKENS, CONTINUATION, REFUSED, KindRow, Tag
from meterd.store.ledger_row import PLAIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.store.batch import PlacedBatch, Rare
    from meterd.store.calendar import Calendar, Day
    from meterd.store.quotes import Quote, Quotes

UNCOUNTED = -1
"""The group of what no rollup counts: the last slot of each list of sums, never read."""


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


class Group(NamedTuple):
    """What the records of a group have in common."""

    dimension: int
    day: Day
    rate: int | None
    is_failed: bool = False
    """They count as failed requests and not as requests."""


class Grouping(NamedTuple):
    """The groups of a batch, each record's group, and each record's rate."""

    groups: list[Group]
    group: Sequence[int]
    rates: Sequence[int | None]


class Grouper:
    """Groups the records of one batch. Writer's thread only."""

    def __init__(
        self,
        batch: PlacedBatch,
        tags: Sequence[Tag],
        kinds: Sequence[KindRow],
        calendar: Calendar,
        quotes: Quotes,
    ) -> None:
        self._batch = batch
        self._kinds = [kinds[dimension.kind] for dimension in batch.dimensions]
        self._clients = [tags[dimension.tag].client_name for dimension in batch.dimensions]
        self._calendar = calendar
        self._quotes = quotes
        self._numbers: dict[Group, int] = {}
        self._groups: list[Group] = []

    def grouped(self, uncounted: frozenset[int]) -> Grouping:
        """The grouping; positions in `uncounted` are in no group."""
        batch = self._batch
        times = batch.billed_at_ms
        first, last = min(times), max(times)
        day = self._calendar.day(first)
        most_input = max(batch.input_tokens) if batch.input_tokens else 0
        rates, special = self._base_rates(first, last, most_input)
        self._groups = [Group(at, day, rate) for at, rate in enumerate(rates)]
        group: Sequence[int] = batch.dimension
        rate_column: list[int | None] = list(map(rates.__getitem__, batch.dimension))
        positions = self._to_look_at(special, is_one_day=last < day.end_ms)
        if positions or uncounted:
            group = list(group)
            for at in positions:
                group[at], rate_column[at] = self._placed(at)
            for at in uncounted:
                group[at] = UNCOUNTED
        return Grouping(self._groups, group, rate_column)

    def _base_rates(
        self, first: int, last: int, most_input: int
    ) -> tuple[list[int | None], set[int]]:
        """Each dimension's rate, and the dimensions whose records need a look each."""
        rates: list[int | None] = []
        special: set[int] = set()
        seen: dict[tuple[int, str], tuple[int | None, bool]] = {}
        for at, (kind, client) in enumerate(zip(self._kinds, self._clients, strict=True)):
            key = (kind.id, client)
            known = seen.get(key)
            if known is None:
                quote = self._quotes.quote(kind, client, first)
                known = seen[key] = _base(quote, kind, last, most_input)
            rates.append(known[0])
            if known[1]:
                special.add(at)
        return rates, special

    def _to_look_at(self, special: set[int], *, is_one_day: bool) -> list[int]:
        batch = self._batch
        if not is_one_day:
            return list(range(len(batch)))
        positions = (
            [at for at, dimension in enumerate(batch.dimension) if dimension in special]
            if special
            else []
        )
        if batch.rare:
            return sorted({*positions, *batch.rare})
        return positions

    def _placed(self, at: int) -> tuple[int, int | None]:
        """One record's group and rate."""
        batch = self._batch
        dimension = batch.dimension[at]
        kind = self._kinds[dimension]
        moment = batch.billed_at_ms[at]
        counts = counted(batch, at)
        quote = self._quotes.quote(kind, self._clients[dimension], moment)
        is_failed = kind.counts_as == BY_TOKENS and not (
            counts.input_tokens or counts.output_tokens
        )
        is_request = not is_failed and kind.counts_as not in (REFUSED, CONTINUATION)
        rare = batch.rare.get(at, PLAIN)
        rate = self._quotes.rate_of(quote, counts, rare.tool_calls, is_request)
        group = Group(dimension, self._calendar.day(moment), rate, is_failed)
        number = self._numbers.get(group)
        if number is None:
            number = self._numbers[group] = len(self._groups)
            self._groups.append(group)
        return number, rate


def _base(quote: Quote, kind: KindRow, last: int, most_input: int) -> tuple[int | None, bool]:
    """The rate of a kind's ordinary records, and whether they need a look each all the same."""
    rate = quote.rates[0]
    is_plain = (
        last < quote.to_ms
        and (not quote.starts or most_input <= quote.starts[0])
        and kind.counts_as != BY_TOKENS
        and (rate.is_total if rate is not None else kind.counts_as not in (REFUSED, CONTINUATION))
    )
    return quote.ids[0], not is_plain


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


class Totals(NamedTuple):
    """Sums by group; the last slot is what no group counts."""

    records: list[int]
    input_tokens: list[int]
    cache_read_tokens: list[int]
    output_tokens: list[int]
    reasoning_tokens: list[int]


def summed(batch: PlacedBatch, grouping: Grouping) -> Totals:
    """The columns that every record has, added up by group."""
    slots = len(grouping.groups) + 1
    records, inputs, cached, outputs, reasoned = (
        [0] * slots, [0] * slots, [0] * slots, [0] * slots, [0] * slots,
    )  # fmt: skip
    none = repeat(0)
    if batch.cache_read_tokens is None and batch.reasoning_tokens is None:
        for group, took, gave in zip(
            grouping.group, batch.input_tokens or none, batch.output_tokens or none, strict=False
        ):
            records[group] += 1
            inputs[group] += took
            outputs[group] += gave
    else:
        for group, took, read, gave, thought in zip(
            grouping.group,
            batch.input_tokens or none,
            batch.cache_read_tokens or none,
            batch.output_tokens or none,
            batch.reasoning_tokens or none,
            strict=False,
        ):
            records[group] += 1
            inputs[group] += took
            cached[group] += read
            outputs[group] += gave
            reasoned[group] += thought
    return Totals(records, inputs, cached, outputs, reasoned)


def rare_sums(rare: Rare) -> tuple[int, ...]:
    """What a rare record adds, in the order of `rollup.EXTRA_COLUMNS`."""
    return (
        0,
        0,
        rare.cache_write_tokens,
        rare.cache_write_long_tokens,
        rare.audio_input_tokens,
        rare.audio_output_tokens,
        0,
    )
