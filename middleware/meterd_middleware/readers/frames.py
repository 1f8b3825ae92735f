"""Streams of AWS frames, Bedrock's: each has a checksum, and an event inside.

    chunks ─ cut 32 KiB at a time, or when one may announce the end ─▶ frames ─▶ JSON lines

`converse-stream` names the event in the frame's header; `invoke-with-response-stream` wraps
the model's own event as base64, where a mark is looked for in its three alignments. What
comes out is read as a stream of lines is.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

from meterd_middleware.readers.framing import JSON_LINES, Frames
from meterd_middleware.readers.parsing import parsed
from meterd_middleware.readers.streams import CUT_BYTES, StreamShell

if TYPE_CHECKING:
    from meterd_middleware.readers.counts import Reading
    from meterd_middleware.readers.decoding import Decoder
    from meterd_middleware.readers.framing import Frame
    from meterd_middleware.readers.tally import Tally


def in_base64(mark: bytes) -> tuple[bytes, ...]:
    """What of a mark is sure to stand in base64 that holds it, in each alignment."""
    found = []
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + mark + b"\0" * (-(shift + len(mark)) % 3))
        first = -(-shift * 8 // 6)
        last = (shift + len(mark)) * 8 // 6
        found.append(encoded[first:last])
    return tuple(found)


class FrameShell(StreamShell):
    """A stream of AWS frames."""

    def __init__(self, tally: Tally, decoder: Decoder | None) -> None:
        super().__init__(tally, decoder, JSON_LINES)
        self._frames = Frames()
        self._marks = tally.frame_marks
        self._mark_overlap = max((len(mark) for mark in self._marks), default=1) - 1

    def keeps(self, chunk: bytes) -> bool:
        """Take nothing here: a mark may span any two frames' bytes."""
        return False

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes: a copy and a look."""
        if self.is_finished:
            return
        if self._decoder is None:
            self.feed_plain(chunk)
            return
        for piece in self._decoder.feed(chunk):
            self.feed_plain(piece)

    def feed_plain(self, data: bytes) -> None:
        """Take the next bytes, decoded."""
        self._chunks.append(data)
        self._uncut += len(data)
        if not self._may_be_ending:
            seen = self._edge + data
            self._edge = seen[-self._mark_overlap :]
            for mark in self._marks:
                if seen.rfind(mark) >= 0:
                    self._may_be_ending = True
                    break
        if self._may_be_ending or self._uncut >= CUT_BYTES:
            self._cut()

    def _cut(self) -> None:
        """Take in all frames that have ended."""
        if not self._chunks:
            return
        frames = self._frames.feed(b"".join(self._chunks))
        self._chunks, self._uncut = [], 0
        events = [event for frame in frames if (event := self._event_of(frame))]
        if events and not self.is_finished:
            self._scan(b"\n".join(events) + b"\n")
        if not self._frames.is_within:
            self._may_be_ending = False

    def _event_of(self, frame: Frame) -> bytes:
        """The event of a frame, as a line; nothing where there is none to be read."""
        kind, message_type, payload = frame
        if message_type in ("exception", "error"):
            self._tally.read_event(f"!{kind}", {})
            return b""
        event = unwrapped(payload)
        if event is None:
            self._tally.note("a frame could not be read")
            return b""
        if event.find(b"\n") >= 0:
            event = event.replace(b"\n", b" ")  # between its fields: in a text it is escaped
        return b'{"%s":%s}' % (kind.encode(), event) if kind in self._tally.frame_types else event

    def finish(self, is_whole: bool) -> Reading:
        """Say what was read."""
        self._cut()
        is_cut_off = is_whole and self._frames.is_within and not self.is_finished
        if self._frames.dropped or is_cut_off:
            self._tally.note("a frame could not be read")
        return super().finish(is_whole)


_WRAPPED = re.compile(rb'\{\s*"bytes"\s*:\s*"([A-Za-z0-9+/=]*)"')


def unwrapped(payload: bytes) -> bytes | None:
    """The event inside a frame if it is wrapped, else the payload; None: its base64 is broken."""
    wrapped = _WRAPPED.match(payload)
    if wrapped is None:
        return payload if b'"bytes"' not in payload[:400] else _unwrapped_slowly(payload)
    try:
        return binascii.a2b_base64(wrapped[1])
    except ValueError:
        return None


def _unwrapped_slowly(payload: bytes) -> bytes | None:
    body = parsed(payload)
    wrapped = body.get("bytes") if isinstance(body, dict) else None
    if not isinstance(wrapped, str):
        return payload
    try:
        return binascii.a2b_base64(wrapped)
    except ValueError:
        return None
