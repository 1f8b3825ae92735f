"""Frames to columns: a `Batch` of consecutive records, as it goes over the wire. Pure.

    frame ─┬ head: tags │ lease │ kind of call ──looked up by their bytes──▶ columns, Dimensions
           └ rest: times and counts ────────────parsed──────────────────────▶ columns

A record is alike to the others of its app but for a few numbers, so those alone are parsed:
1.3 µs a record, and 2.5 where every record has a client of its own. A record of a newer
schema, or one that can't be parsed, is passed on as the bytes it is.
"""

from __future__ import annotations

from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

from meterd_middleware.usage import SCHEMA
from meterd_proto.v1 import usage_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meterd_middleware.segment import Frame

KINDS_MAX = 4_096
"""How many kinds of call are kept read; then it begins anew."""

_Row: TypeAlias = tuple[int, int, int, int, int, int, int]
"""One record's numbers, in the order of `_numbers_of`."""

_numbers_of = attrgetter(
    "occurred_at_unix_ns", "duration_ms", "input_tokens", "cache_read_tokens", "output_tokens",
    "reasoning_tokens", "input_bytes",
)  # fmt: skip
_COLUMNS = (
    "duration_ms", "input_tokens", "cache_read_tokens", "output_tokens", "reasoning_tokens",
    "input_bytes",
)  # fmt: skip
_rare_of = attrgetter(
    "cache_write_tokens", "cache_write_long_tokens", "audio_input_tokens", "audio_output_tokens",
    "provider_cost", "dedupe_id", "note",
)  # fmt: skip
_parse = usage_pb2.UsageRecord.FromString
_WHOLE = -1
"""Instead of a position in the dimensions: this record has to be read as a whole."""


class _Kind(NamedTuple):
    """A kind of call, read: the fields of a Dimensions but for tags and lease."""

    texts: tuple[tuple[str, bytes], ...]
    numbers: tuple[tuple[str, int], ...]


