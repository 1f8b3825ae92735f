"""The shells around a dialect: whole bodies, event streams, lines and frames; decoded, bounded.

    wire bytes ─decoder─▶ plain bytes ─▶ events that can say something ─▶ parsed, Tally
                                     └▶ all others: kept raw, counted if need be

`feed` is a copy and a look for the bytes that may announce the end. Events are looked for,
not cut one by one: a search for a few keys over 32 KiB at a time costs a tenth of a
microsecond an event, cutting and judging each one four. What is kept, whatever the size of
the body:

| of | at most |
|---|---|
| a whole JSON body | 128 KiB, beyond that its first 16 KiB and its last 64 KiB |
| a stream, not yet cut | 32 KiB, and one event of at most 8 MiB |
| raw events with text, for an estimate | 128 KiB; beyond that they are counted and dropped |
"""

from __future__ import annotations

import base64
import re
from collections import deque
from typing import TYPE_CHECKING, Any

from meterd_middleware.readers.counts import Reading, TextSeen
from meterd_middleware.readers.framing import EVENT_BYTES_MAX, Frames, Unifier, event_of
from meterd_middleware.readers.parsing import loads
from meterd_middleware.readers.tally import Fields, Tally, fields_of
from meterd_middleware.readers.text import TextCounter

if TYPE_CHECKING:
    from meterd_middleware.readers.decoding import Decoder
    from meterd_middleware.readers.framing import Frame, Framing

BODY_PARSED_BYTES_MAX = 128 * 1024
HEAD_BYTES = 16 * 1024
TAIL_BYTES = 64 * 1024
CUT_BYTES = 32 * 1024
TEXT_BYTES_MAX = 128 * 1024
DEPTH_MAX = 500


class _Shell:
    """What every shell does: decode, and say what was read without ever raising."""

    def __init__(self, tally: Tally, decoder: Decoder | None) -> None:
        self.is_finished = False
        self._is_plain = decoder is None
        self._tally = tally
        self._decoder = decoder
        self._text = TextCounter()

    def decode_with(self, decoder: Decoder) -> None:
        """Decode what comes from now on; for a body whose start was decoded elsewhere."""
        self._decoder = decoder
        self._is_plain = False

    def _reading(self, is_complete: bool) -> Reading:
        tally = self._tally
        if self._decoder is not None and self._decoder.note:
            tally.note(self._decoder.note)
        return tally.reading(is_complete=is_complete, seen=self._text.seen())


class WholeShell(_Shell):
    """A body that is one JSON value: kept whole while small, its two ends beyond that."""

    def __init__(self, tally: Tally, decoder: Decoder | None) -> None:
        super().__init__(tally, decoder)
        self._chunks: list[bytes] = []
        self._kept = 0
        self._size = 0
        self._head = b""
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.feed_plain(self._decoder.feed(chunk) if self._decoder else chunk)

    def feed_plain(self, data: bytes) -> None:
        """Take the next bytes, decoded."""
        self._size += len(data)
        self._kept += len(data)
        self._chunks.append(data)
        if self._size > BODY_PARSED_BYTES_MAX and self._kept > 2 * TAIL_BYTES:
            self._shorten()

    def _shorten(self) -> None:
        joined = b"".join(self._chunks)
        if not self._head:
            self._head = joined[:HEAD_BYTES]
        tail = joined[-TAIL_BYTES:]
        self._chunks, self._kept = [tail], len(tail)

    def finish(self, is_whole: bool) -> Reading:
        """Say what was read."""
        data = b"".join(self._chunks)
        if self._size <= BODY_PARSED_BYTES_MAX:
            is_parsed = self._read_whole(data)
        else:
            is_parsed = self._read_ends(data)
        tally = self._tally
        is_complete = is_whole and (is_parsed or not tally.has_text)
        if is_whole and not is_parsed:
            tally.note("the body is no JSON that can be read")
        return self._reading(is_complete and not tally.error)

    def _read_whole(self, data: bytes) -> bool:
        body = parsed(data)
        if body is None:
            # Half a body: what passed of the text is the floor of what is billed.
            if data and self._tally.has_text:
                self._text.take(data.rstrip(b"\\") + b'"')
            return False
        if isinstance(body, dict):
            self._tally.read_body(body)
        elif isinstance(body, list):  # Gemini without alt=sse: an array of what would be events
            for item in body:
                if isinstance(item, dict):
                    self._tally.read_event("", item)
        else:
            return False
        if not _is_reported(self._tally) and self._tally.has_text:
            self._text.take(data)
        return True

    def _read_ends(self, data: bytes) -> bool:
        """Usage out of a body too large to parse: its last balanced object, else the head's."""
        tail = data[-TAIL_BYTES:]
        head = self._head or data[:HEAD_BYTES]
        fields = _string_fields(head, tail)
        usage = _last_usage(tail) or _last_usage(head)
        if usage is not None:
            name, value = usage
            fields[name] = value
        self._tally.read_body(fields)
        if not _is_reported(self._tally) and self._tally.has_text:
            self._text.take(tail)
            self._text.assume(self._size - len(tail))
        return usage is not None


