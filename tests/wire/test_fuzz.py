"""Whatever comes, a reader reads what can be trusted: a few cases of `fuzz.py` a dialect.

The longer run is by hand: `.venv/bin/python -m tests.wire.fuzz`, 100,000 cases a dialect.
"""

from __future__ import annotations

import gzip
import json
import tracemalloc

import brotli
import pytest
from backports import zstd

from meterd_middleware.readers import reader_for
from tests.wire.dialects import DIALECTS, Counts, Dialect, sse
from tests.wire.fuzz import run_case
from tests.wire.reading import call_of

CASES = 60
BY_NAME = {dialect.name: dialect for dialect in DIALECTS}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_no_body_makes_a_reader_raise_or_count_nonsense(dialect: Dialect) -> None:
    """Mutated answers in any encoding, cut anywhere; each case is a seed of its own."""
    for seed in range(CASES):
        run_case(dialect, seed)


@pytest.mark.parametrize("seed", [2103, 2150])
def test_cases_that_a_long_run_found(seed: int) -> None:
    """An event's type that is a list or an object, which can't be looked up in a set."""
    run_case(BY_NAME["responses"], seed)


@pytest.mark.parametrize(
    ("content_type", "piece"),
    [
        ("application/json", b'{"a":["' + b"x" * 60_000 + b'"],'),
        ("text/event-stream", b"data: " + b"x" * 60_000),
        ("text/event-stream", sse({"choices": [{"delta": {"content": "x" * 60_000}}]})),
        ("text/html", b"<p>" + b"x" * 60_000),
    ],
    ids=["a body", "an event without an end", "events of text", "a page"],
)
def test_memory_is_bounded_whatever_comes(content_type: str, piece: bytes) -> None:
    """Twenty megabytes pass; a few hundred kilobytes are kept."""
    reader = reader_for(
        call_of(BY_NAME["openai"], streamed=True), 200, {"content-type": content_type}
    )
    tracemalloc.start()
    try:
        for _ in range(350):
            reader.feed(bytes(piece))
        reader.finish(True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 3_000_000


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("gzip", gzip.compress), ("br", brotli.compress), ("zstd", zstd.compress)],
    ids=["gzip", "br", "zstd"],
)
def test_a_small_body_does_not_become_a_large_one(encoding: str, compress: object) -> None:
    """Forty megabytes of blanks in a few kilobytes: decoded by the megabyte."""
    assert callable(compress)
    body = json.dumps({"usage": {"prompt_tokens": 3, "completion_tokens": 1}}).encode()
    bomb = compress(b" " * 40_000_000 + body)
    headers = {"content-type": "application/json", "content-encoding": encoding}
    reader = reader_for(call_of(BY_NAME["openai"]), 200, headers)
    tracemalloc.start()
    try:
        reader.feed(bomb)
        reading = reader.finish(True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 16_000_000
    assert reading.usages[0].input_tokens == 3


def test_a_frame_is_read_as_soon_as_its_last_byte_is_there() -> None:
    """The last one is announced by a word in its header, which may be cut in two."""
    dialect = BY_NAME["bedrock converse"]
    assert dialect.stream is not None
    data = b"".join(dialect.stream(Counts(10, 5), ["a"] * 500))
    reader = reader_for(call_of(dialect, streamed=True), 200, {"content-type": dialect.stream_type})

    for at in range(len(data)):
        assert not reader.is_finished
        reader.feed(data[at : at + 1])

    assert reader.is_finished
