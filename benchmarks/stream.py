"""What metering costs a stream of 100 events: throughput, time a chunk, time to first chunk."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import httpx
import httpx2

from benchmarks.bedrock import FRAMES
from benchmarks.daemon import metering
from benchmarks.exchanges import EXCHANGES, Exchange
from benchmarks.harness import ROUNDS_MIN, Pair, Report, Series, arguments, interleaved, pin
from benchmarks.server import serving
from meterd_middleware import Meter, instrument

if TYPE_CHECKING:
    from types import ModuleType

STREAMS = 30
ROUNDS = 3 * ROUNDS_MIN
"""Short rounds, many of them: beside other work on the machine a long one is never undisturbed."""
Turns = tuple[Pair, Pair, Pair]
"""Whole streams, the time until their first bytes, and the thread's CPU time for whole ones: bare
and metered, in microseconds."""


def main() -> None:
    options = arguments(__doc__ or "")
    pin(0)
    streams = STREAMS // (3 if options.quick else 1)
    report = Report("stream")
    with serving() as url, metering() as daemon, Meter(
        target=daemon.target, spool=str(daemon.spool_root), service="bench", client="acme-corp"
    ) as meter:  # fmt: skip
        chat = EXCHANGES["oa.chat"]
        whole, first, _ = _streams(httpx, url, chat, meter, streams)
        report.add("httpx, throughput", _throughput(whole), "× bare", "≥ 0.95")
        report.add("httpx, first chunk, added", first.added, "µs", "≤ 50")
        for exchange in EXCHANGES.values():
            whole, first, cpu = _streams(httpx2, url, exchange, meter, streams)
            chunks = len(exchange.events)
            name = exchange.name
            report.add(f"{name}, bare", whole.bare, "µs")
            report.add(f"{name}, throughput", _throughput(whole), "× bare", "≥ 0.95")
            per_chunk = Series(tuple(value / chunks for value in whole.added.values))
            report.add(f"{name}, a chunk, call included", per_chunk, "µs", "≤ 2")
            report.add(f"{name}, CPU", _throughput(cpu), "× bare")
            report.add(f"{name}, first chunk, added", first.added, "µs", "≤ 50")
        meter.flush(timeout=10)
    report.print(options.json)


def _throughput(pair: Pair) -> Series:
    return Series(tuple(1 / ratio for ratio in pair.ratio.values))


def _streams(
    library: ModuleType, url: str, exchange: Exchange, meter: Meter, streams: int
) -> Turns:
    """Medians of whole streams and of their beginnings, bare and metered in turns."""
    with library.Client() as bare, library.Client() as metered:
        instrument(metered, meter=meter)
        begun: dict[Any, list[float]] = {bare: [], metered: []}
        busy: dict[Any, list[float]] = {bare: [], metered: []}
        is_binary = exchange.stream_type == FRAMES

        def measure(client: Any) -> float:
            whole, first, worked = [], [], []
            for _ in range(streams):
                start, started = time.perf_counter_ns(), time.thread_time_ns()
                seen = 0
                with client.stream(
                    "POST", url + exchange.stream_path, json=exchange.stream_request
                ) as response:
                    for _ in response.iter_raw() if is_binary else response.iter_lines():
                        seen = seen or time.perf_counter_ns()
                worked.append(time.thread_time_ns() - started)
                whole.append(time.perf_counter_ns() - start)
                first.append(seen - start)
            begun[client].append(statistics.median(first) / 1000)
            busy[client].append(statistics.median(worked) / 1000)
            return statistics.median(whole) / 1000

        measure(bare), measure(metered)
        begun, busy = {bare: [], metered: []}, {bare: [], metered: []}
        pair = interleaved(lambda: measure(bare), lambda: measure(metered), ROUNDS)
        first, cpu = (
            Pair(Series(tuple(taken[bare])), Series(tuple(taken[metered])))
            for taken in (begun, busy)
        )
        return pair, first, cpu


if __name__ == "__main__":
    main()
