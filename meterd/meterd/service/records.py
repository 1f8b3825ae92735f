"""Ledger rows as messages: for `meterctl records`, and for `tail` as they are committed."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from meterd.money import exact, plain
from meterd.store.values import RecordsQuery
from meterd_proto.v1 import admin_pb2, usage_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from decimal import Decimal

    from meterd.hooks import Announcements
    from meterd.store.store import Store
    from meterd.store.values import Committed, LedgerRecord

TRANSACTIONS_WAITING_MAX = 64
"""What a tail may lag behind; beyond it the oldest are skipped, and counted."""

_NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Shown:
    """In which currency costs are shown, and what a US dollar is in it."""

    currency: str
    factor: Decimal

    def cost(self, cost: Decimal | None) -> str:
        """An exact cost as text; empty where there is no price."""
        if cost is None:
            return ""
        with exact():
            return plain(cost * self.factor)


def record_row(found: LedgerRecord, shown: Shown) -> admin_pb2.RecordRow:
    """A ledger row, whole, with what it cost and what the price rests on."""
    return admin_pb2.RecordRow(
        ledger_row=found.row,
        producer=found.producer_name,
        sequence=found.sequence,
        billed_at_unix_ns=found.billed_at_ms * _NS_PER_MS,
        record=usage_record(found),
        cost=shown.cost(found.cost),
        rate=found.priced_by,
        currency=shown.currency,
    )


def usage_record(found: LedgerRecord) -> usage_pb2.UsageRecord:
    """The record as it was received."""
    kind, rare = found.kind, found.rare
    occurred_at_ms = rare.occurred_at_ms
    if occurred_at_ms is None:
        occurred_at_ms = found.billed_at_ms
    record = usage_pb2.UsageRecord(
        client=found.client,
        project=found.project,
        provider=kind.provider,
        operation=kind.operation,
        request_model=kind.request_model,
        response_model=kind.response_model,
        status=_status(kind.status),
        http_status=kind.http_status,
        occurred_at_unix_ns=max(0, occurred_at_ms) * _NS_PER_MS,
        duration_ms=found.duration_ms,
        input_tokens=found.input_tokens,
        cache_read_tokens=found.cache_read_tokens,
        cache_write_tokens=rare.cache_write_tokens,
        cache_write_long_tokens=rare.cache_write_long_tokens,
        output_tokens=found.output_tokens,
        reasoning_tokens=found.reasoning_tokens,
        audio_input_tokens=rare.audio_input_tokens,
        audio_output_tokens=rare.audio_output_tokens,
        estimated=kind.estimated,
        tool_calls=dict(rare.tool_calls),
        provider_cost=rare.provider_cost,
        account=kind.account,
        server_address=kind.server_address,
        input_bytes=found.input_bytes,
        dedupe_id=rare.dedupe_id,
        note=rare.note,
        attempt=kind.attempt,
        is_continuation=kind.is_continuation,
        is_stream=kind.is_stream,
    )
    if rare.history_bytes is not None:
        record.history_bytes = rare.history_bytes
    for name in ("service_tier", "speed", "processing", "inference_geo"):
        if value := getattr(kind, name):
            setattr(record.price_context, name, value)
    return record


def tail_event(found: LedgerRecord, shown: Shown) -> admin_pb2.TailEvent:
    """A ledger row, as much of it as fits a line."""
    return admin_pb2.TailEvent(
        client=found.client,
        project=found.project,
        provider=found.kind.provider,
        operation=found.kind.operation,
        model=found.kind.model,
        status=_status(found.kind.status),
        http_status=found.kind.http_status,
        input_tokens=found.input_tokens,
        output_tokens=found.output_tokens,
        billed_at_unix_ns=found.billed_at_ms * _NS_PER_MS,
        producer=found.producer_name,
        cost=shown.cost(found.cost),
        note=found.rare.note,
        is_estimated=found.kind.estimated != 0,
        currency=shown.currency,
    )


def _status(number: int) -> usage_pb2.Status.ValueType:
    """A stored status; one that only a newer meterd knows passes as its number."""
    return cast("usage_pb2.Status.ValueType", number)


class Tail:
    """One reader's view of what is committed and announced from now on; bounded.

    Use it as a context manager: what subscribes must end its subscription.
    """

    def __init__(self, store: Store, announcements: Announcements, client: str) -> None:
        self._store = store
        self._announcements = announcements
        self._client = client
        self._waiting: deque[Committed | str] = deque()
        self._skipped = 0
        self._arrived = asyncio.Event()

    def __enter__(self) -> Tail:
        self._leave_store = self._store.subscribe(self._on_committed)
        self._leave_announcements = self._announcements.subscribe(self._on_announced)
        return self

    def __exit__(self, *_: object) -> None:
        self._leave_store()
        self._leave_announcements()

    async def events(self, shown: Shown) -> AsyncIterator[admin_pb2.TailEvent]:
        """Events in order, until the caller leaves."""
        while True:
            await self._arrived.wait()
            while self._waiting:
                async for event in self._events_of(self._waiting.popleft(), shown):
                    event.skipped, self._skipped = self._skipped, 0
                    yield event
            self._arrived.clear()

    async def _events_of(
        self, arrived: Committed | str, shown: Shown
    ) -> AsyncIterator[admin_pb2.TailEvent]:
        if isinstance(arrived, str):
            yield admin_pb2.TailEvent(event=arrived)
            return
        query = RecordsQuery(
            client=self._client or None, first_row=arrived.first_row, end_row=arrived.end_row
        )
        async for rows in self._store.records(query):
            for found in rows:
                yield tail_event(found, shown)

    def _on_committed(self, committed: Committed) -> None:
        if committed.end_row > committed.first_row:
            self._put(committed)

    def _on_announced(self, client: str, sentence: str) -> None:
        if not self._client or client in ("", self._client):
            self._put(sentence)

    def _put(self, arrived: Committed | str) -> None:
        if len(self._waiting) >= TRANSACTIONS_WAITING_MAX:
            oldest = self._waiting.popleft()
            self._skipped += 1 if isinstance(oldest, str) else oldest.end_row - oldest.first_row
        self._waiting.append(arrived)
        self._arrived.set()
