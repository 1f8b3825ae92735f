"""Reading a batch off the wire: columns checked, placed, and ready for the ledger. Pure.

    bytes ─ parse ─▶ framing right? ─▶ names interned ─▶ believable? ─▶ placed ─▶ PlacedBatch
                     else BatchBroken                    else quarantined

Everything is done by column or by distinct combination; a record is looked at by itself only
where its column shows that something in it is odd.
"""

from __future__ import annotations

from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from google.protobuf.message import DecodeError

from meterd.errors import BatchBroken
from meterd.ids import UNATTRIBUTED, ProducerId, Sequence
from meterd.ingest.placing import place
from meterd.ingest.quarantine import (
    COLUMNS,
    NAME_CHARACTERS_MAX,
    suspects,
    why_not_kept,
    why_unknown,
)
from meterd.store.batch import Kind, PlacedBatch, Quarantined, Rare
from meterd.store.ledger_row import PLAIN
from meterd_proto.v1 import usage_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence as Column

    from meterd.ingest.placing import Placed

SCHEMA = 1
"""The newest schema whose counts and prices this daemon knows."""

BATCH_RECORDS_MAX = 8_192
BATCH_BYTES_MAX = 1 << 20

_WHO = attrgetter("client", "project", "lease_id")
_KIND_TEXTS = (
    "provider", "operation", "request_model", "response_model", "service_tier", "speed",
    "processing", "inference_geo", "account", "server_address",
)  # fmt: skip
_RECORD_TEXTS = (
    "provider", "operation", "request_model", "response_model", "account", "server_address"
)  # fmt: skip
_KIND_NUMBERS = (
    "status", "http_status", "estimated", "attempt", "is_continuation", "is_stream"
)  # fmt: skip


class WireBatch:
    """A batch as it came; `read` is for the writer's thread."""

    __slots__ = ("_message", "_producer", "_received_at_ms", "_request", "size", "span")

    def __init__(
        self,
        producer: ProducerId,
        received_at_ms: int,
        *,
        request: bytes = b"",
        message: usage_pb2.Batch | None = None,
    ) -> None:
        """Either a whole serialised `ShipRequest`, or a batch that was parsed already."""
        self._producer = producer
        self._received_at_ms = received_at_ms
        self._request = request
        self._message = message
        self.size = len(request) or (message.ByteSize() if message is not None else 0)
        self.span = (0, 0)
        """Its first and last sequence, once `read` has seen them."""

    def read(self) -> PlacedBatch:
        """Check and place it.

        Raises:
            BatchBroken: its framing, size or order is wrong.
        """
        message = self._parsed()
        first = message.first_sequence
        self.span = (first, first + max(0, len(message.dimension) - 1))
        return read_batch(message, self._producer, self._received_at_ms)

    def set_aside(self, reason: str) -> PlacedBatch | None:
        """Its one record as bytes for the quarantine; None where it has more.

        Raises:
            BatchBroken: its framing is wrong.
        """
        message = self._parsed()
        if len(message.dimension) != 1:
            return None
        unread = message.unread[0] if message.unread else None
        payload = unread.payload if unread else record_bytes(message, 0)
        schema = unread.schema if unread else message.schema
        return PlacedBatch(
            producer=self._producer,
            first_sequence=Sequence(message.first_sequence),
            received_at_ms=self._received_at_ms,
            skew_ms=0,
            highest_appended=Sequence(message.highest_appended_sequence),
            tags=(),
            kinds=(),
            tag=(0,),
            kind=(0,),
            billed_at_ms=(self._received_at_ms,),
            quarantined=(Quarantined(0, reason, schema, payload),),
        )

    def _parsed(self) -> usage_pb2.Batch:
        if self._message is not None:
            return self._message
        try:
            return usage_pb2.ShipRequest.FromString(self._request).batch
        except DecodeError as fault:
            raise BatchBroken("the batch is no protobuf message") from fault


