"""Content encodings, undone on the side: the app gets the bytes as sent, we read a copy.

Every member of a gzip body is decoded and both kinds of deflate; brotli and zstandard where
their package is installed. What can't be decoded gives no bytes and a note, and the call is
estimated. Each step's output is bounded, so that a small body can't become a large one.

Source: RFC 9110, 8.4; RFC 1950–1952; RFC 7932; RFC 8878.
"""

from __future__ import annotations

import zlib
from typing import Protocol

STEP_BYTES_MAX = 2**20
"""Of one chunk, how much is decoded at a time."""


class Decoder(Protocol):
    """Undoes one encoding, chunk by chunk."""

    @property
    def note(self) -> str:
        """Why something could not be decoded; empty: all is well."""
        ...

    def feed(self, data: bytes) -> bytes:
        """What these bytes decode to so far; never raises."""
        ...


def decoder_of(content_encoding: str) -> Decoder | None:
    """What undoes a Content-Encoding header; None: the bytes are as they are."""
    names = [name.strip().lower() for name in content_encoding.split(",")]
    decoders = [_one(name) for name in names if name and name != "identity"]
    if not decoders:
        return None
    if len(decoders) == 1:
        return decoders[0]
    return _Nested(decoders[::-1])  # applied in order, so undone from the last


def _one(name: str) -> Decoder:
    if name in ("gzip", "x-gzip"):
        return _Gzip()
    if name == "deflate":
        return _Deflate()
    if name == "br":
        return _brotli()
    if name == "zstd":
        return _zstandard()
    return _Opaque(f"unknown content-encoding {name[:20]}")


class _Opaque:
    """An encoding that can't be undone here."""

    def __init__(self, note: str) -> None:
        self.note = note

    def feed(self, data: bytes) -> bytes:
        return b""


class _Gzip:
    """gzip, every member; httpx decodes the first alone, but the usage may stand in the last."""

    def __init__(self) -> None:
        self.note = ""
        self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._is_plain = False
        self._is_first = True

    def feed(self, data: bytes) -> bytes:
        if self._is_plain:
            return data
        if self.note:
            return b""
        out = []
        while data:
            try:
                out.append(self._member.decompress(data))
            except zlib.error:
                return self._not_gzip(data, b"".join(out))
            self._is_first = False
            if not self._member.eof:
                break
            data = self._member.unused_data.lstrip(b"\0")
            if not data.startswith(b"\x1f\x8b"):
                break  # trailing garbage, as httpx passes over it
            self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        return b"".join(out)

    def _not_gzip(self, data: bytes, so_far: bytes) -> bytes:
        """A plain body that was labelled gzip is read as it is; a broken one is noted."""
        if self._is_first and data[:1] in (b"{", b"[", b"d", b":", b"e", b"\n"):
            self._is_plain = True
            return data
        self.note = "broken gzip"
        return so_far


class _Deflate:
    """deflate: with zlib's wrapper as the standard says, or raw as many servers send it."""

    def __init__(self) -> None:
        self.note = ""
        self._head = b""
        self._stream: zlib._Decompress | None = None

    def feed(self, data: bytes) -> bytes:
        if self.note:
            return b""
        if self._stream is None:
            self._head += data
            if len(self._head) < 2:
                return b""
            wrapped = self._head[0] & 0x0F == 8 and int.from_bytes(self._head[:2]) % 31 == 0
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
            data, self._head = self._head, b""
        try:
            return self._stream.decompress(data)
        except zlib.error:
            self.note = "broken deflate"
            return b""


class _Foreign:
    """A decoder of another package, its errors kept from everyone."""

    def __init__(self, decompress: _Decompress, name: str) -> None:
        self.note = ""
        self._decompress = decompress
        self._name = name

    def feed(self, data: bytes) -> bytes:
        if self.note:
            return b""
        try:
            return self._decompress(data)
        except Exception:  # whatever that package raises: the body is broken
            self.note = f"broken {self._name}"
            return b""


class _Decompress(Protocol):
    def __call__(self, data: bytes, /) -> bytes: ...


def _brotli() -> Decoder:
    try:
        import brotli
    except ImportError:
        try:
            import brotlicffi as brotli  # type: ignore[import-not-found]  # PyPy's
        except ImportError:
            return _Opaque("brotli is not installed")
    decompressor = brotli.Decompressor()
    step: _Decompress = getattr(decompressor, "decompress", None) or decompressor.process
    return _Foreign(step, "brotli")


def _zstandard() -> Decoder:
    try:
        from backports import zstd
    except ImportError:
        pass
    else:
        return _Foreign(_members_of_zstd(zstd.ZstdDecompressor), "zstd")
    try:
        import zstandard
    except ImportError:
        return _Opaque("zstandard is not installed")
    return _Foreign(_members_of_zstd(zstandard.ZstdDecompressor().decompressobj), "zstd")


def _members_of_zstd(make: object) -> _Decompress:
    """Every frame of a zstandard body."""
    assert callable(make)
    current = [make()]

    def step(data: bytes) -> bytes:
        out = []
        while data:
            out.append(current[0].decompress(data))
            if not getattr(current[0], "eof", False):
                break
            data = current[0].unused_data
            current[0] = make()
        return b"".join(out)

    return step


class _Nested:
    """Several encodings, one inside the other."""

    def __init__(self, decoders: list[Decoder]) -> None:
        self._decoders = decoders

    @property
    def note(self) -> str:
        return next((decoder.note for decoder in self._decoders if decoder.note), "")

    def feed(self, data: bytes) -> bytes:
        for decoder in self._decoders:
            data = decoder.feed(data)
        return data
