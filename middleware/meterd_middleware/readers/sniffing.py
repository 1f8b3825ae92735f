"""A body whose content-type says nothing useful, or not the truth: its first bytes say it.

first bytes ─▶ events · AWS frames · JSON lines, where the dialect has them · one JSON value
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from meterd_middleware.readers.frames import FrameShell
from meterd_middleware.readers.framing import JSON_LINES, PRELUDE_BYTES, SERVER_SENT_EVENTS
from meterd_middleware.readers.parsing import parsed
from meterd_middleware.readers.shells import WholeShell
from meterd_middleware.readers.streams import StreamShell

if TYPE_CHECKING:
    from meterd_middleware.readers.counts import Reading
    from meterd_middleware.readers.decoding import Decoder
    from meterd_middleware.readers.tally import Tally

_EVENT_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":", b"error:")


_EVENT_LETTERS = (b"d", b"e", b":", b"i", b"r")
"""With none of these does JSON begin."""


class JsonShell(WholeShell):
    """A body labelled as JSON; where it holds events all the same, they are read at its end."""

    def finish(self, is_whole: bool) -> Reading:
        """Say what was read."""
        chunks, tally = self._chunks, self._tally
        if len(chunks) == 1 and not self._head and chunks[0][:1] == b"{":
            body = parsed(chunks[0])
            if isinstance(body, dict):  # as nearly all are; what isn't goes the long way
                tally.read_body(body)
                if tally.has_text and not tally.is_reported():
                    self.text.take(chunks[0])
                return self._reading(is_whole)
        start = self._head or (self._chunks[0] if self._chunks else b"")
        if start[:1] not in _EVENT_LETTERS:
            return super().finish(is_whole)
        stream = StreamShell(self._tally, None, SERVER_SENT_EVENTS)
        data = b"".join(self._chunks)
        stream.feed_plain(self._head + b"\n\n" + data if self._head else data)
        return stream.finish(is_whole)


class SniffingShell:
    """Waits for the first bytes, then is one of the other shells.

    Args:
        is_in_lines: what begins with a brace is a JSON value a line.
    """

    def __init__(self, tally: Tally, decoder: Decoder | None, *, is_in_lines: bool) -> None:
        self._tally = tally
        self._decoder = decoder
        self._is_in_lines = is_in_lines
        self._start = b""
        self._shell: StreamShell | WholeShell | FrameShell | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the terminal event has passed."""
        return self._shell is not None and self._shell.is_finished

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self._shell is not None:
            self._shell.feed(chunk)
            return
        for piece in self._decoder.feed(chunk) if self._decoder else (chunk,):
            self._sniff(piece)

    def _sniff(self, data: bytes) -> None:
        if self._shell is not None:
            self._shell.feed_plain(data)
            return
        self._start += data
        seen = self._start.lstrip(b"\xef\xbb\xbf \r\n\t")
        if len(seen) >= PRELUDE_BYTES:
            self._begin(seen)

    def _begin(self, seen: bytes) -> None:
        shell: StreamShell | WholeShell | FrameShell
        if seen.startswith(_EVENT_STARTS):
            shell = StreamShell(self._tally, None, SERVER_SENT_EVENTS)
        elif _is_prelude(self._start):
            shell = FrameShell(self._tally, None)
        elif self._is_in_lines and seen.startswith(b"{"):
            shell = StreamShell(self._tally, None, JSON_LINES)
        else:
            shell = WholeShell(self._tally, None)
        if self._decoder is not None:
            shell.decode_with(self._decoder)
        shell.feed_plain(self._start)
        self._shell, self._start = shell, b""

    def finish(self, is_whole: bool) -> Reading:
        """Say what was read."""
        if self._shell is None:
            self._begin(self._start.lstrip(b"\xef\xbb\xbf \r\n\t"))
        assert self._shell is not None
        return self._shell.finish(is_whole)


def _is_prelude(data: bytes) -> bool:
    """Whether these bytes begin an AWS frame, which has a checksum over its lengths."""
    return len(data) >= PRELUDE_BYTES and zlib.crc32(data[:8]) == int.from_bytes(data[8:12])
