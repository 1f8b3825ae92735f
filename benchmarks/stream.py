"""What metering costs a stream of 100 events: throughput, time a chunk, time to first chunk."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import httpx
import httpx2

from benchmarks.daemon import metering
from benchmarks.exchanges import EXCHANGES, Exchange
from benchmarks.harness import Pair, Report, Series, arguments, interleaved, pin
from benchmarks.server import serving
from meterd_middleware import Meter, instrument

if TYPE_CHECKING:
    from types import ModuleType

STREAMS = 120


def main() -> None:
    options = arguments(__doc__ or "")
    pin(0)
    streams = STREAMS // (3 if options.quick else 1)
    report = Report("stream")
    with serving() as url, metering() as daemon, Meter(
        target=daemon.target, spool=str(daemon.spool_root), service="bench", client="acme-corp"
    ) as meter:  # fmt: skip
        for library in (httpx2, httpx):
            name = library.__name__
            pair = _streams(library, url, EXCHANGES["oa.chat"], meter, streams)
            report.add(f"{name}, throughput", _throughput(pair), "× bare", "≥ 0.95")
        for exchange in EXCHANGES.values():
            pair = _streams(httpx2, url, exchange, meter, streams)
            chunks = len(exchange.events)
            report.add(f"{exchange.name}, throughput", _throughput(pair), "× bare", "≥ 0.95")
            per_chunk = Series(tuple(value / chunks for value in pair.added.values))
            report.add(f"{exchange.name}, a chunk", per_chunk, "µs", "≤ 2")
        first = _first_chunk(url, EXCHANGES["oa.chat"], meter, streams)
        report.add("first chunk, added", first.added, "µs", "≤ 50")
        meter.flush(timeout=10)
    report.print(options.json)


def _throughput(pair: Pair) -> Series:
    return Series(tuple(1 / ratio for ratio in pair.ratio.values))


def _streams(library: ModuleType, url: str, exchange: Exchange, meter: Meter, streams: int) -> Pair:
    """Median microseconds of a whole stream, bare and metered."""
    return _measured(library, url, exchange, meter, streams, until_first=False)


def _first_chunk(url: str, exchange: Exchange, meter: Meter, streams: int) -> Pair:
    """Median microseconds until the first bytes of the body, bare and metered."""
    return _measured(httpx2, url, exchange, meter, streams, until_first=True)


def _measured(
    library: ModuleType, url: str, exchange: Exchange, meter: Meter, streams: int, until_first: bool
) -> Pair:
    with library.Client() as bare, library.Client() as metered:
        instrument(metered, meter=meter)

        def measure(client: Any) -> float:
            taken = []
            for _ in range(streams):
                start = time.perf_counter_ns()
                first = 0
                with client.stream(
                    "POST", url + exchange.stream_path, json=exchange.stream_request
                ) as response:
                    for _ in response.iter_lines():
                        first = first or time.perf_counter_ns()
                end = first if until_first else time.perf_counter_ns()
                taken.append(end - start)
            return statistics.median(taken) / 1000

        measure(bare), measure(metered)
        return interleaved(lambda: measure(bare), lambda: measure(metered))


if __name__ == "__main__":
    main()
