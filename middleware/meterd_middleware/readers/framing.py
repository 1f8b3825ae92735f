"""Framing: bytes of a stream into events, lines or frames, cut anywhere.

    chunks ──Unifier──▶ one kind of line end ──▶ blocks ──event_of()──▶ name, data
    chunks ──Frames.feed()──▶ Frame(headers, payload)      AWS event streams

Server-sent events: lines end at CRLF, LF or a lone CR and nothing else (U+2028, U+2029 and
U+0085 stand raw inside JSON); a CR at the end of a chunk may be half of a CRLF; several
`data` lines join with LF; a byte order mark at the start is skipped. The last event counts
without its blank line too.

A frame that claims to be larger than `FRAME_BYTES_MAX` ends what can be read of its stream.

Sources: WHATWG HTML, 9.2.6; vnd.amazon.eventstream in the AWS SDKs.
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from typing import NamedTuple, TypeAlias

FRAME_BYTES_MAX = 8 * 2**20


class Framing(NamedTuple):
    """How a textual stream is cut: what ends an event, and how its data is found in it."""

    separator: bytes
    is_sse: bool


SERVER_SENT_EVENTS = Framing(b"\n\n", is_sse=True)
JSON_LINES = Framing(b"\n", is_sse=False)


class Unifier:
    """Makes every line end of a stream an LF, whole across chunks, and takes a BOM off.

    JSON holds no raw CR, so nothing but line ends is touched. A CR at the end of a chunk
    waits for what may be its LF.
    """

    __slots__ = ("_has_started", "_held")

    def __init__(self) -> None:
        self._held = b""
        self._has_started = False

    def feed(self, data: bytes) -> bytes:
        """The bytes, with LF for every line end."""
        if not self._has_started and data:
            data = self._held + data
            self._held = b""
            if len(data) < 3 and b"\xef\xbb\xbf".startswith(data):
                self._held = data
                return b""
            self._has_started = True
            data = data.removeprefix(b"\xef\xbb\xbf")
        if b"\r" not in data and not self._held:
            return data
        data = self._held + data
        self._held = b""
        if data.endswith(b"\r"):
            data, self._held = data[:-1], b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def finish(self) -> bytes:
        """What was held back."""
        held, self._held = self._held, b""
        return held.replace(b"\r", b"\n")


def event_of(block: bytes) -> tuple[str, bytes] | None:
    """Name and data of a server-sent event's lines; None for comments and events without data."""
    if block.startswith(b"data: ") and b"\n" not in block:
        return "", block[6:]
    name, datas = "", []
    for line in block.split(b"\n"):
        if line.startswith(b"data:"):
            datas.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line.startswith(b"event:"):
            name = line[6:].strip().decode("utf-8", "replace")
        elif line == b"data":
            datas.append(b"")
        elif line.startswith(b"error:"):  # llama.cpp and what is made of it: no field of SSE
            name = "error"
            datas.append(line[6:])
    return (name, b"\n".join(datas)) if datas else None


Frame: TypeAlias = tuple[str, str, bytes]
"""One message of an AWS event stream: its event's type, its own type, its payload. A plain
tuple: a named one costs a third of what else a frame does."""


class Frames:
    """Cuts AWS event-stream messages out of chunks; a bad checksum drops its frame.

    After a frame whose prelude doesn't check, nothing more can be found: there is no mark to
    look for. What was read before stands.
    """

    __slots__ = ("_have", "_need", "_parts", "dropped", "is_broken")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._have = 0
        self._need = PRELUDE_BYTES
        self.dropped = False
        self.is_broken = False

    @property
    def is_within(self) -> bool:
        """Whether a frame has begun that has not ended."""
        return self._have > 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that end in these bytes. Each byte is joined twice at most."""
        if self.is_broken or not data:
            return []
        self._parts.append(data)
        self._have += len(data)
        if self._have < self._need:
            return []
        data = b"".join(self._parts)
        frames: list[Frame] = []
        start, size = 0, len(data)
        self._need = PRELUDE_BYTES
        view = memoryview(data)
        while size - start >= PRELUDE_BYTES:
            total, head, prelude_sum = _PRELUDE.unpack_from(data, start)
            if size - start < total or total < _FRAME_BYTES_MIN:
                if not _is_prelude(view[start : start + 8], total, head, prelude_sum):
                    return self._stop(frames)
                self._need = total
                break
            first, start = start, start + total
            # The checksum of the whole covers the prelude: one sum is enough for most.
            if zlib.crc32(view[first : start - 4]) != int.from_bytes(data[start - 4 : start]):
                if not _is_prelude(view[first : first + 8], total, head, prelude_sum):
                    return self._stop(frames)
                self.dropped = True
                continue
            if PRELUDE_BYTES + head + 4 > total:
                self.dropped = True
                continue
            payload = first + PRELUDE_BYTES + head
            names = data[first + PRELUDE_BYTES : payload]
            event_type, message_type = _types(names) if head < 1024 else _types_of(names)
            frames.append((event_type, message_type, data[payload : start - 4]))
        rest = data[start:]
        self._parts, self._have = ([rest], len(rest)) if rest else ([], 0)
        return frames

    def _stop(self, frames: list[Frame]) -> list[Frame]:
        self._parts, self._have = [], 0
        self.is_broken = self.dropped = True
        return frames


def _is_prelude(lengths: memoryview, total: int, head: int, prelude_sum: int) -> bool:
    is_sane = PRELUDE_BYTES + head + 4 <= total <= FRAME_BYTES_MAX
    return is_sane and zlib.crc32(lengths) == prelude_sum


def _types_of(head: bytes) -> tuple[str, str]:
    """A frame's event type and message type."""
    headers = _frame_headers(head)
    event_type = headers.get(":event-type") or headers.get(":exception-type")
    return event_type or headers.get(":error-code", ""), headers.get(":message-type", "event")


_types = lru_cache(maxsize=64)(_types_of)  # a stream has few different heads

_FRAME_BYTES_MIN = 16
PRELUDE_BYTES = 12
_PRELUDE = struct.Struct(">III")
_FIXED_HEADER_BYTES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


def _frame_headers(data: bytes) -> dict[str, str]:
    """The string headers of a frame; the other types are stepped over."""
    headers: dict[str, str] = {}
    at = 0
    while at < len(data):
        length = data[at]
        name = data[at + 1 : at + 1 + length].decode("utf-8", "replace")
        at += 1 + length
        if at >= len(data):
            break
        kind = data[at]
        at += 1
        if kind in (6, 7):
            size = int.from_bytes(data[at : at + 2])
            if kind == 7:
                headers[name] = data[at + 2 : at + 2 + size].decode("utf-8", "replace")
            at += 2 + size
        elif kind in _FIXED_HEADER_BYTES:
            at += _FIXED_HEADER_BYTES[kind]
        else:
            break
    return headers
