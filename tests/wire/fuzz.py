"""The readers against what no provider should send: 100,000 cases a dialect, called by hand.

    .venv/bin/python -m tests.wire.fuzz                     all dialects, 100,000 cases each
    .venv/bin/python -m tests.wire.fuzz --cases 2000 cohere ollama
    .venv/bin/python -m tests.wire.fuzz --seed 7 --cases 1 openai    one case again
    .venv/bin/python -m tests.wire.fuzz --growth            how time grows with length

A case is a dialect's own answer with bytes, fields and numbers changed, cut anywhere, in any
encoding, under any content-type. No exception may escape, no count be negative or a part
larger than its whole, no note hold text of the body, and no case take longer than its length
allows. `test_fuzz.py` runs a few hundred of them with every test run.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from typing import TYPE_CHECKING

from meterd_middleware.estimate import output_tokens
from meterd_middleware.readers import reader_for
from meterd_middleware.usage import TOKENS_MAX
from tests.wire.dialects import DIALECTS, Counts, frame, sse
from tests.wire.encodings import ENCODINGS
from tests.wire.reading import call_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd_middleware.readers import ModelUsage, Reading
    from tests.wire.dialects import Dialect

SECRET = "zq7prompt"
"""Stands in every text: it must not come out in a note, an error or a name."""

SECONDS_A_CASE = 0.5
SECONDS_A_MEGABYTE = 4.0

GROWTH_MAX = 16
"""Eight times the length may take twice as long as eight times; a square would take 64."""

_CONTENT_TYPES = (
    "application/json", "text/event-stream", "text/event-stream; charset=utf-8", "text/html",
    "application/x-ndjson", "application/vnd.amazon.eventstream", "application/stream+json",
    "audio/mpeg", "", "text/plain", "APPLICATION/JSON",
)  # fmt: skip

_PIECES = (
    b"null", b"-1", b"1e999", b"NaN", b"true", b"[]", b"{}", b'"7"', b"3.5", b"9" * 400, b'"',
    b"\\",
    b"{", b"}", b"[", b"]", b",", b":", b"\r", b"\n\n", b"\r\n\r\n", b"data: ", b"event: error\n",
    b"data: [DONE]\n\n", b"\xef\xbb\xbf", b"\xff", b"\x00", b"\xe2\x80\xa8", b'"usage":{',
    b'"usage":null,', b'"error":{"type":"x"},', b'"error":"zq7prompt said so",', b"[" * 600,
    b'{"a":' * 600, b'"model":"m",', b'"choices":[],', b"message_stop", b"\x1f\x8b\x08",
    b'"input_tokens":5,"input_tokens":-5,', b'"id":7,', b'"model":{},', b'"type":["message_stop"],',
)  # fmt: skip


def case_of(dialect: Dialect, seed: int) -> tuple[bool, bytes, dict[str, str], list[int]]:
    """One case: whether streamed, its bytes, its headers, and where they are cut."""
    rng = random.Random(f"{dialect.name}:{seed}")
    streamed = dialect.stream is not None and rng.random() < 0.7
    taken, given = rng.randrange(5000), rng.randrange(500)
    counts = Counts(taken, given if dialect.has_output else 0)
    if streamed:
        assert dialect.stream is not None
        texts = [SECRET + "x" * rng.randrange(40) for _ in range(rng.randrange(1, 8))]
        body = b"".join(dialect.stream(counts, texts))
    else:
        body = dialect.whole(counts)
    body = _mutated(rng, body)
    encoding, encode = ENCODINGS[rng.choice(sorted(ENCODINGS))]
    body = encode(body)
    if rng.random() < 0.2:
        body = _mutated(rng, body)
    if rng.random() < 0.05:
        encoding = rng.choice(("gzip", "deflate", "br", "zstd", "rot13", "gzip, br, gzip", ""))
    content_type = dialect.stream_type if streamed else "application/json"
    if rng.random() < 0.2:
        content_type = rng.choice(_CONTENT_TYPES)
    headers = {"content-type": content_type}
    if encoding:
        headers["content-encoding"] = encoding
    if rng.random() < 0.05:
        headers["x-amzn-bedrock-input-token-count"] = rng.choice(("5", "-5", "x", "9" * 40, ""))
        headers["x-litellm-response-cost"] = rng.choice(("0.1", "-1", "nan", "x", "1e400"))
    longest = rng.choice((1, 3, 40, 1000, 10**6))
    sizes = []
    left = len(body)
    while left > 0:
        sizes.append(min(left, rng.randint(1, longest)))
        left -= sizes[-1]
    return streamed, body, headers, sizes


def _mutated(rng: random.Random, body: bytes) -> bytes:
    """Bytes changed, pieces put in, left out, doubled, moved."""
    data = bytearray(body)
    for _ in range(rng.choice((0, 1, 1, 2, 5, 20))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(7)
        if kind == 0:
            data[at:at] = rng.choice(_PIECES)
        elif kind == 1:
            del data[at : at + rng.randrange(1, 60)]
        elif kind == 2 and data:
            data[at % len(data)] = rng.randrange(256)
        elif kind == 3:
            data[at:at] = data[at : at + rng.randrange(1, 400)]
        elif kind == 4:
            _replace_number(rng, data)
        elif kind == 5:
            del data[at:]
        elif data:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 30)))
    return bytes(data)


def _replace_number(rng: random.Random, data: bytearray) -> None:
    """One of its numbers becomes something that is no count."""
    digits = [at for at in range(1, len(data)) if data[at : at + 1].isdigit()
              and bytes(data[at - 1 : at]) in (b":", b" ")]  # fmt: skip
    if digits:
        at = rng.choice(digits)
        end = at
        while end < len(data) and data[end : end + 1].isdigit():
            end += 1
        data[at:end] = rng.choice(_PIECES[:10])


def run_case(dialect: Dialect, seed: int) -> Reading:
    """Read one case and check what must hold of any.

    Raises:
        AssertionError: something did not hold.
    """
    streamed, body, headers, sizes = case_of(dialect, seed)
    reader = reader_for(call_of(dialect, streamed=streamed), 200, headers)
    start = time.process_time()
    at = 0
    for size in sizes:
        reader.feed(body[at : at + size])
        at += size
        if reader.is_finished and seed % 2:
            break
    reading = reader.finish(is_whole=seed % 3 > 0)
    seconds = time.process_time() - start
    assert seconds < SECONDS_A_CASE + SECONDS_A_MEGABYTE * len(body) / 1e6, f"{seconds:.2f} s"
    for usage in reading.usages:
        check_usage(usage)
    told = f"{reading.note} {reading.error} {reading.price_context} {reading.tool_calls}"
    assert SECRET not in told, told
    assert output_tokens(reading.seen, call_of(dialect)) >= 0
    assert reading.provider_cost is None or reading.provider_cost >= 0
    return reading


def check_usage(usage: ModelUsage) -> None:
    """No count is negative or beyond all numbers, no part is larger than its whole."""
    taken, given = usage.input_tokens, usage.output_tokens
    for whole, parts in (
        (taken, (usage.cache_read_tokens + usage.cache_write_tokens, usage.audio_input_tokens)),
        (given, (usage.reasoning_tokens, usage.audio_output_tokens)),
    ):
        assert whole is None or 0 <= whole <= 4 * TOKENS_MAX
        assert all(part >= 0 and (whole is None or part <= whole) for part in parts), usage
    assert 0 <= usage.cache_write_long_tokens <= usage.cache_write_tokens, usage


def seconds_to_read(dialect: Dialect, content_type: str, chunks: list[bytes]) -> float:
    """Processor time from the first byte to the reading."""
    reader = reader_for(call_of(dialect, streamed=True), 200, {"content-type": content_type})
    start = time.process_time()
    for chunk in chunks:
        reader.feed(chunk)
    reader.finish(True)
    return time.process_time() - start


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


_EVENTS, _JSON = "text/event-stream", "application/json"
_FRAMES = "application/vnd.amazon.eventstream"

LONG: dict[str, tuple[str, str, Callable[[int], list[bytes]]]] = {
    "a long event in small pieces": (
        "responses", _EVENTS,
        lambda size: _cut(
            sse({"type": "response.completed", "response": {"output": "x" * size}}), 64
        ),
    ),
    "an event that never ends": (
        "openai", _EVENTS, lambda size: _cut(b"data: [DONE" + b"x" * size, 64),
    ),
    "terminal words in a text": (
        "anthropic", _EVENTS,
        lambda size: [sse({"type": "x", "text": "message_stop"})] * (size // 60),
    ),
    "escaped quotes without end": (
        "openai", _JSON, lambda size: _cut(b'{"usage":{"a":"' + b'\\"' * (size // 2), 4096),
    ),
    "nothing but usages": (
        "openai", _JSON, lambda size: _cut(b"[" + b'{"usage":{},' * (size // 12), 4096),
    ),
    "braces": ("gemini", _JSON, lambda size: _cut(b"{" * size, 4096)),
    "a large frame in small pieces": (
        "bedrock converse", _FRAMES,
        lambda size: _cut(frame("contentBlockDelta", {"delta": {"text": "m" * size}}), 64),
    ),
    "small frames": (
        "anthropic on bedrock", _FRAMES,
        lambda size: [frame("chunk", {"bytes": "eA=="})] * (size // 150),
    ),
    "line ends": ("openai", _EVENTS, lambda size: _cut(b"\r\n" * (size // 2), 7)),
}  # fmt: skip
"""What would take for ever if a byte were looked at again for each one that follows."""


def growth() -> int:
    """How time grows with length; the number of cases where it grows too fast."""
    by_name = {dialect.name: dialect for dialect in DIALECTS}
    failures = 0
    for name, (dialect, content_type, make) in LONG.items():
        small, large = make(250_000), make(2_000_000)
        first = min(seconds_to_read(by_name[dialect], content_type, small) for _ in range(3))
        second = min(seconds_to_read(by_name[dialect], content_type, large) for _ in range(2))
        ratio = second / max(first, 1e-4)
        failures += ratio > GROWTH_MAX
        print(f"{name:32} 2 MB in {second * 1000:5.0f} ms, {ratio:4.1f} times 250 kB")
    return failures


def main() -> int:
    """Run the dialects that are named, or all; say which case failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dialects", nargs="*", help="names as in tests/wire/dialects.py")
    parser.add_argument("--cases", type=int, default=100_000, help="cases a dialect")
    parser.add_argument("--seed", type=int, default=0, help="the first case")
    parser.add_argument("--growth", action="store_true", help="how time grows with length")
    given = parser.parse_args()
    if given.growth:
        return 1 if growth() else 0
    failures = 0
    for dialect in DIALECTS:
        if given.dialects and dialect.name not in given.dialects:
            continue
        start = time.monotonic()
        for seed in range(given.seed, given.seed + given.cases):
            try:
                run_case(dialect, seed)
            except Exception as error:
                failures += 1
                print(f"{dialect.name}: case {seed}: {type(error).__name__}: {error}")
                if failures > 20:
                    return 1
        seconds = time.monotonic() - start
        print(f"{dialect.name:24} {given.cases:7,} cases  {seconds:6.0f} s", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
