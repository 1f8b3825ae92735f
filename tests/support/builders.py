"""Builders: usage records and batches with every field settable and sensible defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.ids import ProducerId
from meterd.ingest.reading import WireBatch, read_batch
from meterd_proto.v1 import usage_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meterd.store.batch import PlacedBatch

NOW_MS = 1_764_072_000_000
"""2025-11-25 12:00 UTC."""
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

_COLUMNS = (
    "duration_ms", "input_tokens", "cache_read_tokens", "output_tokens", "reasoning_tokens",
    "input_bytes",
)  # fmt: skip
_RARE = (
    "cache_write_tokens", "cache_write_long_tokens", "audio_input_tokens", "audio_output_tokens",
    "provider_cost", "dedupe_id", "note",
)  # fmt: skip
_CONTEXT = ("service_tier", "speed", "processing", "inference_geo")
_NAMES = (
    "client", "project", "provider", "operation", "request_model", "response_model", "account",
    "server_address",
)  # fmt: skip
_FLAGS = (
    "status",
    "http_status",
    "estimated",
    "attempt",
    "is_continuation",
    "is_stream",
    "lease_id",
)


def producer_id(name: str = "web-1") -> ProducerId:
    """A producer's 16 bytes, from a name that a test can read."""
    return ProducerId(name.encode().ljust(16, b".")[:16])


def usage(
    client: str = "acme-corp",
    project: str = "",
    *,
    input_tokens: int = 1_000,
    output_tokens: int = 100,
    cache_read_tokens: int = 0,
    cache_write_tokens: int = 0,
    cache_write_long_tokens: int = 0,
    reasoning_tokens: int = 0,
    audio_input_tokens: int = 0,
    audio_output_tokens: int = 0,
    provider: str = "openai",
    model: str = "gpt-4o",
    response_model: str | None = None,
    status: usage_pb2.Status.ValueType = usage_pb2.STATUS_COMPLETE,
    http_status: int = 200,
    occurred_at_ms: int = NOW_MS - MINUTE_MS,
    tool_calls: Mapping[str, int] | None = None,
    context: Mapping[str, str] | None = None,
    estimated: int = 0,
    lease_id: int = 0,
    dedupe_id: str = "",
    note: str = "",
    provider_cost: str = "",
    history_bytes: int | None = None,
    input_bytes: int = 4_000,
    duration_ms: int = 850,
    attempt: int = 0,
    is_continuation: bool = False,
    is_stream: bool = False,
    schema: int = 1,
) -> usage_pb2.UsageRecord:
    """One record as it stands in a spool frame."""
    record = usage_pb2.UsageRecord(
        client=client,
        project=project,
        provider=provider,
        operation="chat",
        request_model=model,
        response_model=model if response_model is None else response_model,
        status=status,
        http_status=http_status,
        occurred_at_unix_ns=occurred_at_ms * 1_000_000,
        duration_ms=duration_ms,
        input_tokens=input_tokens,
        cache_read_tokens=cache_read_tokens,
        cache_write_tokens=cache_write_tokens,
        cache_write_long_tokens=cache_write_long_tokens,
        output_tokens=output_tokens,
        reasoning_tokens=reasoning_tokens,
        audio_input_tokens=audio_input_tokens,
        audio_output_tokens=audio_output_tokens,
        tool_calls=tool_calls or {},
        estimated=estimated,
        provider_cost=provider_cost,
        server_address="api.openai.com",
        input_bytes=input_bytes,
        history_bytes=history_bytes,
        dedupe_id=dedupe_id,
        note=note,
        attempt=attempt,
        is_continuation=is_continuation,
        is_stream=is_stream,
        lease_id=lease_id,
        schema=schema,
    )
    for name, value in (context or {}).items():
        setattr(record.price_context, name, value)
    return record