class StreamShell(_Shell):
    """A stream of server-sent events or JSON lines."""

    def __init__(self, tally: Tally, decoder: Decoder | None, framing: Framing) -> None:
        super().__init__(tally, decoder)
        self._framing = framing
        self._unifier = Unifier()
        self._terminals = tally.terminals
        self._overlap = max((len(mark) for mark in tally.terminals), default=2) - 1
        self._edge = b""
        self._chunks: list[bytes] = []
        self._uncut = 0
        self._pending = b""
        self._may_be_ending = False
        self._has_begun = False
        self._raw: deque[bytes] = deque()
        self._raw_bytes = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes: a copy and a look, a microsecond for the usual chunk."""
        if self._is_plain:
            uncut = self._uncut + len(chunk)
            if uncut < CUT_BYTES and chunk[-1:] == b"\n":
                for mark in self._terminals:
                    if mark in chunk:
                        break
                else:
                    self._chunks.append(chunk)
                    self._uncut = uncut
                    return
        if not self.is_finished:
            self.feed_plain(chunk if self._decoder is None else self._decoder.feed(chunk))

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
            if mark in data or mark in edge:
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
        self._cut()
        if not self.is_finished:
            rest = self._pending + self._unifier.finish()
            self._pending = b""
            self._scan(rest.rstrip(b"\n") + self._framing.separator)
        tally = self._tally
        is_complete = tally.is_finished or (is_whole and tally.may_be_whole)
        if not is_complete or not _is_reported(tally):
            self._count_text(0)
        return self._reading(is_complete and not tally.error)

    def _cut(self) -> None:
        """Take in all events that have ended."""
        if not self._chunks:
            return
        data = self._unifier.feed(b"".join(self._chunks))
        self._chunks, self._uncut = [], 0
        data = self._pending + data
        separator = self._framing.separator
        end = data.rfind(separator) + len(separator)
        if end >= len(separator):
            self._pending = data[end:]
            self._scan(data[:end])
        else:
            self._pending = data
            if len(data) > EVENT_BYTES_MAX:
                self._pending = b""
                self._tally.note("an event could not be read")
        if not self._pending:
            self._may_be_ending = False

    def _scan(self, whole: bytes) -> None:
        """Read of these whole events those that can say anything; keep the rest as it is."""
        tally = self._tally
        for start, end in self._places(whole):
            if tally.is_finished:
                break
            self._take(whole[start:end])
        self.is_finished = tally.is_finished
        if tally.has_text and not (self.is_finished and _is_reported(tally)):
            self._keep(whole)

    def _places(self, whole: bytes) -> list[tuple[int, int]]:
        """Where the events stand that have to be read, in their order."""
        tally, separator = self._tally, self._framing.separator
        hits = []
        if not self._has_begun and whole.strip():
            self._has_begun = True
            hits.append(len(whole) - len(whole.lstrip(b"\n")))
        for mark in (*tally.every, *tally.terminals, *_ERROR_EVENT):
            at = whole.find(mark)
            while at >= 0:
                hits.append(at)
                at = whole.find(separator, at)
                at = whole.find(mark, at) if at >= 0 else -1
        hits += [at for mark in tally.last if (at := whole.rfind(mark)) >= 0]
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
        body = parsed(data) if len(data) <= BODY_PARSED_BYTES_MAX else _fields_of_large(data)
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
            self._count_text(TEXT_BYTES_MAX - CUT_BYTES)

    def _count_text(self, down_to: int) -> None:
        """Count the oldest raw events until no more than `down_to` bytes are kept."""
        mark = self._tally.text_mark
        while self._raw and self._raw_bytes > down_to:
            raw = self._raw.popleft()
            self._raw_bytes -= len(raw)
            if mark:
                separator = self._framing.separator
                raw = b"\n".join(block for block in raw.split(separator) if mark in block)
            self._text.take(raw)


_ERROR_EVENT = (b"event: error", b"event:error")


class FrameShell(_Shell):
    """A stream of AWS frames: each has a checksum, so each is looked at when it is whole."""

    def __init__(self, tally: Tally, decoder: Decoder | None) -> None:
        super().__init__(tally, decoder)
        self._frames = Frames()

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self.is_finished:
            return
        data = self._decoder.feed(chunk) if self._decoder else chunk
        for frame in self._frames.feed(data):
            self._take(frame)
        self.is_finished = self._tally.is_finished

    def _take(self, frame: Frame) -> None:
        is_exception = frame.message_type in ("exception", "error")
        name = f"!{frame.event_type}" if is_exception else frame.event_type
        body = parsed(frame.payload)
        if isinstance(body, dict):
            if self._tally.has_text:
                self._text.take(unwrapped(frame.payload, body))
            self._tally.read_event(name, body)
        elif is_exception:
            self._tally.read_event(name, {})

    def finish(self, is_whole: bool) -> Reading:
        """Say what was read."""
        tally = self._tally
        if self._frames.dropped:
            tally.note("a frame could not be read")
        is_complete = tally.is_finished or (is_whole and tally.may_be_whole)
        return self._reading(is_complete and not tally.error)


def unwrapped(payload: bytes, body: Fields) -> bytes:
    """The event inside a Bedrock frame, if it is wrapped; else the payload itself."""
    wrapped = body.get("bytes")
    if not isinstance(wrapped, str):
        return payload
    try:
        return base64.b64decode(wrapped)
    except ValueError:
        return b""


class OpaqueShell(_Shell):
    """A body that says nothing of usage: audio, pictures, a page of HTML. Nothing is kept."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally, None)
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes: their number."""
        self._size += len(chunk)

    def finish(self, is_whole: bool) -> Reading:
        """Say that nothing was read."""
        return self._tally.reading(is_complete=is_whole and self._size > 0, seen=TextSeen())


def parsed(data: bytes) -> Any:
    """JSON, or None where it is none we can read: broken, nested too deep, a monster number."""
    try:
        return loads(data)
    except (ValueError, RecursionError):
        return None


def _is_reported(tally: Tally) -> bool:
    """Whether both sides of the first model's usage were reported."""
    usages = tally.counted()
    return bool(usages) and None not in (usages[0].input_tokens, usages[0].output_tokens)


