"""The shells around a dialect: whole bodies, streams, frames; decoded, bounded, never raising.

    wire bytes ─decoder─▶ plain bytes ─▶ events that can say something ─▶ parsed, Tally
                                     └▶ all others: kept raw, counted if need be

`feed` is a copy and a look for the bytes that may announce the end; parsing is left to the
end. What is kept, whatever the size of the body:

| of | at most |
|---|---|
| a whole JSON body | 192 KiB: up to 128 KiB all of it, beyond that its two ends |
| a stream, not yet cut | 32 KiB and what the next chunk brings |
| an event that doesn't end | 256 KiB, beyond that its two ends |
| an AWS frame | 8 MiB, beyond that nothing more is read |
| raw events with text, for an estimate | 64 KiB; beyond that they are counted and dropped |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd_middleware.readers.counts import Reading, TextSeen
from meterd_middleware.readers.large import HEAD_BYTES, TAIL_BYTES, fields_of_large
from meterd_middleware.readers.parsing import parsed
from meterd_middleware.readers.text import TextCounter

if TYPE_CHECKING:
    from meterd_middleware.readers.decoding import Decoder
    from meterd_middleware.readers.tally import Tally

BODY_PARSED_BYTES_MAX = 128 * 1024
_NOTHING_AT_ITS_ENDS = "the body is too large to be parsed, and its ends say nothing"
NOTHING_SEEN = TextSeen()


class Shell:
    """What every shell does: decode, and say what was read without ever raising."""

    is_stream = False
    is_finished = False
    _text: TextCounter | None = None

    def __init__(self, tally: Tally, decoder: Decoder | None) -> None:
        self._tally = tally
        self._decoder = decoder

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self._decoder is None:
            self.feed_plain(chunk)
            return
        for piece in self._decoder.feed(chunk):
            self.feed_plain(piece)

    def feed_plain(self, data: bytes) -> None:
        """Take the next bytes, decoded."""
        raise NotImplementedError

    def decode_with(self, decoder: Decoder) -> None:
        """Decode what comes from now on; for a body whose start was decoded elsewhere."""
        self._decoder = decoder

    @property
    def text(self) -> TextCounter:
        """Counts the text that passed, from when it has to be counted."""
        if self._text is None:
            self._text = TextCounter()
        return self._text

    def _reading(self, is_complete: bool) -> Reading:
        tally = self._tally
        if self._decoder is not None and self._decoder.note:
            tally.note(self._decoder.note)
        return tally.reading(
            is_complete=is_complete and not tally.error,
            seen=NOTHING_SEEN if self._text is None else self._text.seen(),
            is_stream=self.is_stream,
        )


class WholeShell(Shell):
    """A body that is one JSON value: kept whole while small, its two ends beyond that."""

    _kept = 0
    _size = 0
    _head = b""

    def __init__(self, tally: Tally, decoder: Decoder | None) -> None:
        super().__init__(tally, decoder)
        self._chunks: list[bytes] = []

    def feed_plain(self, data: bytes) -> None:
        """Take the next bytes, decoded."""
        self._size += len(data)
        self._kept += len(data)
        self._chunks.append(data)
        if self._kept > BODY_PARSED_BYTES_MAX:
            self._shorten()

    def _shorten(self) -> None:
        joined = b"".join(self._chunks)
        if not self._head:
            self._head = joined[:HEAD_BYTES]
        tail = joined[-TAIL_BYTES:]
        self._tally.read_piece(joined[:-TAIL_BYTES])
        self._chunks, self._kept = [tail], len(tail)

    def finish(self, is_whole: bool) -> Reading:
        """Say what was read."""
        data = b"".join(self._chunks)
        is_parsed = self._read_ends(data) if self._head else self._read_whole(data)
        tally = self._tally
        if is_whole and not is_parsed:
            tally.note(
                _NOTHING_AT_ITS_ENDS if self._head else "the body is no JSON that can be read"
            )
        return self._reading(is_whole and (is_parsed or not tally.has_text))

    def _read_whole(self, data: bytes) -> bool:
        tally = self._tally
        body = parsed(data)
        is_parsed = True
        if isinstance(body, dict):
            tally.read_body(body)
        elif isinstance(body, list):  # Gemini without alt=sse: an array of what would be events
            for item in body:
                if isinstance(item, dict):
                    tally.read_event("", item)
        else:
            is_parsed = False
            self._read_part(data)
        if tally.has_text and not (is_parsed and tally.is_reported()):
            self.text.take(data)
        return is_parsed

    def _read_part(self, data: bytes) -> None:
        """Half a body: what its whole objects say; what passed of the text is the floor."""
        if data.lstrip()[:1] in (b"{", b"["):
            self._tally.read_body(fields_of_large(data[:HEAD_BYTES], data[-TAIL_BYTES:]))
            self._tally.read_raw(data)

    def _read_ends(self, data: bytes) -> bool:
        """A body too large to parse: its short fields and its last usage."""
        tail = data[-TAIL_BYTES:]
        tally = self._tally
        tally.read_body(fields_of_large(self._head, tail))
        tally.read_raw(self._head)
        tally.read_raw(tail)
        tally.read_piece(data)
        if tally.has_text and not tally.is_reported():
            self.text.take(tail)
            self.text.assume(self._size - len(tail))
        return bool(tally.counted())


class OpaqueShell(Shell):
    """A body that says nothing of usage: audio, pictures. Nothing of it is kept."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally, None)
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes: their number."""
        self._size += len(chunk)

    def finish(self, is_whole: bool) -> Reading:
        """Say that nothing was read."""
        return self._tally.reading(is_complete=is_whole and self._size > 0, seen=TextSeen())
