"""How long an event loop waits while abandoned streams are counted, the loading included.

    python -m benchmarks.waiting        benchmarks/estimates.py runs it, several times each way

A loop of its own process beats every millisecond and notes how late each beat is, while an
httpx client leaves streams of gpt-4o at a loopback provider. `METERD_TIKTOKEN=0` is the same
without counting. Prints one line of JSON: lateness in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time

import httpx

from meterd_middleware import Meter, instrument
from tests.support.provider import provider_process
from tests.wire.texts import PROSE

STREAMS = 20
BEAT_S = 0.001
SETTLING_S = 1.0
BODY = {
    "model": "gpt-4o",
    "stream": True,
    "messages": [{"role": "user", "content": text} for text in PROSE.values()] * 8,
    "provider_do": "output=200,reasoning=0",
}


async def _beat(late_ms: list[float], is_over: asyncio.Event) -> None:
    while not is_over.is_set():
        began = time.perf_counter()
        await asyncio.sleep(BEAT_S)
        late_ms.append(1e3 * (time.perf_counter() - began - BEAT_S))


async def _leave(client: httpx.AsyncClient, url: str) -> None:
    async with client.stream("POST", f"{url}/v1/chat/completions", json=BODY) as answer:
        async for _ in answer.aiter_bytes():
            break


async def _measured(url: str, spool: str) -> dict[str, float]:
    late_ms: list[float] = []
    is_over = asyncio.Event()
    meter = Meter(spool=spool, target="unix:/nonexistent/meterd.sock", client="acme-corp")
    async with instrument(httpx.AsyncClient(), meter=meter) as client:
        # What a first call does but once, in httpx and here: a connection, spool and shipper.
        await client.post(f"{url}/v1/chat/completions", json={**BODY, "stream": False})
        await asyncio.sleep(SETTLING_S)
        beating = asyncio.create_task(_beat(late_ms, is_over))
        for _ in range(STREAMS):
            await _leave(client, url)
        await asyncio.to_thread(meter.exchanges.drain, 30)
        is_over.set()
        await beating
    await asyncio.to_thread(meter.close, 0.1)
    late_ms.sort()
    return {
        "beats": len(late_ms),
        "p50": late_ms[len(late_ms) // 2],
        "p99": late_ms[len(late_ms) * 99 // 100],
        "max": late_ms[-1],
    }


def main() -> None:
    with provider_process() as url, tempfile.TemporaryDirectory() as spool:
        print(json.dumps(asyncio.run(_measured(url, spool))))


def lateness(*, counts: bool) -> dict[str, float]:
    """One run in a process of its own."""
    environ = {**os.environ, "METERD_TIKTOKEN": "1" if counts else "0"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.waiting"],
        env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