def read_batch(batch: usage_pb2.Batch, producer: ProducerId, received_at_ms: int) -> PlacedBatch:
    """Check and place a batch.

    Raises:
        BatchBroken: its framing, size or order is wrong.
    """
    dimension = list(batch.dimension)
    count = len(dimension)
    _check_frame(batch, dimension)
    columns = _columns(batch, count)
    occurred = _moments(batch, count)
    rare = _rare(batch, count)
    names = _names(batch, dimension)
    odd = suspects(columns, occurred, rare)
    odd.update(_unnameable(names))
    unread = {item.index: item for item in batch.unread}
    placed = place(
        _without(occurred, {*odd, *unread}), batch.sent_at_unix_ns // 1_000_000, received_at_ms
    )
    rare = _with_clock(rare, placed, occurred)
    return PlacedBatch(
        producer=producer,
        first_sequence=Sequence(batch.first_sequence),
        received_at_ms=received_at_ms,
        skew_ms=placed.skew_ms,
        highest_appended=Sequence(batch.highest_appended_sequence),
        tags=names.tags,
        kinds=names.kinds,
        tag=names.tag,
        kind=names.kind,
        lease=names.lease,
        billed_at_ms=placed.billed_at_ms,
        duration_ms=columns.get("duration_ms"),
        input_tokens=columns.get("input_tokens"),
        cache_read_tokens=columns.get("cache_read_tokens"),
        output_tokens=columns.get("output_tokens"),
        reasoning_tokens=columns.get("reasoning_tokens"),
        input_bytes=columns.get("input_bytes"),
        rare=rare,
        quarantined=_quarantined(batch, odd, unread) if odd or unread else (),
        late=placed.late,
    )


def _check_frame(batch: usage_pb2.Batch, dimension: list[int]) -> None:
    """What only a producer's bug can break; the whole batch is refused for it."""
    if not dimension:
        raise BatchBroken("the batch has no records")
    if len(dimension) > BATCH_RECORDS_MAX:
        raise BatchBroken(
            f"the batch has {len(dimension)} records, at most {BATCH_RECORDS_MAX} are allowed"
        )
    if not batch.first_sequence:
        raise BatchBroken("the batch begins at sequence 0; the first record is number 1")
    if batch.first_sequence + len(dimension) > 1 << 62:
        raise BatchBroken("the batch's sequences are beyond any count")
    if max(dimension) >= len(batch.dimensions):
        raise BatchBroken(f"a record has dimension {max(dimension)}, which the batch doesn't have")
    if not batch.strings or batch.strings[0]:
        raise BatchBroken("the batch's first string is not the empty one")
    for name in ("rare", "unread"):
        at = -1
        for item in getattr(batch, name):
            if not at < item.index < len(dimension):
                raise BatchBroken(f"the batch's {name} fields are out of order or out of range")
            at = item.index


def _columns(batch: usage_pb2.Batch, count: int) -> dict[str, list[int]]:
    """The columns that hold anything."""
    columns: dict[str, list[int]] = {}
    for name in COLUMNS:
        column = list(getattr(batch, name))
        if column:
            if len(column) != count:
                raise BatchBroken(f"column {name} has {len(column)} values for {count} records")
            columns[name] = column
    return columns