class Batches:
    """Makes batches; keeps what kinds of call there are from one batch to the next."""

    def __init__(self) -> None:
        self._kinds: dict[bytes, _Kind | None] = {}

    def batch_of(
        self, frames: Sequence[Frame], *, sent_at_unix_ns: int, highest_appended_sequence: int
    ) -> usage_pb2.Batch:
        """The batch of some consecutive records, one at least.

        Times are cut to whole microseconds, each by itself, so that a record says the same
        in whatever batch it is sent again.
        """
        filling = _Filling(self._kind_in)
        columns = list(zip(*filling.rows_of(frames), strict=True))
        moments_us = [moment // 1000 for moment in columns[0]]
        deltas_us = [0]
        deltas_us += [after - before for before, after in pairwise(moments_us)]
        batch = usage_pb2.Batch(
            first_sequence=frames[0][1],
            sent_at_unix_ns=sent_at_unix_ns,
            highest_appended_sequence=highest_appended_sequence,
            schema=SCHEMA,
            strings=filling.strings,
            dimension=list(map(filling.kind_of.__getitem__, filling.heads)),
            tag=list(map(filling.tag_of.__getitem__, filling.heads)),
            tag_client=filling.tag_client,
            tag_project=filling.tag_project,
            leases=filling.leases,
            lease=list(map(filling.lease_of.__getitem__, filling.heads))
            if filling.leases
            else None,
            first_occurred_at_unix_ns=moments_us[0] * 1000,
            occurred_at_delta_us=deltas_us if any(deltas_us) else None,
            rare=filling.rare,
            unread=filling.unread,
        )
        batch.MergeFromString(filling.dimensions)
        for name, column in zip(_COLUMNS, columns[1:], strict=True):
            if any(column):
                getattr(batch, name).extend(column)
        return batch

    def _kind_in(self, part: bytes) -> _Kind | None:
        """What the last part of a head says; None: unreadable, or of a newer schema."""
        try:
            return self._kinds[part]
        except KeyError:
            pass
        if len(self._kinds) >= KINDS_MAX:
            self._kinds.clear()
        try:
            message = _parse(part)
        except DecodeError:
            kind = None
        else:
            kind = None if message.schema > SCHEMA or message.client else _kind(message)
        self._kinds[part] = kind
        return kind


class _Filling:
    """One batch being filled."""

    def __init__(self, kind_in: Callable[[bytes], _Kind | None]) -> None:
        self._kind_in = kind_in
        self._strings: dict[bytes, int] = {b"": 0}
        self._heads: dict[bytes, int] = {b"": _WHOLE}
        self._wholes: dict[tuple[bytes, bytes, int, int], int] = {}
        self._kinds: dict[bytes, int] = {}
        self._kind_numbers: dict[bytes, int] = {}
        self._tags: dict[tuple[bytes, bytes], int] = {}
        self._leases: dict[int, int] = {0: 0}
        self.tag_client: list[int] = []
        self.tag_project: list[int] = []
        self.tag_of: list[int] = []
        self.lease_of: list[int] = []
        self.kind_of: list[int] = []
        """By head: its tag, 1 + its lease, its kind."""
        self.heads: list[int] = []
        """Each record's head."""
        self.rare: list[usage_pb2.RareFields] = []
        self.unread: list[usage_pb2.Unread] = []

    @property
    def strings(self) -> list[str]:
        """The string table; what isn't UTF-8 was never written by us and stays readable."""
        return [text.decode("utf-8", "replace") for text in self._strings]

    @property
    def dimensions(self) -> bytes:
        """The Dimensions of each kind, as fields of a serialised Batch."""
        return b"".join(_field(kind) for kind in self._kind_numbers)

    @property
    def leases(self) -> list[int]:
        """The distinct leases, in the order of their numbers from 1."""
        return list(self._leases)[1:]

    def rows_of(self, frames: Sequence[Frame]) -> list[_Row]:
        """The numbers of each record; fills all else by the way."""
        rows: list[_Row] = []
        positions = self._heads
        add_row, add_head = rows.append, self.heads.append
        for _, _, head, rest in frames:
            position = positions.get(head)
            if position is None:
                position = positions[head] = self._position_of(head)
            if position == _WHOLE:
                position, row = self._read_whole(len(rows), head + rest, rows[-1][0] if rows else 0)
                add_row(row)
            else:
                add_row(_numbers_of(_parse(rest)))
            add_head(position)
        return rows

    def _position_of(self, head: bytes) -> int:
        """Cut a head where payload.py joined it; anything else is read as a whole."""
        try:
            client, project, lease, kind = _cut(head)
        except (ValueError, IndexError):
            return _WHOLE
        known = self._kinds.get(kind)
        if known is None:
            read = self._kind_in(kind)
            known = _WHOLE if read is None else self._number_of(self._kind_bytes(read))
            self._kinds[kind] = known
        if known == _WHOLE:
            return _WHOLE
        return self._add(client, project, _decoded(lease), known)

    def _number_of(self, kind: bytes) -> int:
        return self._kind_numbers.setdefault(kind, len(self._kind_numbers))

    def _add(self, client: bytes, project: bytes, lease: int, kind: int) -> int:
        """A new head; its position."""
        tag = self._tags.get((client, project))
        if tag is None:
            tag = self._tags[client, project] = len(self._tags)
            strings = self._strings
            self.tag_client.append(strings.setdefault(client, len(strings)))
            self.tag_project.append(strings.setdefault(project, len(strings)))
        self.tag_of.append(tag)
        self.lease_of.append(self._leases.setdefault(lease, len(self._leases)))
        self.kind_of.append(kind)
        return len(self.kind_of) - 1

    def _kind_bytes(self, kind: _Kind) -> bytes:
        strings = self._strings
        dimensions = usage_pb2.Dimensions()
        for name, text in kind.texts:
            setattr(dimensions, name, strings.setdefault(text, len(strings)))
        for name, number in kind.numbers:
            setattr(dimensions, name, number)
        return dimensions.SerializeToString()

    def _read_whole(self, index: int, payload: bytes, time_before: int) -> tuple[int, _Row]:
        """The dimensions and numbers of a record with something that few have."""
        try:
            message = _parse(payload)
            schema = message.schema
        except DecodeError:
            message, schema = None, 0
        if message is None or schema > SCHEMA:
            self.unread.append(usage_pb2.Unread(index=index, schema=schema, payload=payload))
            return self._blank(), (time_before, 0, 0, 0, 0, 0, 0)
        if any(_rare_of(message)) or message.HasField("history_bytes") or message.tool_calls:
            self.rare.append(_rare_fields(index, message))
        return self._position_of_whole(message), _numbers_of(message)

    def _position_of_whole(self, message: usage_pb2.UsageRecord) -> int:
        client, project = message.client.encode(), message.project.encode()
        kind = self._number_of(self._kind_bytes(_kind(message)))
        return self._head_of(client, project, message.lease_id, kind)

    def _blank(self) -> int:
        """The head of a record that is passed on unread."""
        return self._head_of(b"", b"", 0, self._number_of(b""))

    def _head_of(self, client: bytes, project: bytes, lease: int, kind: int) -> int:
        key = (client, project, lease, kind)
        position = self._wholes.get(key)
        if position is None:
            position = self._wholes[key] = self._add(client, project, lease, kind)
        return position


def _cut(head: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """A head's client, project, lease (a varint) and kind, as payload.py joined them.

    Raises:
        ValueError, IndexError: it was joined otherwise.
    """
    at, client, project, lease = 0, b"", b"", b""
    if head[at] == 0x0A:
        begin = at + 2
        at = begin + _short(head[at + 1])
        client = head[begin:at]
    if head[at] == 0x12:
        begin = at + 2
        at = begin + _short(head[at + 1])
        project = head[begin:at]
    if head[at] == 0x80 and head[at + 1] == 0x02:
        begin = at = at + 2
        while head[at] >= 0x80:
            at += 1
        at += 1
        lease = head[begin:at]
    return client, project, lease, head[at:]


def _short(length: int) -> int:
    if length >= 0x80:
        raise ValueError("a length of two bytes")
    return length


def _decoded(varint: bytes) -> int:
    """The number that a varint's bytes say; 0 for none."""
    number = 0
    for byte in reversed(varint):
        number = number << 7 | byte & 0x7F
    return number


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _field(dimensions: bytes) -> bytes:
    """Dimensions as an element of `Batch.dimensions`, number 6."""
    return b"\x32" + _varint(len(dimensions)) + dimensions


_TEXTS = (
    "provider", "operation", "request_model", "response_model", "server_address", "account"
)  # fmt: skip
_CONTEXT = ("service_tier", "speed", "processing", "inference_geo")
_NUMBERS = (
    "status", "http_status", "estimated", "attempt", "is_continuation", "is_stream"
)  # fmt: skip


def _kind(message: usage_pb2.UsageRecord) -> _Kind:
    texts = [(name, getattr(message, name)) for name in _TEXTS]
    if message.HasField("price_context"):
        texts += [(name, getattr(message.price_context, name)) for name in _CONTEXT]
    numbers = [(name, getattr(message, name)) for name in _NUMBERS]
    return _Kind(
        tuple((name, text.encode()) for name, text in texts if text),
        tuple((name, number) for name, number in numbers if number),
    )


def _rare_fields(index: int, message: usage_pb2.UsageRecord) -> usage_pb2.RareFields:
    rare = usage_pb2.RareFields(
        index=index,
        cache_write_tokens=message.cache_write_tokens,
        cache_write_long_tokens=message.cache_write_long_tokens,
        audio_input_tokens=message.audio_input_tokens,
        audio_output_tokens=message.audio_output_tokens,
        provider_cost=message.provider_cost,
        dedupe_id=message.dedupe_id,
        note=message.note,
    )
    if message.HasField("history_bytes"):
        rare.history_bytes = message.history_bytes
    rare.tool_calls.update(message.tool_calls)
    return rare
