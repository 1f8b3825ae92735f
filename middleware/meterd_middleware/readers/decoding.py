"""Content encodings, undone on the side: the app gets the bytes as sent, we read a copy.

Every member of a gzip body is decoded and both kinds of deflate; brotli and zstandard where
their package is installed. What can't be decoded gives no bytes and a note, and the call is
estimated. A body is decoded in pieces of at most a megabyte, and no further than
`DECODED_BYTES_MAX`, so that a small body can't become a large one here.

Source: RFC 9110, 8.4; RFC 1950–1952; RFC 7932; RFC 8878.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STEP_BYTES_MAX = 2**20
"""Of what a chunk decodes to, how much is handed on at a time."""

DECODED_BYTES_MAX = 256 * 2**20
"""Of one body; a large answer of embeddings is some 100 MB."""


class Decoder(Protocol):
    """Undoes one encoding, chunk by chunk."""

    @property
    def note(self) -> str:
        """Why something could not be decoded; empty: all is well."""
        ...

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What these bytes decode to so far, in pieces; never raises."""
        ...


def decoder_of(content_encoding: str) -> Decoder | None:
    """What undoes a Content-Encoding header; None: the bytes are as they are."""
    names = [name.strip().lower() for name in content_encoding.split(",")]
    names = [name for name in names if name and name != "identity"][:_NESTED_MAX]
    decoders = [_Bounded(_one(name)) for name in names]
    if not decoders:
        return None
    if len(decoders) == 1:
        return decoders[0]
    return _Nested(decoders[::-1])  # applied in order, so undone from the last


_NESTED_MAX = 4


def _one(name: str) -> Decoder:
    if name in ("gzip", "x-gzip"):
        return _Zlib("gzip", 16 + zlib.MAX_WBITS)
    if name == "deflate":
        return _Deflate()
    if name == "br":
        return _brotli()
    if name == "zstd":
        return _zstandard()
    return _Opaque(f"unknown content-encoding {name[:20]}")


class _Bounded:
    """Stops a decoder whose output has grown beyond all sense."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._size = 0

    @property
    def note(self) -> str:
        if self._size > DECODED_BYTES_MAX:
            return "decoded body too large to read"
        return self._decoder.note

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._size > DECODED_BYTES_MAX:
            return
        for piece in self._decoder.feed(data):
            self._size += len(piece)
            if self._size > DECODED_BYTES_MAX:
                return
            yield piece


class _Opaque:
    """An encoding that can't be undone here."""

    def __init__(self, note: str) -> None:
        self.note = note

    def feed(self, data: bytes) -> Iterator[bytes]:
        return iter(())


class _Zlib:
    """gzip or deflate, every member; httpx decodes the first alone, but usage may be in the last.

    A plain body that is labelled as encoded is read as it is.
    """

    def __init__(self, name: str, window_bits: int) -> None:
        self.note = ""
        self._name = name
        self._window_bits = window_bits
        self._member = zlib.decompressobj(window_bits)
        self._is_plain = False
        self._is_first = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._is_plain:
            yield data
            return
        while data and not self.note:
            try:
                piece = self._member.decompress(data, STEP_BYTES_MAX)
            except zlib.error:
                if self._is_first and data[:1] in _PLAIN_STARTS:
                    self._is_plain = True
                    yield data
                else:
                    self.note = f"broken {self._name}"
                return
            self._is_first = False
            if piece:
                yield piece
            data = self._rest()

    def _rest(self) -> bytes:
        """What is still to be decoded: of this member, or of the one that follows it."""
        if not self._member.eof:
            return self._member.unconsumed_tail
        rest = self._member.unused_data.lstrip(b"\0")
        if not rest.startswith(_GZIP_MAGIC):
            return b""  # trailing garbage, as httpx passes over it
        self._member = zlib.decompressobj(self._window_bits)
        return rest


