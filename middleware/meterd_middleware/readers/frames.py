"""Streams of AWS frames, Bedrock's: each has a checksum, and an event inside.

    chunks ─ cut 32 KiB at a time, or when one may announce the end ─▶ frames ─▶ events

`converse-stream` names the event in the frame's header; `invoke-with-response-stream` wraps
the model's own event as base64, where a mark is looked for in its three alignments.
"""

from __future__ import annotations

import base64
from collections import deque
from typing import TYPE_CHECKING

from meterd_middleware.readers.framing import Frames
from meterd_middleware.readers.parsing import parsed
from meterd_middleware.readers.shells import Shell
from meterd_middleware.readers.streams import CUT_BYTES, TEXT_BYTES_MAX

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


class FrameShell(Shell):
    """A stream of AWS frames."""

    is_stream = True

    def __init__(self, tally: Tally, decoder: Decoder | None) -> None:
        super().__init__(tally, decoder)
        self._frames = Frames()
        self._marks = tally.frame_marks
        self._overlap = max((len(mark) for mark in self._marks), default=1) - 1
        self._edge = b""
        self._chunks: list[bytes] = []
        self._uncut = 0
        self._may_be_ending = False
        self._raw: deque[bytes] = deque()
        self._raw_bytes = 0

    def feed_plain(self, data: bytes) -> None:
        """Take the next bytes, decoded."""
        if self.is_finished:
            return
        self._chunks.append(data)
        self._uncut += len(data)
        if not self._may_be_ending:
            seen = self._edge + data
            self._edge = seen[-self._overlap :]
            for mark in self._marks:
                if mark in seen:
                    self._may_be_ending = True
                    break
        if self._may_be_ending or self._uncut >= CUT_BYTES:
            self._cut()

    def _cut(self) -> None:
        frames = self._frames.feed(b"".join(self._chunks))
        self._chunks, self._uncut = [], 0
        for frame in frames:
            self._take(frame)
        self.is_finished = self._tally.is_finished
        if not self._frames.is_within:
            self._may_be_ending = False

    def _take(self, frame: Frame) -> None:
        tally = self._tally
        if frame.message_type in ("exception", "error"):
            tally.read_event(f"!{frame.event_type}", {})
            return
        event = unwrapped(frame.payload)
        if event is None:
            tally.note("a frame could not be read")
            return
        if frame.event_type in tally.frame_types or any(mark in event for mark in tally.every):
            body = parsed(event)
            if isinstance(body, dict):
                name = "" if event is not frame.payload else frame.event_type
                tally.read_event(name, body)
        if tally.has_text:
            self._keep(event)

    def _keep(self, event: bytes) -> None:
        self._raw.append(event)
        self._raw_bytes += len(event)
        if self._raw_bytes > TEXT_BYTES_MAX:
            self._count_text()

    def _count_text(self) -> None:
        self._text.take(b"\n".join(self._raw))
        self._raw.clear()
        self._raw_bytes = 0

    def finish(self, is_whole: bool) -> Reading:
        """Say what was read."""
        tally = self._tally
        if not self.is_finished:
            self._cut()
        is_cut = is_whole and self._frames.is_within and not self.is_finished
        if self._frames.dropped or is_cut:
            tally.note("a frame could not be read")
        is_complete = tally.is_finished or (is_whole and tally.may_be_whole)
        if not is_complete or not tally.is_reported():
            self._count_text()
        return self._reading(is_complete)


_WRAPPED = b'{"bytes":"'


def unwrapped(payload: bytes) -> bytes | None:
    """The event inside a frame if it is wrapped, else the payload; None: its base64 is broken."""
    if not payload.startswith(_WRAPPED):
        return payload if b'"bytes"' not in payload[:400] else _unwrapped_slowly(payload)
    end = payload.find(b'"', len(_WRAPPED))
    try:
        return base64.b64decode(payload[len(_WRAPPED) : end])
    except ValueError:
        return None


def _unwrapped_slowly(payload: bytes) -> bytes | None:
    body = parsed(payload)
    wrapped = body.get("bytes") if isinstance(body, dict) else None
    if not isinstance(wrapped, str):
        return payload
    try:
        return base64.b64decode(wrapped)
    except ValueError:
        return None
