"""A body whose content-type says nothing useful, or the wrong thing: its first bytes decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd_middleware.readers.framing import SERVER_SENT_EVENTS
from meterd_middleware.readers.shells import WholeShell
from meterd_middleware.readers.streams import StreamShell

if TYPE_CHECKING:
    from meterd_middleware.readers.counts import Reading
    from meterd_middleware.readers.decoding import Decoder
    from meterd_middleware.readers.tally import Tally

_EVENT_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":")


class JsonShell(WholeShell):
    """A body labelled as JSON; where it holds events all the same, they are read at its end."""

    def finish(self, is_whole: bool) -> Reading:
        """Say what was read."""
        start = self._head or (self._chunks[0] if self._chunks else b"")
        if start[:1] not in _EVENT_LETTERS:
            return super().finish(is_whole)
        stream = StreamShell(self._tally, None, SERVER_SENT_EVENTS)
        for data in (self._head, b"\n\n" if self._head else b"", *self._chunks):
            stream.feed_plain(data)
        return stream.finish(is_whole)


_EVENT_LETTERS = (b"d", b"e", b":", b"i", b"r")


class SniffingShell:
    """Waits for the first bytes, then is a stream of events or a whole body."""

    def __init__(self, tally: Tally, decoder: Decoder | None) -> None:
        self._tally = tally
        self._decoder = decoder
        self._start = b""
        self._shell: StreamShell | WholeShell | None = None

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
        if len(seen) >= 8:
            self._begin(seen)

    def _begin(self, seen: bytes) -> None:
        if seen.startswith(_EVENT_STARTS):
            self._shell = StreamShell(self._tally, None, SERVER_SENT_EVENTS)
        else:
            self._shell = WholeShell(self._tally, None)
        if self._decoder is not None:
            self._shell.decode_with(self._decoder)
        self._shell.feed_plain(self._start)
        self._start = b""

    def finish(self, is_whole: bool) -> Reading:
        """Say what was read."""
        if self._shell is None:
            self._begin(self._start.lstrip(b"\xef\xbb\xbf \r\n\t"))
        assert self._shell is not None
        return self._shell.finish(is_whole)
