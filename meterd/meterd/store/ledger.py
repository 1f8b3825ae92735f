"""The ledger's writer: what one transaction adds, from the batch's columns to the rollups.

    begin ─ add(batch) … ─ flush ─▶ ledger rows, runs, rollups, watermarks, leases: one commit

Rows are written as each batch comes, everything else once at the end: a transaction of many
batches touches a rollup row, a producer or a lease once. Nothing is remembered of a
transaction that was rolled back.
"""

from __future__ import annotations

import hashlib
import operator
from itertools import repeat
from typing import TYPE_CHECKING

from meterd.errors import SequenceGap
from meterd.ids import LeaseId, Sequence
from meterd.store import rollup, totals
from meterd.store.fold import Fold
from meterd.store.ledger_row import pack
from meterd.store.rate_column import rate_column

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence as Column

    from meterd.store.batch import PlacedBatch, Quarantined
    from meterd.store.calendar import Calendar
    from meterd.store.interning import Interning, KindRow, Tag
    from meterd.store.leases import LeaseBook
    from meterd.store.naming import OwnNames
    from meterd.store.producers import Producers
    from meterd.store.quotes import Quotes
    from meterd.store.runs import Runs

_COLUMNS = (
    "tag, kind, billed_at_ms, duration_ms, input_tokens, cache_read_tokens, output_tokens, "
    "reasoning_tokens, input_bytes, rate"
)
_INSERT = f"INSERT INTO ledger ({_COLUMNS}, rest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_PLAIN = f"INSERT INTO ledger ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
"""For batches without anything rare: `sqlite3` looks for an adapter of each None it is given,
which costs 0.2 µs a row."""


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
        self.fold = Fold(connection, calendar, own_names)
        self.begin()

    def begin(self) -> None:
        """A transaction has begun, or the last one ended."""
        self.deltas = rollup.Deltas()
        self._first_row = self._runs.next_row
        self.tags: dict[int, Tag] = {}
        """Those that the transaction's rows can have, by number."""
        self._skipped: set[int] = set()
        self._least_ms, self._greatest_ms = 1 << 62, -(1 << 62)

    def forget(self) -> None:
        """A transaction was rolled back."""
        self.fold.forget()
        self.begin()

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
            tags = self._interning.tags(batch.tags)
            kinds = [self._interning.kind(kind) for kind in batch.kinds]
            start = 0
            for kept in batch.quarantined:
                self._rows(batch.between(start, kept.position), tags, kinds)
                self._quarantine(batch, kept)
                start = kept.position + 1
            self._rows(batch.between(start, len(batch)), tags, kinds)
            producer.watermark = batch.last_sequence
        return Sequence(producer.watermark)

    def flush(self) -> None:
        """Write what was gathered, before the commit."""
        self._runs.flush()
        self._producers.flush()
        self._leases.flush(self._producers)
        if self.tags:
            self.fold.fold(
                self._first_row,
                self.tags,
                self._least_ms,
                self._greatest_ms,
                self._skipped,
                (self._interning.kinds_max, self._interning.rates_max),
            )
        deltas = self.deltas
        if deltas.plains:
            execute_many = self._connection.executemany
            execute_many(
                rollup.UPSERT_DAY, [(*key, *plain) for key, plain in sorted(deltas.plains.items())]
            )
            months = deltas.month_plains()
            execute_many(
                rollup.UPSERT_MONTH, [(*key, *plain) for key, plain in sorted(months.items())]
            )
            self._flush_extras(deltas)
        if self.tags or deltas.plains:
            totals.renew(self._connection, self._periods_touched(deltas))

    @staticmethod
    def _periods_touched(deltas: rollup.Deltas) -> set[tuple[int, int]]:
        return {(client, period) for (client, _), period in deltas.months.items()}

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

    def _rows(self, batch: PlacedBatch, tags: list[Tag], kinds: list[KindRow]) -> None:
        """Write consecutive rows, and note what they need beside."""
        if not len(batch):
            return
        none = repeat(0)
        tag_ids = [tag.id for tag in tags]
        kind_ids = [kind.id for kind in kinds]
        rest = (self._rest(batch),) if batch.rare else ()
        self._connection.executemany(
            _INSERT if batch.rare else _INSERT_PLAIN,
            zip(
                map(tag_ids.__getitem__, batch.tag),
                map(kind_ids.__getitem__, batch.kind),
                batch.billed_at_ms,
                batch.duration_ms or none,
                batch.input_tokens or none,
                batch.cache_read_tokens or none,
                batch.output_tokens or none,
                batch.reasoning_tokens or none,
                batch.input_bytes or none,
                rates := rate_column(batch, tags, kinds, self._quotes),
                *rest,
                strict=False,
            ),
        )
        first_row = self._runs.append(batch, self._producers.get(batch.producer).number)
        duplicates = self._duplicates(batch) if batch.rare else frozenset[int]()
        uncounted = batch.late | duplicates
        if uncounted:
            self._note_uncounted(batch, tags, uncounted, duplicates, first_row)
        self._note_times(batch, uncounted)
        self.tags.update(zip(tag_ids, tags, strict=True))
        for at in batch.rare.keys() - uncounted:
            self._add_rare(batch, at, tags[batch.tag[at]], kinds[batch.kind[at]], rates[at])
        if batch.lease:
            self._settle(batch, tags, kinds, batch.lease, uncounted)

    def _note_times(self, batch: PlacedBatch, uncounted: frozenset[int]) -> None:
        times = batch.billed_at_ms
        if uncounted:
            times = [moment for at, moment in enumerate(times) if at not in uncounted]
        if times:
            self._least_ms = min(self._least_ms, min(times))
            self._greatest_ms = max(self._greatest_ms, max(times))

    def _add_rare(
        self, batch: PlacedBatch, at: int, tag: Tag, kind: KindRow, rate: int | None
    ) -> None:
        """What SQL can't add up: it stands in the row's packed column."""
        rare = batch.rare[at]
        sums = rollup.rare_sums(rare)
        if not any(sums) and not rare.tool_calls:
            return
        moment = batch.billed_at_ms[at]
        day = self._calendar.day(moment).number
        (client, shown, period, posted), _ = self._own_names.place_at(tag, moment)
        self.deltas.months[client, day] = period
        key = (client, day, shown, kind.model, rate or 0, posted)
        self.deltas.extra(key).add(sums, rare.tool_calls)

    def _settle(
        self,
        batch: PlacedBatch,
        tags: list[Tag],
        kinds: list[KindRow],
        leases: Column[int],
        uncounted: frozenset[int],
    ) -> None:
        """Add the tokens of each lease's records to it."""
        tokens: dict[int, int] = {}
        example: dict[int, int] = {}
        none = [0] * len(batch)
        used = list(map(operator.add, batch.input_tokens or none, batch.output_tokens or none))
        for at, (lease, amount) in enumerate(zip(leases, used, strict=True)):
            if lease and at not in uncounted:
                tokens[lease] = tokens.get(lease, 0) + amount
                example.setdefault(lease, at)
        for number, amount in tokens.items():
            lease = LeaseId(number)
            self._leases.settle(lease, amount)
            lent_in = self._leases.period_of(lease)
            tag = tags[batch.tag[example[number]]]
            if lent_in is not None and not self._is_in(lent_in, tag, batch):
                for at, its in enumerate(leases):
                    if its == number and at not in uncounted:
                        self._shift(batch, at, tags, kinds, lent_in, used[at])

    def _is_in(self, period: int, tag: Tag, batch: PlacedBatch) -> bool:
        """Whether all of a batch lies in a client's period."""
        bounds = self._calendar.period(tag.client, tag.client_name, batch.billed_at_ms[0])
        return (
            bounds.period == period
            and bounds.start_ms <= min(batch.billed_at_ms)
            and max(batch.billed_at_ms) < bounds.end_ms
        )

    def _shift(
        self,
        batch: PlacedBatch,
        at: int,
        tags: list[Tag],
        kinds: list[KindRow],
        lent_in: int,
        tokens: int,
    ) -> None:
        place, _ = self._own_names.place_at(tags[batch.tag[at]], batch.billed_at_ms[at])
        if place.period != lent_in and tokens:
            model = kinds[batch.kind[at]].model
            periods = (place.period, lent_in)
            self._leases.shift(place.client, place.tag, model, periods, tokens)

    @staticmethod
    def _rest(batch: PlacedBatch) -> list[bytes | None]:
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
        self,
        batch: PlacedBatch,
        tags: list[Tag],
        uncounted: frozenset[int],
        duplicates: frozenset[int],
        first_row: int,
    ) -> None:
        """Note why each isn't counted; of a late duplicate that it is one, or both would be
        counted once they are accepted."""
        none = [0] * len(batch)
        inputs, outputs = batch.input_tokens or none, batch.output_tokens or none
        self._skipped.update(first_row + at for at in uncounted)
        self._connection.executemany(
            "INSERT INTO uncounted VALUES (?, ?, ?, ?)",
            [
                (
                    tags[batch.tag[at]].client,
                    first_row + at,
                    "duplicate" if at in duplicates else "late",
                    inputs[at] + outputs[at],
                )
                for at in sorted(uncounted)
            ],
        )
