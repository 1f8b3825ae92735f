"""Runs: which rows of the ledger are whose, and from when: one small row for up to 4,096.

A run is consecutive rows with consecutive sequences of one producer. It saves two columns a
record, and is the sparse index of times that `records` looks into first.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

    from meterd.store.batch import PlacedBatch

ROWS_MAX = 4_096


@dataclass(slots=True)
class Run:
    """Rows `[first_row, end_row)` of one producer; times are `billed_at`, both inclusive."""

    first_row: int
    end_row: int
    producer: int
    first_sequence: int
    least_ms: int
    greatest_ms: int
    received_at_ms: int
    skew_ms: int


class Runs:
    """The runs of the rows being appended. Writer's thread only, inside its transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._pending: list[Run] = []
        self._last: Run | None = None
        self.next_row = 1
        self.forget()

    def forget(self) -> None:
        """Learn from the database where the ledger ends: it was opened, or rolled back."""
        self._pending.clear()
        row = self._connection.execute("SELECT * FROM runs ORDER BY first_row DESC").fetchone()
        self._last = Run(*row) if row else None
        (newest,) = self._connection.execute("SELECT max(id) FROM ledger").fetchone()
        self.next_row = max((newest or 0) + 1, self._last.end_row if self._last else 1)

    def append(self, batch: PlacedBatch, producer: int) -> int:
        """Note that a batch's rows were appended; returns the first one's number."""
        first_row = self.next_row
        self.next_row += len(batch)
        if not self._extended(batch, producer, first_row):
            for start in range(0, len(batch), ROWS_MAX):
                self._begin(batch, producer, first_row, start)
        return first_row

    def flush(self) -> None:
        """Write the runs that are new or longer than before."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [astuple(run) for run in self._pending],
        )
        self._pending.clear()

    def _extended(self, batch: PlacedBatch, producer: int, first_row: int) -> bool:
        """Whether the batch only makes the last run longer: an idle producer's single records."""
        last = self._last
        if (
            last is None
            or last.producer != producer
            or last.end_row != first_row
            or first_row - last.first_row + len(batch) > ROWS_MAX
            or last.first_sequence + first_row - last.first_row != batch.first_sequence
        ):
            return False
        last.end_row = first_row + len(batch)
        last.least_ms = min(last.least_ms, *batch.billed_at_ms)
        last.greatest_ms = max(last.greatest_ms, *batch.billed_at_ms)
        last.received_at_ms, last.skew_ms = batch.received_at_ms, batch.skew_ms
        if not self._pending or self._pending[-1] is not last:
            self._pending.append(last)
        return True

    def _begin(self, batch: PlacedBatch, producer: int, first_row: int, start: int) -> None:
        times = batch.billed_at_ms[start : start + ROWS_MAX]
        self._last = Run(
            first_row + start,
            first_row + start + len(times),
            producer,
            batch.first_sequence + start,
            min(times),
            max(times),
            batch.received_at_ms,
            batch.skew_ms,
        )
        self._pending.append(self._last)
