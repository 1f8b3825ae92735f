"""How long metering holds an event loop up: bodies of 4 MB, long streams, the first estimate.

What the transports call on the loop is called here directly, each step by itself, and timed by
the thread's own processor time: what others on the machine do is not our block.
"""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.harness import ROUNDS_MIN, Report, Series, arguments, pin
from meterd_middleware.settlement import Ending
from meterd_middleware.testing import RecordingMeter

if TYPE_CHECKING:
    from collections.abc import Sequence

LARGE_BYTES = 4 * 10**6
CHUNK_BYTES = 64 * 1024
TARGET = "≤ 1,000"
_CHAT = "/v1/chat/completions"
_HOST = "api.openai.com"
_WORDS = ("The", "quarterly", "report", "shows", "usage", "rose,", "2026", "naïve", "Größe", "数字")
_USAGE = {"prompt_tokens": 180, "completion_tokens": 120, "total_tokens": 300}
_EVENT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"rose in every region"}}]}\n\n'
_SSE, _JSON = "text/event-stream", "application/json"


def main() -> None:
    options = arguments(__doc__ or "")
    pin(0)
    report = Report("block")
    meter = RecordingMeter(client="acme-corp")
    ask = json.dumps({"model": "gpt-4o", "messages": [], "stream": True}).encode()
    estimated = _longest(meter, _Case(_CHAT, _request(2_000), [_EVENT] * 100, _SSE, Ending.LEFT))
    report.add("first estimate of a process", estimated, "µs", TARGET)
    large, answer = _request(LARGE_BYTES), _answer(LARGE_BYTES)
    for name, case in {
        "request of 4 MB": _Case(_CHAT, large, [_answer(200)]),
        "request of 4 MB, estimated": _Case(_CHAT, large, [_EVENT] * 100, _SSE, Ending.LEFT),
        "request of 250 KB, estimated": _Case(
            _CHAT, _request(250_000), [_EVENT] * 100, _SSE, Ending.LEFT
        ),
        "answer of 4 MB": _Case(_CHAT, ask, _cut(answer)),
        "answer of 4 MB, cut off": _Case(_CHAT, ask, _cut(answer[:-99]), ending=Ending.CUT),
        "embeddings of 4 MB": _Case("/v1/embeddings", ask, _cut(_embeddings())),
        "stream of 4 MB, estimated": _Case(_CHAT, ask, [_EVENT] * 45_000, _SSE, Ending.LEFT),
    }.items():
        longest = Series(tuple(_longest(meter, case) for _ in range(ROUNDS_MIN)))
        report.add(name, longest, "µs", TARGET)
    report.print(options.json)


class _Case(NamedTuple):
    path: str
    request: bytes
    chunks: Sequence[bytes]
    content_type: str = _JSON
    ending: Ending = Ending.END_OF_FILE


def _longest(meter: RecordingMeter, case: _Case) -> float:
    """Microseconds of the longest step of one call: before it is sent, a chunk, its end."""
    now = time.thread_time_ns
    headers = {"content-type": _JSON, "content-length": str(len(case.request))}
    start = now()
    exchange = meter.exchanges.begin("POST", _HOST, case.path, "", headers, case.request)
    longest = now() - start
    assert exchange is not None
    exchange.answered(200, {"content-type": case.content_type})
    keeps = exchange.keeps
    for chunk in case.chunks:
        start = now()
        if keeps is None or not keeps(chunk):
            exchange.feed(chunk)
        longest = max(longest, now() - start)
    start = now()
    exchange.end(case.ending)
    return max(longest, now() - start) / 1000


def _text(size: int) -> str:
    """Words in several scripts, so that no short way for one of them is taken."""
    pick = random.Random(1).choices
    return " ".join(pick(_WORDS, k=size // 7))[:size]


def _request(size: int) -> bytes:
    message = {"role": "user", "content": _text(size)}
    asked = {"model": "gpt-4o", "messages": [message], "stream": True}
    return json.dumps(asked, ensure_ascii=False).encode()


def _answer(size: int) -> bytes:
    message = {"role": "assistant", "content": _text(size)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": "c", "model": "gpt-4o", "choices": [choice], "usage": _USAGE}).encode()


def _embeddings() -> bytes:
    number = random.Random(1).random
    data = [{"index": at, "embedding": [number() for _ in range(1536)]} for at in range(128)]
    return json.dumps({"model": "e", "data": data, "usage": _USAGE}).encode()


def _cut(body: bytes) -> list[bytes]:
    return [body[at : at + CHUNK_BYTES] for at in range(0, len(body), CHUNK_BYTES)]


if __name__ == "__main__":
    main()
