"""Leases as the ledger settles them: each record says which one it used.

    lend ─▶ outstanding ── records: used grows ── release(last sequence) ─▶ ended, once the
                                                  ledger has that sequence

So quota and ledger change in one transaction and can't disagree. A lease that was taken in
another period than its record is billed in counts in its own: `quota_shifts` says by how much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from meterd.ids import LeaseId, ProducerId
    from meterd.store.producers import Producers
    from meterd.store.values import Lease

_SHIFT = (
    "INSERT INTO quota_shifts VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens"
)


class _Open:
    """What of an outstanding lease is kept in memory."""

    __slots__ = ("last_sequence", "period", "producer")

    def __init__(self, producer: ProducerId, period: int, last_sequence: int | None) -> None:
        self.producer = producer
        self.period = period
        self.last_sequence = last_sequence


class LeaseBook:
    """All leases. Writer's thread only, inside its transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._open: dict[LeaseId, _Open] = {}
        self._by_producer: dict[ProducerId, set[LeaseId]] = {}
        self._released: set[LeaseId] = set()
        self.settled: dict[LeaseId, int] = {}
        """Tokens settled in this transaction."""
        self.ended: list[LeaseId] = []
        """Leases that ended in this transaction."""
        self.shifted: dict[tuple[int, int, int, int], int] = {}
        """By (client, period, tag, model): tokens that count elsewhere than they are billed."""
        self._now_ms = 0
        self.forget()

    def forget(self) -> None:
        """Learn from the database what is outstanding: it was opened, or rolled back."""
        self.settled, self.ended, self.shifted = {}, [], {}
        self._open.clear()
        self._by_producer.clear()
        self._released.clear()
        for lease, producer, period, last in self._connection.execute(
            "SELECT id, producer, period, last_sequence FROM leases WHERE ended_at_ms IS NULL"
        ):
            self._remember(lease, producer, period, last)

    def begin(self, now_ms: int) -> None:
        """A transaction has begun."""
        self._now_ms = now_ms
        self.settled, self.ended, self.shifted = {}, [], {}

    def lend(self, lease: Lease) -> None:
        """Write a lease; the same one again changes nothing."""
        cursor = self._connection.execute(
            "INSERT INTO leases (id, producer, client, project, model, period, tokens, "
            "used_tokens, lent_at_ms, expires_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?) "
            "ON CONFLICT DO NOTHING",
            (
                lease.id,
                lease.producer,
                lease.client,
                lease.project,
                lease.model,
                lease.period,
                lease.tokens,
                lease.lent_at_ms,
                lease.expires_at_ms,
            ),
        )
        if cursor.rowcount:
            self._remember(lease.id, lease.producer, lease.period, None)

    def release(self, lease: LeaseId, last_sequence: int) -> None:
        """Its producer won't use it any more after this record."""
        is_open = self._open.get(lease)
        if is_open is not None and is_open.last_sequence is None:
            self._connection.execute(
                "UPDATE leases SET last_sequence = ? WHERE id = ?", (last_sequence, lease)
            )
            is_open.last_sequence = last_sequence
            self._released.add(lease)

    def end(self, leases: Iterable[LeaseId]) -> None:
        """Take back what is outstanding of these."""
        for lease in leases:
            is_open = self._open.pop(lease, None)
            if is_open is not None:
                self._by_producer[is_open.producer].discard(lease)
                if not self._by_producer[is_open.producer]:
                    del self._by_producer[is_open.producer]
                self._released.discard(lease)
                self.ended.append(lease)
                self._connection.execute(
                    "UPDATE leases SET ended_at_ms = ? WHERE id = ?", (self._now_ms, lease)
                )

    def settle(self, lease: LeaseId, tokens: int) -> None:
        """Records that name the lease came."""
        self.settled[lease] = self.settled.get(lease, 0) + tokens

    def shift(
        self, client: int, tag: int, model: int, periods: tuple[int, int], tokens: int
    ) -> None:
        """Tokens billed in the first of two periods count in the second, their lease's."""
        for period, amount in zip(periods, (-tokens, tokens), strict=True):
            key = (client, period, tag, model)
            self.shifted[key] = self.shifted.get(key, 0) + amount

    def period_of(self, lease: LeaseId) -> int | None:
        """The period a lease was taken in; None for one that was never lent here."""
        is_open = self._open.get(lease)
        if is_open is not None:
            return is_open.period
        found = self._connection.execute(
            "SELECT period FROM leases WHERE id = ?", (lease,)
        ).fetchone()
        return int(found[0]) if found else None

    def flush(self, producers: Producers) -> None:
        """Write what was settled, and end what has its last record in the ledger."""
        self._connection.executemany(
            "UPDATE leases SET used_tokens = used_tokens + ? WHERE id = ?",
            [(tokens, lease) for lease, tokens in self.settled.items() if tokens],
        )
        self._connection.executemany(
            _SHIFT, [(*key, tokens) for key, tokens in self.shifted.items() if tokens]
        )
        done = [
            lease
            for lease in self._released
            if producers.get(self._open[lease].producer).watermark
            >= (self._open[lease].last_sequence or 0)
        ]
        for state in producers.finished():
            done += self._by_producer.get(state.id, ())
        self.end(done)

    def _remember(
        self, lease: LeaseId, producer: ProducerId, period: int, last_sequence: int | None
    ) -> None:
        self._open[lease] = _Open(producer, period, last_sequence)
        self._by_producer.setdefault(producer, set()).add(lease)
        if last_sequence is not None:
            self._released.add(lease)
