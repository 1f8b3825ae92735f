"""The packed column of a ledger row: what few records have, NULL when there is none of it.

A protobuf message (`meterd.v1.RareFields`), so that it is compact, and readable for ever by
any protobuf library; the correction of `billed_at` rides in front of it.

    rest = varint(zigzag(occurred_at_ms − billed_at_ms)) │ RareFields
"""

from __future__ import annotations

from meterd.store.batch import Rare
from meterd_proto.v1 import usage_pb2

PLAIN = Rare()


def pack(rare: Rare, billed_at_ms: int) -> bytes | None:
    """The column's bytes; None for a record that has nothing rare."""
    if rare == PLAIN:
        return None
    moved_ms = 0 if rare.occurred_at_ms is None else rare.occurred_at_ms - billed_at_ms
    message = usage_pb2.RareFields(
        cache_write_tokens=rare.cache_write_tokens,
        cache_write_long_tokens=rare.cache_write_long_tokens,
        audio_input_tokens=rare.audio_input_tokens,
        audio_output_tokens=rare.audio_output_tokens,
        tool_calls=dict(rare.tool_calls),
        provider_cost=rare.provider_cost,
        history_bytes=rare.history_bytes,
        dedupe_id=rare.dedupe_id,
        note=rare.note,
    )
    return _varint(_zigzag(moved_ms)) + message.SerializeToString(deterministic=True)


def unpack(rest: bytes | None, billed_at_ms: int) -> Rare:
    """What `pack` packed.

    Raises:
        ValueError: the bytes were not written by `pack`: a corrupt row.
    """
    if rest is None:
        return PLAIN
    moved, length = _read_varint(rest)
    message = usage_pb2.RareFields()
    try:
        message.ParseFromString(rest[length:])
    except Exception as fault:  # protobuf's DecodeError is not a ValueError
        raise ValueError("a ledger row's packed column can't be read") from fault
    moved_ms = (moved >> 1) ^ -(moved & 1)
    return Rare(
        cache_write_tokens=message.cache_write_tokens,
        cache_write_long_tokens=message.cache_write_long_tokens,
        audio_input_tokens=message.audio_input_tokens,
        audio_output_tokens=message.audio_output_tokens,
        tool_calls=tuple(sorted(message.tool_calls.items())),
        provider_cost=message.provider_cost,
        history_bytes=message.history_bytes if message.HasField("history_bytes") else None,
        dedupe_id=message.dedupe_id,
        note=message.note,
        occurred_at_ms=billed_at_ms + moved_ms if moved_ms else None,
    )


def _zigzag(number: int) -> int:
    return number << 1 if number >= 0 else (-number << 1) - 1


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes) -> tuple[int, int]:
    number = 0
    for position, byte in enumerate(data[:10]):
        number |= (byte & 0x7F) << 7 * position
        if not byte & 0x80:
            return number, position + 1
    raise ValueError("a ledger row's packed column has no beginning")