_PLAIN_STARTS = (b"{", b"[", b"d", b":", b"e", b"\n", b" ")
_GZIP_MAGIC = b"\x1f\x8b"


class _Deflate:
    """deflate: with zlib's wrapper as the standard says, or raw as many servers send it."""

    def __init__(self) -> None:
        self._head = b""
        self._inner: _Zlib | None = None

    @property
    def note(self) -> str:
        return self._inner.note if self._inner else ""

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._inner is None:
            data = self._head + data
            if len(data) < 2:
                self._head = data
                return iter(())
            is_wrapped = data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0
            self._inner = _Zlib("deflate", zlib.MAX_WBITS if is_wrapped else -zlib.MAX_WBITS)
        return self._inner.feed(data)


class _Foreign:
    """A decoder of another package, its errors kept from everyone."""

    def __init__(self, steps: Callable[[bytes], Iterator[bytes]], name: str) -> None:
        self.note = ""
        self._steps = steps
        self._name = name

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self.note:
            return
        try:
            yield from self._steps(data)
        except GeneratorExit:
            raise
        except Exception:  # whatever that package raises: the body is broken
            self.note = f"broken {self._name}"


def _brotli() -> Decoder:
    try:
        import brotli
    except ImportError:
        try:
            import brotlicffi as brotli  # type: ignore[import-not-found]  # PyPy's
        except ImportError:
            return _Opaque("brotli is not installed")
    return _Foreign(_steps_of_brotli(brotli.Decompressor()), "brotli")


def _steps_of_brotli(decompressor: Any) -> Callable[[bytes], Iterator[bytes]]:
    """Brotli has a limit of output since 1.2; before that its input is fed by the kilobyte."""
    is_limited = hasattr(decompressor, "can_accept_more_data")
    process = getattr(decompressor, "process", None) or decompressor.decompress

    def steps(data: bytes) -> Iterator[bytes]:
        if not is_limited:
            for start in range(0, len(data), 1024):
                yield process(data[start : start + 1024])
            return
        piece = process(data, output_buffer_limit=STEP_BYTES_MAX)
        while piece or not decompressor.can_accept_more_data():  # it may take more, and hold some
            yield piece
            piece = process(b"", output_buffer_limit=STEP_BYTES_MAX)

    return steps


def _zstandard() -> Decoder:
    try:
        from backports import zstd
    except ImportError:
        pass
    else:
        return _Foreign(_frames_of_zstd(zstd.ZstdDecompressor, is_limited=True), "zstd")
    try:
        import zstandard
    except ImportError:
        return _Opaque("zstandard is not installed")
    make = zstandard.ZstdDecompressor().decompressobj
    return _Foreign(_frames_of_zstd(make, is_limited=False), "zstd")


def _frames_of_zstd(
    make: Callable[[], Any], *, is_limited: bool
) -> Callable[[bytes], Iterator[bytes]]:
    """Every frame of a zstandard body."""
    frame = make()

    def steps(data: bytes) -> Iterator[bytes]:
        nonlocal frame
        while data:
            if is_limited:
                yield frame.decompress(data, STEP_BYTES_MAX)
                while not (frame.eof or frame.needs_input):
                    yield frame.decompress(b"", STEP_BYTES_MAX)
            else:
                yield frame.decompress(data)
            if not getattr(frame, "eof", False):
                return
            data = frame.unused_data
            frame = make()

    return steps


class _Nested:
    """Several encodings, one inside the other."""

    def __init__(self, decoders: list[_Bounded]) -> None:
        self._decoders = decoders

    @property
    def note(self) -> str:
        return next((decoder.note for decoder in self._decoders if decoder.note), "")

    def feed(self, data: bytes) -> Iterator[bytes]:
        return self._through(data, 0)

    def _through(self, data: bytes, level: int) -> Iterator[bytes]:
        if level == len(self._decoders):
            yield data
            return
        for piece in self._decoders[level].feed(data):
            yield from self._through(piece, level + 1)
