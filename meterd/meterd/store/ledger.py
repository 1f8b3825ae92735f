"""The ledger's writer: what one transaction adds, from the batch's columns to the rollups.

    begin ─ add(batch) … ─ flush ─▶ ledger rows, runs, rollups, watermarks, leases: one commit

Rows are written as each batch comes, everything else once at the end: a transaction of many
batches touches a rollup row, a producer or a lease once. Nothing is remembered of a
transaction that was rolled back.
"""

from __future__ import annotations

import hashlib
from itertools import repeat
from typing import TYPE_CHECKING

from meterd.errors import SequenceGap
from meterd.ids import LeaseId, Sequence
from meterd.store import rollup
from meterd.store.groups import UNCOUNTED, Grouper, rare_sums, summed
from meterd.store.interning import BY_TOKENS, REFUSED, REQUEST
from meterd.store.ledger_row import PLAIN, pack

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from meterd.store.batch import PlacedBatch, Quarantined
    from meterd.store.calendar import Calendar
    from meterd.store.groups import Grouping, Totals
    from meterd.store.interning import Interning, KindRow, Tag
    from meterd.store.leases import LeaseBook
    from meterd.store.naming import OwnNames
    from meterd.store.producers import Producers, ProducerState
    from meterd.store.quotes import Quotes
    from meterd.store.runs import Runs

