"""The frame codec: how records stand in a segment file, and how they are found again. Pure.

    magic 2 B │ kind u8 │ head u8 │ length u32 │ crc32 u32 │ sequence u64 │ payload

Little-endian; the checksum covers everything but itself. `head` is how much of the payload
is what records have in common (payload.py), so that a reader looks that up instead of
parsing it again; 0: not told. A torn or corrupt place costs what stands there and no more:
`scan` looks for the next magic whose whole frame checks out. Format: docs/architecture.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import TypeAlias
from zlib import crc32

MAGIC = b"\xd1M"
KIND_HEADER = 1
KIND_OPEN = 2
KIND_RECORD = 3

FRAME_BYTES_MAX = 256 * 1024
"""No payload is larger; a length beyond it is corruption, so that one bad bit can't make a
reader take the rest of a file for one frame."""
HEAD_BYTES_MAX = 255

Frame: TypeAlias = tuple[int, int, bytes, bytes]
"""(kind, sequence, head, rest): the payload is head + rest. A plain tuple, since making
anything dearer would double the time that reading a record takes."""

_START = Struct("<2sBBI")
_HEADER = Struct("<2sBBIIQ")
HEADER_BYTES = _HEADER.size
_CRC_AT = _START.size
_SEQUENCE_AT = _CRC_AT + 4


def frame(kind: int, sequence: int, payload: bytes, head: int = 0) -> bytes:
    """The bytes of one frame."""
    start = _START.pack(MAGIC, kind, head, len(payload))
    rest = sequence.to_bytes(8, "little") + payload
    return start + crc32(rest, crc32(start)).to_bytes(4, "little") + rest


@dataclass(slots=True)
class Scanned:
    """What a piece of a segment holds.

    `used` bytes were looked at: what follows is the beginning of a frame whose end is
    beyond the piece. `skipped` of the used bytes belong to no good frame.
    """

    frames: list[Frame] = field(default_factory=list)
    used: int = 0
    skipped: int = 0
    skipped_at_end: int = 0
    """The part of `skipped` after the last good frame: a torn tail, if the file ends here."""


def scan(data: bytes, *, is_end: bool) -> Scanned:
    """Take all whole frames out of a piece of a segment, stepping over what isn't one.

    Args:
        data: begins at a frame, or at something corrupt.
        is_end: nothing follows `data`: an unfinished frame is torn, not waited for.
    """
    found = Scanned()
    frames, view, unpack, size = found.frames, memoryview(data), _HEADER.unpack_from, len(data)
    at = 0
    while at + HEADER_BYTES <= size:
        magic, kind, head, length, checksum, sequence = unpack(data, at)
        begin = at + HEADER_BYTES
        end = begin + length
        if magic == MAGIC and length <= FRAME_BYTES_MAX and head <= length:
            if end > size:
                if not is_end:
                    break
            elif crc32(view[at + _SEQUENCE_AT : end], crc32(view[at : at + _CRC_AT])) == checksum:
                cut = begin + head
                frames.append((kind, sequence, data[begin:cut], data[cut:end]))
                at = end
                found.skipped_at_end = 0
                continue
        following = _next_magic(data, at + 1)
        found.skipped += following - at
        found.skipped_at_end += following - at
        at = following
    if is_end:
        found.skipped += size - at
        found.skipped_at_end += size - at
        at = size
    found.used = at
    return found


def _next_magic(data: bytes, start: int) -> int:
    """Where the next frame may begin; a lone first byte of the magic at the end counts."""
    at = data.find(MAGIC, start)
    if at >= 0:
        return at
    return len(data) - 1 if data.endswith(MAGIC[:1], start) else len(data)
