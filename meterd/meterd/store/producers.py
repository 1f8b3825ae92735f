"""Producers: their watermarks, and what was last heard of them.

What a heartbeat or report says is no reason for a transaction: it waits in memory for the
next one, and is written then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meterd.errors import SequenceGap

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from meterd.ids import ProducerId
    from meterd.store.batch import PlacedBatch
    from meterd.store.values import Heartbeat, Producer

KEPT_MAX = 20_000
"""Producers held in memory between transactions."""

_COLUMNS = (
    "producer, number, service, host, pid, version, schema, watermark, highest_appended, "
    "last_seen_ms, skew_ms, open_calls, oldest_open_at_ms, ends_at, report"
)


@dataclass(slots=True)
class ProducerState:
    """One row of `producers`."""

    id: ProducerId
    number: int
    service: str = ""
    host: str = ""
    pid: int = 0
    version: str = ""
    schema: int = 1
    watermark: int = 0
    highest_appended: int = 0
    last_seen_ms: int = 0
    skew_ms: int = 0
    open_calls: int = 0
    oldest_open_at_ms: int = 0
    ends_at: int | None = None
    report: bytes = b""

    @property
    def is_finished(self) -> bool:
        """The ledger has all that there will ever be of it."""
        return self.ends_at is not None and self.watermark >= self.ends_at


class Producers:
    """All producers. Writer's thread only, inside its transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._known: dict[ProducerId, ProducerState] = {}
        self._touched: dict[ProducerId, ProducerState] = {}
        self._next_number = 1
        self.forget()

    def forget(self) -> None:
        """Drop what is in memory."""
        self._known.clear()
        self._touched.clear()
        (number,) = self._connection.execute("SELECT max(number) FROM producers").fetchone()
        self._next_number = (number or 0) + 1

    @property
    def touched(self) -> tuple[ProducerId, ...]:
        """Those whose row will be written with this transaction."""
        return tuple(self._touched)

    def get(self, producer: ProducerId) -> ProducerState:
        """A producer's state; made if it is new."""
        state = self._known.get(producer)
        if state is None:
            row = self._connection.execute(
                f"SELECT {_COLUMNS} FROM producers WHERE producer = ?", (producer,)
            ).fetchone()
            if row is None:
                state = ProducerState(producer, self._next_number)
                self._next_number += 1
                self._touched[producer] = state
            else:
                state = ProducerState(*row)
            self._known[producer] = state
        return state

    def hello(self, producer: Producer, at_ms: int) -> ProducerState:
        """A producer, or who adopted its spool, has begun a stream."""
        state = self.get(producer.id)
        if producer.service or producer.host or not producer.is_adopted:
            state.service, state.host, state.pid = producer.service, producer.host, producer.pid
            state.version, state.schema = producer.version, producer.schema
        state.last_seen_ms = max(state.last_seen_ms, at_ms)
        state.highest_appended = max(state.highest_appended, producer.next_sequence - 1)
        state.ends_at = producer.next_sequence - 1 if producer.is_adopted else None
        self._touched[producer.id] = state
        return state

    def seen(self, state: ProducerState, batch: PlacedBatch) -> None:
        """A batch came from a producer."""
        state.last_seen_ms = max(state.last_seen_ms, batch.received_at_ms)
        state.skew_ms = batch.skew_ms
        state.highest_appended = max(
            state.highest_appended, batch.highest_appended, batch.last_sequence
        )
        if state.ends_at is not None and batch.last_sequence > state.ends_at:
            state.ends_at = batch.last_sequence
        self._touched[state.id] = state

    def heard(self, heartbeat: Heartbeat) -> None:
        """A producer lives."""
        state = self.get(heartbeat.producer)
        state.last_seen_ms = max(state.last_seen_ms, heartbeat.received_at_ms)
        state.skew_ms = heartbeat.skew_ms
        state.highest_appended = max(state.highest_appended, heartbeat.highest_appended)
        state.open_calls = heartbeat.open_calls
        state.oldest_open_at_ms = heartbeat.oldest_open_at_ms
        self._touched[state.id] = state

    def reported(self, producer: ProducerId, report: bytes) -> None:
        """A producer's newest report replaces the former."""
        state = self.get(producer)
        state.report = report
        self._touched[producer] = state

    def ends(self, producer: ProducerId, last_sequence: int, at_ms: int) -> None:
        """Everything up to `last_sequence` is all there will be."""
        state = self.get(producer)
        state.ends_at = max(last_sequence, state.watermark)
        state.open_calls, state.oldest_open_at_ms = 0, 0
        state.last_seen_ms = max(state.last_seen_ms, at_ms)
        self._touched[producer] = state

    def lose(
        self, producer: ProducerId, first: int, last: int, reason: str, at_ms: int
    ) -> ProducerState:
        """Step over sequences that will never come.

        Raises:
            SequenceGap: `first` is beyond watermark + 1.
        """
        state = self.get(producer)
        if first > state.watermark + 1:
            raise SequenceGap(
                f"a loss from sequence {first} was declared, the ledger has {state.watermark}: "
                "what lies between has to come, or to be declared lost, first"
            )
        first = max(first, state.watermark + 1)
        if first <= last:
            self._connection.execute(
                "INSERT INTO losses VALUES (?, ?, ?, ?, ?)", (producer, first, last, reason, at_ms)
            )
            state.watermark = last
            state.highest_appended = max(state.highest_appended, last)
            self._touched[producer] = state
        return state

    def finished(self) -> Iterator[ProducerState]:
        """Those of this transaction that are done for ever."""
        return (state for state in self._touched.values() if state.is_finished)

    def flush(self) -> None:
        """Write the rows that changed."""
        self._connection.executemany(
            f"INSERT OR REPLACE INTO producers ({_COLUMNS}) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_row(state) for state in self._touched.values()],
        )

    def committed(self) -> None:
        """The transaction is durable."""
        self._touched.clear()
        if len(self._known) > KEPT_MAX:
            self._known.clear()


def _row(state: ProducerState) -> tuple[object, ...]:
    return (
        state.id,
        state.number,
        state.service,
        state.host,
        state.pid,
        state.version,
        state.schema,
        state.watermark,
        state.highest_appended,
        state.last_seen_ms,
        state.skew_ms,
        state.open_calls,
        state.oldest_open_at_ms,
        state.ends_at,
        state.report,
    )