def batch_of(
    records: Sequence[usage_pb2.UsageRecord],
    *,
    first_sequence: int = 1,
    sent_at_ms: int = NOW_MS,
    highest_appended: int | None = None,
    tags_in_columns: bool = True,
) -> usage_pb2.Batch:
    """Records as they go over the wire; one of a newer schema is passed on unread."""
    strings: dict[str, int] = {"": 0}
    dimensions: dict[bytes, int] = {}
    tags: dict[tuple[int, int], int] = {}
    leases: dict[int, int] = {0: 0}
    batch = usage_pb2.Batch(
        first_sequence=first_sequence,
        sent_at_unix_ns=sent_at_ms * 1_000_000,
        highest_appended_sequence=highest_appended or first_sequence + len(records) - 1,
        schema=1,
    )
    before_us = records[0].occurred_at_unix_ns // 1_000 if records else 0
    batch.first_occurred_at_unix_ns = before_us * 1_000
    for index, record in enumerate(records):
        moment_us = record.occurred_at_unix_ns // 1_000
        batch.occurred_at_delta_us.append(moment_us - before_us)
        before_us = moment_us
        if record.schema > 1:
            batch.unread.add(index=index, schema=record.schema, payload=record.SerializeToString())
            record = usage_pb2.UsageRecord()
        _add_rare(batch, index, record)
        dimension = _dimension(record, strings)
        if tags_in_columns:
            tag = tags.setdefault((dimension.client, dimension.project), len(tags))
            batch.tag.append(tag)
            lease = dimension.lease_id
            batch.lease.append(leases.setdefault(lease, len(leases)) if lease else 0)
            for name in ("client", "project", "lease_id"):
                dimension.ClearField(name)
        key = dimension.SerializeToString(deterministic=True)
        if key not in dimensions:
            dimensions[key] = len(dimensions)
            batch.dimensions.append(dimension)
        batch.dimension.append(dimensions[key])
        for name in _COLUMNS:
            column = getattr(batch, name)
            column.append(getattr(record, name))
    batch.strings.extend(strings)
    batch.tag_client.extend(client for client, _ in tags)
    batch.tag_project.extend(project for _, project in tags)
    batch.leases.extend(list(leases)[1:])
    return batch


def _dimension(record: usage_pb2.UsageRecord, strings: dict[str, int]) -> usage_pb2.Dimensions:
    dimension = usage_pb2.Dimensions()
    for name in _NAMES:
        setattr(dimension, name, strings.setdefault(getattr(record, name), len(strings)))
    for name in _FLAGS:
        setattr(dimension, name, getattr(record, name))
    for name in _CONTEXT:
        text = getattr(record.price_context, name)
        setattr(dimension, name, strings.setdefault(text, len(strings)))
    return dimension


def _add_rare(batch: usage_pb2.Batch, index: int, record: usage_pb2.UsageRecord) -> None:
    rare = usage_pb2.RareFields()
    for name in _RARE:
        if getattr(record, name):
            setattr(rare, name, getattr(record, name))
    rare.tool_calls.update(record.tool_calls)
    if record.HasField("history_bytes"):
        rare.history_bytes = record.history_bytes
    if rare.ByteSize():
        rare.index = index
        batch.rare.append(rare)


def placed(
    *records: usage_pb2.UsageRecord,
    producer: str = "web-1",
    first_sequence: int = 1,
    now_ms: int = NOW_MS,
    sent_at_ms: int | None = None,
) -> PlacedBatch:
    """Records as the ledger takes them: read, checked and placed.

    `sent_at_ms` is what the producer's clock says, `now_ms` what ours does.
    """
    sent = now_ms if sent_at_ms is None else sent_at_ms
    batch = batch_of(records, first_sequence=first_sequence, sent_at_ms=sent)
    return read_batch(batch, producer_id(producer), now_ms)


def wire(
    *records: usage_pb2.UsageRecord,
    producer: str = "web-1",
    first_sequence: int = 1,
    now_ms: int = NOW_MS,
    sent_at_ms: int | None = None,
) -> WireBatch:
    """Records as they arrive: bytes, to be read by the writer."""
    sent = now_ms if sent_at_ms is None else sent_at_ms
    batch = batch_of(records, first_sequence=first_sequence, sent_at_ms=sent)
    request = usage_pb2.ShipRequest(batch=batch).SerializeToString()
    return WireBatch(producer_id(producer), now_ms, request=request)
