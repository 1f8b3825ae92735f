"""Runs bytes through a reader, as the transport does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from meterd_middleware.readers import Reading, reader_for
from meterd_middleware.request import ProviderCall, read_request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meterd_middleware.readers import ModelUsage
    from tests.wire.dialects import Counts, Dialect


def call_of(dialect: Dialect, *, streamed: bool = False) -> ProviderCall:
    """The request of a dialect, recognised."""
    path = dialect.stream_path if streamed and dialect.stream_path else dialect.path
    body = {**dialect.request, "stream": streamed} if not dialect.stream_path else dialect.request
    call = read_request(
        "POST", dialect.host, path, "", {"content-type": "application/json"},
        json.dumps(body).encode(),
    )  # fmt: skip
    assert call is not None
    return call


def read(
    call: ProviderCall,
    chunks: Iterable[bytes],
    *,
    content_type: str = "application/json",
    encoding: str = "",
    is_whole: bool = True,
    headers: dict[str, str] | None = None,
) -> Reading:
    """What a reader makes of these chunks."""
    given = {"content-type": content_type, **(headers or {})}
    if encoding:
        given["content-encoding"] = encoding
    reader = reader_for(call, 200, given)
    for chunk in chunks:
        reader.feed(chunk)
        if reader.is_finished:
            break
    return reader.finish(is_whole)


def counts_in(usage: ModelUsage) -> dict[str, int | None]:
    """A usage's counts by the names of `Counts`."""
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read": usage.cache_read_tokens,
        "cache_write": usage.cache_write_tokens,
        "cache_write_long": usage.cache_write_long_tokens,
        "reasoning": usage.reasoning_tokens,
        "audio_input": usage.audio_input_tokens,
        "audio_output": usage.audio_output_tokens,
    }


def expected(counts: Counts) -> dict[str, int | None]:
    """The same of what was put in."""
    return dict(vars(counts))


def cut(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    """The data in pieces of these sizes, the rest as the last piece."""
    pieces, start = [], 0
    for size in sizes:
        if start >= len(data):
            break
        pieces.append(data[start : start + size])
        start += size
    if start < len(data):
        pieces.append(data[start:])
    return pieces