def _fields_of_large(data: bytes) -> Fields:
    """The few fields of an event too large to parse: a whole response, a picture."""
    head, tail = data[:HEAD_BYTES], data[-TAIL_BYTES:]
    fields = _string_fields(head, tail)
    usage = _last_usage(tail)
    if usage is not None:
        fields[usage[0]] = usage[1]
    if b'"response":' not in data[:400] and b'"response": ' not in data[:400]:
        return fields
    kind = fields.pop("type", "")
    return {"type": kind, "response": fields}


_STRING_FIELDS = re.compile(
    rb'"(id|model|status|service_tier|modelVersion|responseId|object|type|generation_id'
    rb'|response_id)"\s*:\s*"([^"\\]{1,200})"'
)
_USAGE_START = re.compile(rb'(?<!\\)"(usage|usageMetadata|meta|x_groq)"\s*:\s*(?=\{)')
_TOKENS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]', re.DOTALL)


def _string_fields(head: bytes, tail: bytes) -> Fields:
    """Short fields of a large body: the head's first, then what the tail alone has."""
    fields: Fields = {}
    for window in (head, tail):
        found: Fields = {}
        for name, value in _STRING_FIELDS.findall(window):
            found.setdefault(name.decode(), value.decode("utf-8", "replace"))
        fields = {**found, **fields}
    return fields


def _last_usage(window: bytes) -> tuple[str, Fields] | None:
    """The last usage object that stands at the top of its body, not inside a tool's input."""
    starts = list(_USAGE_START.finditer(window))[-16:]
    for found in reversed(starts):
        end, closers = _object_end(window, found.end())
        if end and closers in (1, 2, -1):
            value = fields_of(parsed(window[found.end() : end]))
            if value:
                return found[1].decode(), value
    return None


def _object_end(window: bytes, start: int) -> tuple[int, int]:
    """Where the object that begins at `start` ends, and how many levels close after it.

    0, 0 where it doesn't end in the window; −1 levels where the window ends too early to tell.
    """
    depth, end = 0, 0
    for token in _TOKENS.finditer(window, start):
        mark = token[0]
        if mark in (b"{", b"["):
            depth += 1
        elif mark in (b"}", b"]"):
            depth -= 1
            if depth == 0 and not end:
                end = token.end()
    if not end:
        return 0, 0
    return end, -depth if depth <= 0 else -1
