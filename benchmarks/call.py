"""What metering adds to a JSON call: sync and async, httpx and httpx2, each dialect.

Against a provider that answers at once, the time added at the median; against one that
answers after 20 ms, the ratio to the bare call. A real daemon takes the records meanwhile.
The CPU time of the calling thread stands beside the clock's, which other work on the machine
moves by more than what is measured.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import TYPE_CHECKING, Any

import httpx
import httpx2

from benchmarks.daemon import metering
from benchmarks.exchanges import EXCHANGES, Exchange
from benchmarks.harness import ROUNDS_MIN, Pair, Report, Series, arguments, interleaved, pin
from benchmarks.server import serving
from meterd_middleware import Meter, instrument

if TYPE_CHECKING:
    from types import ModuleType

CALLS = 90
SLOW_CALLS = 8
ROUNDS = 3 * ROUNDS_MIN
"""Short rounds, many of them: beside other work on the machine a long one is never undisturbed."""


def main() -> None:
    options = arguments(__doc__ or "")
    pin(0)
    scale = 2 if options.quick else 1
    report = Report("call")
    with serving() as url, metering() as daemon, Meter(
        target=daemon.target, spool=str(daemon.spool_root), service="bench", client="acme-corp"
    ) as meter:  # fmt: skip
        chat = EXCHANGES["oa.chat"]
        for library in (httpx2, httpx):
            name = library.__name__
            fast, cpu = _sync(library, url, chat, meter, CALLS // scale)
            report.add(f"{name} sync, bare", fast.bare, "µs")
            report.add(f"{name} sync, added", fast.added, "µs", "≤ 60")
            report.add(f"{name} sync, CPU added", cpu.added, "µs")
            awaited = asyncio.run(_awaited(library, url, chat, meter, CALLS // scale))
            report.add(f"{name} async, bare", awaited.bare, "µs")
            report.add(f"{name} async, added", awaited.added, "µs", "≤ 60")
        slow, _ = _sync(httpx2, f"{url}/slow", chat, meter, SLOW_CALLS // scale)
        report.add("answer after 20 ms, ratio", slow.ratio, "×", "≤ 1.02")
        for exchange in EXCHANGES.values():
            pair, cpu = _sync(httpx2, url, exchange, meter, CALLS // scale // 2)
            report.add(f"{exchange.name}, added", pair.added, "µs", "≤ 60")
            report.add(f"{exchange.name}, CPU added", cpu.added, "µs")
        meter.flush(timeout=10)
    report.print(options.json)


def _sync(
    library: ModuleType, url: str, exchange: Exchange, meter: Meter, calls: int
) -> tuple[Pair, Pair]:
    """Median microseconds of a call, bare and metered: by the clock, and of its thread's CPU."""
    with library.Client() as bare, library.Client() as metered:
        instrument(metered, meter=meter)
        busy: dict[Any, list[float]] = {bare: [], metered: []}

        def measure(client: Any) -> float:
            taken, worked = [], []
            for _ in range(calls):
                start, started = time.perf_counter_ns(), time.thread_time_ns()
                client.post(url + exchange.path, json=exchange.request).json()
                worked.append(time.thread_time_ns() - started)
                taken.append(time.perf_counter_ns() - start)
            busy[client].append(statistics.median(worked) / 1000)
            return statistics.median(taken) / 1000

        measure(bare), measure(metered)
        busy = {bare: [], metered: []}
        pair = interleaved(lambda: measure(bare), lambda: measure(metered), ROUNDS)
        return pair, Pair(Series(tuple(busy[bare])), Series(tuple(busy[metered])))


async def _awaited(
    library: ModuleType, url: str, exchange: Exchange, meter: Meter, calls: int
) -> Pair:
    """The same, awaited; rounds are driven by hand, since `interleaved` is not async."""
    async with library.AsyncClient() as bare, library.AsyncClient() as metered:
        instrument(metered, meter=meter)

        async def measure(client: Any) -> float:
            taken = []
            for _ in range(calls):
                start = time.perf_counter_ns()
                (await client.post(url + exchange.path, json=exchange.request)).json()
                taken.append(time.perf_counter_ns() - start)
            return statistics.median(taken) / 1000

        await measure(bare), await measure(metered)
        bare_values, ours_values = [], []
        for _ in range(ROUNDS):
            bare_values.append(await measure(bare))
            ours_values.append(await measure(metered))
        return Pair(Series(tuple(bare_values)), Series(tuple(ours_values)))


if __name__ == "__main__":
    main()