def _moments(batch: usage_pb2.Batch, count: int) -> list[int]:
    """When each record occurred, in milliseconds."""
    first_us = batch.first_occurred_at_unix_ns // 1_000
    deltas = batch.occurred_at_delta_us
    if not deltas:
        return [first_us // 1_000] * count
    if len(deltas) != count:
        raise BatchBroken(f"column occurred_at has {len(deltas)} values for {count} records")
    moments = accumulate(deltas, initial=first_us)
    next(moments)
    return [moment // 1_000 for moment in moments]


def _rare(batch: usage_pb2.Batch, count: int) -> dict[int, Rare]:
    return {
        item.index: Rare(
            item.cache_write_tokens,
            item.cache_write_long_tokens,
            item.audio_input_tokens,
            item.audio_output_tokens,
            tuple(sorted(item.tool_calls.items())),
            item.provider_cost,
            item.history_bytes if item.HasField("history_bytes") else None,
            item.dedupe_id,
            item.note,
        )
        for item in batch.rare
    }


class _Names(NamedTuple):
    """Who paid for what, by record, and the leases settled."""

    tags: list[tuple[str, str]]
    kinds: list[Kind]
    tag: Column[int]
    kind: Column[int]
    lease: Column[int] | None
    characters_max: int
    """Of the longest name: looking at each would take longer than all else of them."""


def _names(batch: usage_pb2.Batch, dimension: list[int]) -> _Names:
    """The distinct tags and kinds of a batch, and each record's."""
    strings = list(batch.strings)
    try:
        if batch.tag:
            return _names_in_columns(batch, dimension, strings)
        return _names_in_dimensions(batch, dimension, strings)
    except IndexError:
        raise BatchBroken("a record names a string, tag or lease that isn't in the batch") from None


def _names_in_columns(batch: usage_pb2.Batch, dimension: list[int], strings: list[str]) -> _Names:
    tag, lease = list(batch.tag), list(batch.lease)
    clients, projects = list(batch.tag_client), list(batch.tag_project)
    if len(tag) != len(dimension) or len(lease) not in (0, len(dimension)):
        raise BatchBroken("the columns of tags or leases are shorter or longer than the batch")
    if len(clients) != len(projects) or max(tag) >= len(clients):
        raise BatchBroken("the batch's tags are out of range")
    return _Names(
        [
            (strings[client] or UNATTRIBUTED, strings[project])
            for client, project in zip(clients, projects, strict=True)
        ],
        [_kind(message, strings) for message in batch.dimensions],
        tag,
        dimension,
        list(map([0, *batch.leases].__getitem__, lease)) if lease else None,
        max(map(len, strings)),
    )


def _names_in_dimensions(
    batch: usage_pb2.Batch, dimension: list[int], strings: list[str]
) -> _Names:
    """Tags and leases as they stand among all else: known apart by their numbers and bytes."""
    tags: dict[tuple[int, int], int] = {}
    kinds: dict[bytes, int] = {}
    examples: list[usage_pb2.Dimensions] = []
    tag_of: list[int] = []
    kind_of: list[int] = []
    leases: list[int] = []
    for message in batch.dimensions:
        client, project, lease = key = _WHO(message)
        tag_of.append(tags.setdefault(key[:2], len(tags)))
        rest = message.SerializeToString()
        rest = rest[_lead(client) + _lead(project) : len(rest) - _tail(lease)]
        kind = kinds.get(rest)
        if kind is None:
            kind = kinds[rest] = len(kinds)
            examples.append(message)
        kind_of.append(kind)
        leases.append(lease)
    return _Names(
        [(strings[client] or UNATTRIBUTED, strings[project]) for client, project in tags],
        [_kind(message, strings) for message in examples],
        list(map(tag_of.__getitem__, dimension)),
        list(map(kind_of.__getitem__, dimension)),
        list(map(leases.__getitem__, dimension)) if any(leases) else None,
        max(map(len, strings)),
    )


def _lead(number: int) -> int:
    """Bytes of field 1 or 2 in a serialised Dimensions: a tag, and a varint of 7 bits a byte."""
    return 1 + (number.bit_length() + 6) // 7 if number else 0


def _tail(lease: int) -> int:
    """Bytes of field 19, which comes last and has a tag of two."""
    return 2 + (lease.bit_length() + 6) // 7 if lease else 0


def _kind(message: usage_pb2.Dimensions, strings: list[str]) -> Kind:
    return Kind(
        **{name: strings[getattr(message, name)] for name in _KIND_TEXTS},
        **{name: getattr(message, name) for name in _KIND_NUMBERS},
    )


def _unnameable(names: _Names) -> dict[int, str]:
    """Positions whose names can't be kept."""
    bad_kinds = {at: why for at, kind in enumerate(names.kinds) if (why := why_unknown(kind))}
    bad_tags = (
        {}
        if names.characters_max <= NAME_CHARACTERS_MAX
        else {at: why for at, tag in enumerate(names.tags) if (why := why_not_kept(tag))}
    )
    if not bad_kinds and not bad_tags:
        return {}
    return {
        at: reason
        for at, (tag, kind) in enumerate(zip(names.tag, names.kind, strict=True))
        if (reason := bad_tags.get(tag, "") or bad_kinds.get(kind, ""))
    }


def _without(occurred: list[int], odd: set[int]) -> list[int]:
    """The times, with those of unbelievable records out of the way."""
    if not odd:
        return occurred
    believable = next((moment for at, moment in enumerate(occurred) if at not in odd), 0)
    return [believable if at in odd else moment for at, moment in enumerate(occurred)]


def _with_clock(rare: dict[int, Rare], placed: Placed, occurred: list[int]) -> dict[int, Rare]:
    """What the producer's clock said, kept where it doesn't count."""
    for at in placed.moved:
        rare[at] = rare.get(at, PLAIN)._replace(occurred_at_ms=occurred[at])
    return rare


def _quarantined(
    batch: usage_pb2.Batch, odd: dict[int, str], unread: dict[int, usage_pb2.Unread]
) -> tuple[Quarantined, ...]:
    kept = []
    for at in sorted({*odd, *unread}):
        item = unread.get(at)
        if item is None:
            kept.append(Quarantined(at, odd[at], batch.schema, record_bytes(batch, at)))
        elif item.schema > SCHEMA:
            reason = f"schema {item.schema} is newer than this meterd's {SCHEMA}"
            kept.append(Quarantined(at, reason, item.schema, item.payload))
        else:
            reason = "its producer could not read it"
            kept.append(Quarantined(at, reason, item.schema, item.payload))
    return tuple(kept)


def record_bytes(batch: usage_pb2.Batch, at: int) -> bytes:
    """One record of a batch as the `UsageRecord` that it was in the spool."""
    dimensions = batch.dimensions[batch.dimension[at]]
    client, project, lease_id = dimensions.client, dimensions.project, dimensions.lease_id
    if batch.tag:
        client, project = batch.tag_client[batch.tag[at]], batch.tag_project[batch.tag[at]]
    if batch.lease and batch.lease[at]:
        lease_id = batch.leases[batch.lease[at] - 1]
    record = usage_pb2.UsageRecord(
        client=batch.strings[client],
        project=batch.strings[project],
        status=dimensions.status,
        http_status=dimensions.http_status,
        estimated=dimensions.estimated,
        attempt=dimensions.attempt,
        is_continuation=dimensions.is_continuation,
        is_stream=dimensions.is_stream,
        lease_id=lease_id,
        schema=batch.schema,
        occurred_at_unix_ns=_occurred_ns(batch, at),
    )
    for name in _RECORD_TEXTS:
        setattr(record, name, batch.strings[getattr(dimensions, name)])
    for name in COLUMNS:
        column = getattr(batch, name)
        if column:
            setattr(record, name, column[at])
    for name in ("service_tier", "speed", "processing", "inference_geo"):
        value = batch.strings[getattr(dimensions, name)]
        if value:
            setattr(record.price_context, name, value)
    for item in batch.rare:
        if item.index == at:
            _add_rare(record, item)
    return record.SerializeToString()


def _occurred_ns(batch: usage_pb2.Batch, at: int) -> int:
    moved_us = sum(batch.occurred_at_delta_us[: at + 1])
    return max(0, batch.first_occurred_at_unix_ns + moved_us * 1_000) % (1 << 64)


def _add_rare(record: usage_pb2.UsageRecord, item: usage_pb2.RareFields) -> None:
    for name in (
        "cache_write_tokens", "cache_write_long_tokens", "audio_input_tokens",
        "audio_output_tokens", "provider_cost", "dedupe_id", "note",
    ):  # fmt: skip
        setattr(record, name, getattr(item, name))
    record.tool_calls.update(item.tool_calls)
    if item.HasField("history_bytes"):
        record.history_bytes = item.history_bytes
