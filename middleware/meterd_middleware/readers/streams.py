"""Streams of server-sent events and of JSON lines.

Events are looked for, not cut one by one: a search for a few keys over 32 KiB at a time costs
a tenth of a microsecond an event, cutting and judging each one four. Every byte is joined and
searched a bounded number of times, however it is cut.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING

from meterd_middleware.readers.framing import Unifier, event_of
from meterd_middleware.readers.large import HEAD_BYTES, TAIL_BYTES, fields_of_large_event
from meterd_middleware.readers.parsing import parsed
from meterd_middleware.readers.shells import BODY_PARSED_BYTES_MAX, Shell

if TYPE_CHECKING:
    from meterd_middleware.readers.counts import Reading
    from meterd_middleware.readers.decoding import Decoder
    from meterd_middleware.readers.framing import Framing
    from meterd_middleware.readers.tally import Tally

CUT_BYTES = 32 * 1024
EVENT_BYTES_MAX = 256 * 1024
TEXT_BYTES_MAX = 64 * 1024

_ERROR_EVENT = (b"event: error", b"event:error")


class StreamShell(Shell):
    """A stream of server-sent events or JSON lines."""

    is_stream = True

    def __init__(self, tally: Tally, decoder: Decoder | None, framing: Framing) -> None:
        super().__init__(tally, decoder)
        self._is_plain = decoder is None
        self._framing = framing
        self._unifier = Unifier()
        self._terminals = tally.terminals
        self._overlap = max((len(mark) for mark in tally.terminals), default=2) - 1
        self._edge = b""
        self._chunks: list[bytes] = []
        self._uncut = 0
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._may_be_ending = False
        self._has_begun = False
        self._raw: deque[bytes] = deque()
        self._raw_bytes = 0

    def decode_with(self, decoder: Decoder) -> None:
        """Decode what comes from now on."""
        super().decode_with(decoder)
        self._is_plain = False

    def keeps(self, chunk: bytes) -> bool:
        """Take a chunk of whole lines that announces no end, as nearly all are; else nothing.

        Searched by `rfind`: it takes half of `find`'s time, and `in` raises and drops an
        exception inside, as bytes might be asked for a number.
        """
        if self._is_plain:
            uncut = self._uncut + len(chunk)
            if uncut < CUT_BYTES and chunk[-1:] == b"\n":
                for mark in self._terminals:
                    if chunk.rfind(mark) >= 0:
                        return False
                self._chunks.append(chunk)
                self._uncut = uncut
                return True
        return False

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes: a copy and a look, half a microsecond for the usual chunk."""
        if not self.keeps(chunk) and not self.is_finished:
            super().feed(chunk)

    def feed_plain(self, data: bytes) -> None:
        """Take the next bytes, decoded."""
        self._chunks.append(data)
        self._uncut += len(data)
        if self._may_be_ending or self._uncut >= CUT_BYTES:
            self._cut()
            self._settle_in()
            return
        edge = self._edge + data[: self._overlap]
        if len(data) < self._overlap:
            data = edge  # so short that a mark may span three chunks
        for mark in self._terminals:
            if data.rfind(mark) >= 0 or edge.rfind(mark) >= 0:
                self._may_be_ending = True
                self._cut()
                self._settle_in()
                return
        # No mark holds a line's end, so none spans a chunk that ends with one: nearly all do.
        self._edge = b"" if data[-1:] == b"\n" else data[-self._overlap :]
        self._settle_in()

    def _settle_in(self) -> None:
        """Whether the next chunk can be judged by itself alone."""
        self._is_plain = not (
            self._edge or self._may_be_ending or self.is_finished or self._decoder is not None
        )

    def finish(self, is_whole: bool) -> Reading:
        """Say what was read."""
        tally = self._tally
        self._cut()
        if not self.is_finished:
            rest = b"".join((*self._pending, self._unifier.finish()))
            self._pending = []
            if not self._read_as_body(rest, is_whole):
                self._scan(rest.rstrip(b"\n") + self._framing.separator)
        is_complete = tally.is_finished or (is_whole and tally.may_be_whole)
        if not (is_complete or tally.has_last_count) or not tally.is_reported():
            self._count_text(0)
        return self._reading(is_complete)

    def _read_as_body(self, rest: bytes, is_whole: bool) -> bool:
        """A JSON body that was labelled as events, as some gateways send an error."""
        tally = self._tally
        if not self._framing.is_sse or rest.lstrip()[:1] not in (b"{", b"["):
            return False
        body = parsed(rest)
        if isinstance(body, dict):
            tally.read_body(body)
        elif isinstance(body, list):
            for item in body:
                if isinstance(item, dict):
                    tally.read_event("", item)
        else:
            return False
        tally.may_be_whole = tally.may_be_whole or is_whole
        if tally.has_text and not tally.is_reported():
            self._keep(rest)
        return True

    def _cut(self) -> None:
        """Take in all events that have ended; hold what has not, beyond a bound its ends."""
        if not self._chunks:
            return
        data = self._unifier.feed(b"".join(self._chunks))
        self._chunks, self._uncut = [], 0
        separator = self._framing.separator
        end = data.rfind(separator) + len(separator)
        if end < len(separator):
            is_at_the_seam = len(separator) == 2 and self._ends_a_line() and data[:1] == b"\n"
            end = 1 if is_at_the_seam else 0
        if end:
            self._pending.append(data[:end])
            whole = b"".join(self._pending)
            rest = data[end:]
            self._pending, self._pending_bytes = ([rest], len(rest)) if rest else ([], 0)
            self._scan(whole)
        elif data:
            self._pending.append(data)
            self._pending_bytes += len(data)
            if self._pending_bytes > EVENT_BYTES_MAX:
                self._shorten()
        if not self._pending_bytes:
            self._may_be_ending = False

    def _ends_a_line(self) -> bool:
        return bool(self._pending) and self._pending[-1].endswith(b"\n")

    def _shorten(self) -> None:
        joined = b"".join(self._pending)
        self._pending = [joined[:HEAD_BYTES], joined[-TAIL_BYTES:]]
        self._pending_bytes = HEAD_BYTES + TAIL_BYTES

    def _scan(self, whole: bytes) -> None:
        """Read of these whole events those that can say anything; keep the rest as it is."""
        tally = self._tally
        for start, end in self._places(whole):
            if tally.is_finished:
                break
            self._take(whole[start:end])
        self.is_finished = tally.is_finished
        if tally.has_text and not (self.is_finished and tally.is_reported()):
            self._keep(whole)

    def _places(self, whole: bytes) -> list[tuple[int, int]]:
        """Where the events stand that have to be read, in their order."""
        tally, separator = self._tally, self._framing.separator
        hits = []
        if not self._has_begun and whole and not whole.isspace():
            self._has_begun = True
            hits.append(len(whole) - len(whole.lstrip(b"\n")))
        marks, error_marks = _marks_of(tally.every, tally.terminals)
        if whole.rfind(b"error") >= 0:
            marks += error_marks
        for mark in marks:
            at = whole.rfind(mark)
            while at >= 0:
                hits.append(at)
                at = whole.rfind(separator, 0, at)
                at = whole.rfind(mark, 0, at) if at >= 0 else -1
        found = [at for mark in tally.last if (at := whole.rfind(mark)) >= 0]
        if tally.spaced and tally.may_be_spaced and tally.may_be_spaced.search(whole):
            found += [spaced.start() for spaced in tally.spaced.finditer(whole)]
        hits += found
        places = set()
        for at in hits:
            start = whole.rfind(separator, 0, at)
            start = 0 if start < 0 else start + len(separator)
            end = whole.find(separator, at)
            places.add((start, end if end >= 0 else len(whole)))
        return sorted(places)

    def _take(self, block: bytes) -> None:
        tally = self._tally
        if self._framing.is_sse:
            event = event_of(block)
            if event is None:
                return
            name, data = event
        else:
            name, data = "", block
        if data == b"[DONE]" and name != "error":
            tally.read_plain_event(data)
            return
        body = parsed(data) if len(data) <= BODY_PARSED_BYTES_MAX else None
        if body is None and len(data) > HEAD_BYTES:
            body = fields_of_large_event(data)
            tally.read_raw(data)
            tally.read_piece(data)
        if isinstance(body, dict):
            tally.read_event(name, body)
        elif isinstance(body, list):
            for item in body:
                if isinstance(item, dict):
                    tally.read_event(name, item)
        elif name == "error":
            tally.saw_error("error")
        else:
            tally.read_plain_event(data)

    def _keep(self, whole: bytes) -> None:
        self._raw.append(whole)
        self._raw_bytes += len(whole)
        if self._raw_bytes > TEXT_BYTES_MAX:
            self._count_text(TEXT_BYTES_MAX)

    def _count_text(self, down_to: int) -> None:
        """Count the oldest raw events until no more than `down_to` bytes are kept."""
        mark = self._tally.text_mark
        while self._raw and self._raw_bytes > down_to:
            raw = self._raw.popleft()
            self._raw_bytes -= len(raw)
            if mark:
                separator = self._framing.separator
                raw = b"\n".join(block for block in raw.split(separator) if mark in block)
            self.text.take(raw)


@lru_cache(maxsize=64)
def _marks_of(
    every: tuple[bytes, ...], terminals: tuple[bytes, ...]
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """What a dialect's events are looked for by: those without and those with "error" in it.

    Few streams have that word, and its absence is seen in one search instead of three.
    """
    marks = tuple(dict.fromkeys((*every, *terminals, *_ERROR_EVENT)))
    with_error = tuple(mark for mark in marks if b"error" in mark)
    return tuple(mark for mark in marks if mark not in with_error), with_error
