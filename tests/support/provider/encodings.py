"""Content-encodings, streamed: what was fed so far can always be decoded."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import brotli
import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def compressed(parts: Sequence[bytes], encoding: str) -> list[bytes]:
    """Each part compressed and flushed, and the encoding's end as one more."""
    feed, end = _COMPRESSORS[encoding]()
    return [*(feed(part) for part in parts), end()]


def _zlib(window_bits: int) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    compressor = zlib.compressobj(6, zlib.DEFLATED, window_bits)

    def feed(data: bytes) -> bytes:
        return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)

    return feed, compressor.flush


def _gzip() -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    return _zlib(31)


def _deflate() -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    return _zlib(15)


def _brotli() -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    compressor = brotli.Compressor(quality=4)

    def feed(data: bytes) -> bytes:
        return bytes(compressor.process(data)) + bytes(compressor.flush())

    return feed, lambda: bytes(compressor.finish())


def _zstd() -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    compressor = zstandard.ZstdCompressor(level=3).compressobj()

    def feed(data: bytes) -> bytes:
        return compressor.compress(data) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    return feed, lambda: compressor.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)


_COMPRESSORS = {"gzip": _gzip, "deflate": _deflate, "br": _brotli, "zstd": _zstd}