_INSERT = (
    "INSERT INTO ledger (tag, kind, billed_at_ms, duration_ms, input_tokens, cache_read_tokens, "
    "output_tokens, reasoning_tokens, input_bytes, rate, rest) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class Ledger:
    """Adds batches to the database, within a transaction that the writer begins and ends."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        interning: Interning,
        calendar: Calendar,
        quotes: Quotes,
        own_names: OwnNames,
        producers: Producers,
        leases: LeaseBook,
        runs: Runs,
    ) -> None:
        self._connection = connection
        self._interning = interning
        self._calendar = calendar
        self._quotes = quotes
        self._own_names = own_names
        self._producers = producers
        self._leases = leases
        self._runs = runs
        self.deltas = rollup.Deltas()

    def begin(self) -> None:
        """A transaction has begun."""
        self.deltas = rollup.Deltas()

    def add(self, batch: PlacedBatch) -> Sequence:
        """Add what is new of a batch; returns the producer's watermark.

        Raises:
            SequenceGap: nothing was written.
        """
        producer = self._producers.get(batch.producer)
        known = producer.watermark + 1 - batch.first_sequence
        if known < 0:
            raise SequenceGap(
                f"the batch begins at sequence {batch.first_sequence}, the ledger has "
                f"{producer.watermark}: what lies between has to be declared lost first"
            )
        self._producers.seen(producer, batch)
        if known < len(batch):
            batch = batch.between(known, len(batch))
            tags = [self._interning.tag(client, project) for client, project in batch.tags]
            kinds = [self._interning.kind(kind) for kind in batch.kinds]
            start = 0
            for kept in batch.quarantined:
                self._rows(batch.between(start, kept.position), producer, tags, kinds)
                self._quarantine(batch, kept)
                start = kept.position + 1
            self._rows(batch.between(start, len(batch)), producer, tags, kinds)
            producer.watermark = batch.last_sequence
        return Sequence(producer.watermark)

    def flush(self) -> None:
        """Write what was gathered, before the commit."""
        self._runs.flush()
        self._producers.flush()
        self._leases.flush(self._producers)
        deltas = self.deltas
        if not deltas.plains:
            return
        execute_many = self._connection.executemany
        # In the order of the table, so that a page is visited once.
        execute_many(
            rollup.UPSERT_DAY,
            [(*key, *deltas.plains[key]) for key in sorted(deltas.plains)],
        )
        months = deltas.month_plains()
        execute_many(rollup.UPSERT_MONTH, [(*key, *months[key]) for key in sorted(months)])
        if deltas.extras:
            self._flush_extras(deltas)

    def _flush_extras(self, deltas: rollup.Deltas) -> None:
        connection = self._connection
        for extras, add, select, update in (
            (deltas.extras, rollup.ADD_EXTRA_DAY, rollup.TOOLS_DAY, rollup.SET_TOOLS_DAY),
            (
                deltas.month_extras(),
                rollup.ADD_EXTRA_MONTH,
                rollup.TOOLS_MONTH,
                rollup.SET_TOOLS_MONTH,
            ),
        ):
            connection.executemany(add, [(*extra.sums, *key) for key, extra in extras.items()])
            for key, extra in extras.items():
                if extra.tool_calls:
                    (stored,) = connection.execute(select, key).fetchone()
                    tools = rollup.merged_tools(stored, extra.tool_calls)
                    connection.execute(update, (tools, *key))

    def _quarantine(self, batch: PlacedBatch, kept: Quarantined) -> None:
        self._connection.execute(
            "INSERT INTO quarantine VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                batch.producer,
                batch.first_sequence + kept.position,
                kept.reason,
                kept.schema,
                kept.payload,
                batch.received_at_ms,
            ),
        )

    def _rows(
        self, batch: PlacedBatch, producer: ProducerState, tags: list[Tag], kinds: list[KindRow]
    ) -> None:
        """Write consecutive rows, and gather what they add."""
        if not len(batch):
            return
        uncounted = batch.late | self._duplicates(batch)
        grouping = Grouper(batch, tags, kinds, self._calendar, self._quotes).grouped(uncounted)
        none = repeat(0)
        tag_ids = [tags[dimension.tag].id for dimension in batch.dimensions]
        kind_ids = [kinds[dimension.kind].id for dimension in batch.dimensions]
        self._connection.executemany(
            _INSERT,
            zip(
                map(tag_ids.__getitem__, batch.dimension),
                map(kind_ids.__getitem__, batch.dimension),
                batch.billed_at_ms,
                batch.duration_ms or none,
                batch.input_tokens or none,
                batch.cache_read_tokens or none,
                batch.output_tokens or none,
                batch.reasoning_tokens or none,
                batch.input_bytes or none,
                grouping.rates,
                self._rest(batch),
                strict=False,
            ),
        )
        first_row = self._runs.append(batch, producer.number)
        if uncounted:
            self._note_uncounted(batch, tags, uncounted, first_row)
        totals = summed(batch, grouping)
        self._gather(batch, tags, kinds, grouping, totals)

    @staticmethod
    def _rest(batch: PlacedBatch) -> Iterable[bytes | None]:
        if not batch.rare:
            return repeat(None)
        rest: list[bytes | None] = [None] * len(batch)
        for at, rare in batch.rare.items():
            rest[at] = pack(rare, batch.billed_at_ms[at])
        return rest

    def _duplicates(self, batch: PlacedBatch) -> frozenset[int]:
        """Positions whose dedupe_id was counted before; the others' ids are kept."""
        found = []
        for at, rare in sorted(batch.rare.items()):
            if rare.dedupe_id:
                digest = hashlib.sha256(rare.dedupe_id.encode()).digest()[:16]
                cursor = self._connection.execute(
                    "INSERT INTO dedupe VALUES (?, ?) ON CONFLICT DO NOTHING",
                    (digest, batch.received_at_ms),
                )
                if not cursor.rowcount:
                    found.append(at)
        return frozenset(found)

    def _note_uncounted(
        self, batch: PlacedBatch, tags: list[Tag], uncounted: frozenset[int], first_row: int
    ) -> None:
        none = [0] * len(batch)
        inputs, outputs = batch.input_tokens or none, batch.output_tokens or none
        self._connection.executemany(
            "INSERT INTO uncounted VALUES (?, ?, ?, ?)",
            [
                (
                    tags[batch.dimensions[batch.dimension[at]].tag].client,
                    first_row + at,
                    "late" if at in batch.late else "duplicate",
                    inputs[at] + outputs[at],
                )
                for at in sorted(uncounted)
            ],
        )

    def _gather(
        self,
        batch: PlacedBatch,
        tags: list[Tag],
        kinds: list[KindRow],
        grouping: Grouping,
        totals: Totals,
    ) -> None:
        """Add the sums of each group to the transaction's deltas."""
        keys: list[tuple[int, ...] | None] = []
        deltas = self.deltas
        plains, months = deltas.plains, deltas.months
        place_of = self._own_names.place
        for number, (dimension, day, rate, is_failed) in enumerate(grouping.groups):
            records = totals.records[number]
            if not records:
                keys.append(None)
                continue
            tag_at, kind_at, lease = batch.dimensions[dimension]
            kind = kinds[kind_at]
            client, tag, period, posted = place_of(tags[tag_at], day)
            key = (client, day.number, tag, kind.model, rate or 0, posted)
            keys.append(key)
            months[client, day.number] = period
            took, gave = totals.input_tokens[number], totals.output_tokens[number]
            counts_as = kind.counts_as
            requests = records if counts_as == REQUEST else 0
            if counts_as == BY_TOKENS and not is_failed:
                requests = records
            plain = plains.get(key)
            if plain is None:
                plains[key] = [
                    requests,
                    took,
                    totals.cache_read_tokens[number],
                    gave,
                    totals.reasoning_tokens[number],
                ]
            else:
                plain[0] += requests
                plain[1] += took
                plain[2] += totals.cache_read_tokens[number]
                plain[3] += gave
                plain[4] += totals.reasoning_tokens[number]
            estimated = kind.kind.estimated
            if is_failed or estimated or counts_as == REFUSED:
                deltas.extra(key).add(
                    (
                        records if is_failed else 0,
                        records if counts_as == REFUSED else 0,
                        0,
                        0,
                        0,
                        0,
                        (took if estimated & 1 else 0) + (gave if estimated & 2 else 0),
                    )
                )
            if lease:
                self._leases.settle(LeaseId(lease), key, period, took + gave)
        for at, rare in batch.rare.items():
            if grouping.group[at] != UNCOUNTED and rare != PLAIN:
                rare_key = keys[grouping.group[at]]
                assert rare_key is not None
                sums = rare_sums(rare)
                if any(sums) or rare.tool_calls:
                    deltas.extra(rare_key).add(sums, rare.tool_calls)
