"""Many producers leasing from one daemon: real lease streams, real `Leases`, many a process.

    1,000 producers × 100 clients ─ calls, 1,000 a second in all ─▶ decided in memory
                                  ─ renewals ─ gRPC streams ─▶ meterd: its CPU is measured

Each lease begins with a part of it used, drawn at random, as leases are found in a process
that has run for a while: so renewals come as often as they would after hours.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from benchmarks.process import cpu_s
from meterd_middleware.lease import Reservation
from meterd_middleware.lease_stream import CALLS_PER_LEASE
from meterd_middleware.leases import Leases
from meterd_proto.v1 import quota_pb2, quota_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.harness import Report

PRODUCERS = 1_000
PRODUCERS_PER_CHANNEL = 10
CALLS_PER_S = 1_000
INPUT_TOKENS, REPLY_TOKENS = 800, 250
MODEL = "gpt-4o"
IDLE_S = 3.0


@dataclass(frozen=True, slots=True)
class _Patient:
    """The first answers are waited for, however long the daemon takes for 100,000 of them."""

    on_unreachable: str = "reject"
    lease_timeout_ms: int = 120_000


class Producer:
    """One process as the daemon sees it: a lease stream, and what it says and hears."""

    def __init__(self, stub: quota_pb2_grpc.QuotaServiceAsyncStub) -> None:
        self._is_said = asyncio.Event()
        self.requests = 0
        self.leases = Leases(
            _Patient(),  # type: ignore[arg-type]  # a str where Settings has a Literal
            now_ns=time.time_ns,
            monotonic_ns=time.monotonic_ns,
            wake=self._is_said.set,
        )
        self._call = stub.Lease()
        self._tasks = [asyncio.create_task(self._say()), asyncio.create_task(self._hear())]

    async def _say(self) -> None:
        hello = quota_pb2.LeaseHello(
            producer=os.urandom(16), service="bench", host="here", pid=1, last_sequence=0
        )
        self.leases.connected()
        await self._call.write(self.leases.hello(hello))
        while True:
            await self._is_said.wait()
            self._is_said.clear()
            self.leases.tick()
            for request in self.leases.take_requests():
                self.requests += 1
                await self._call.write(request)

    async def _hear(self) -> None:
        async for response in self._call:
            self.leases.on_response(response)

    async def first_calls(self, clients: Sequence[str], rng: random.Random) -> None:
        """Get a lease of each client, and use a part of it."""
        for client in clients:
            found = await self.leases.areserve(client, "", MODEL, INPUT_TOKENS, REPLY_TOKENS)
            assert isinstance(found, Reservation), found
            found.settle(INPUT_TOKENS, REPLY_TOKENS)
            for _ in range(rng.randrange(CALLS_PER_LEASE * 3 // 4)):
                self.call(client)

    def call(self, client: str) -> bool:
        """One call; whether it was decided in memory. `reserve` alone would wait."""
        found = self.leases._decide(client, "", MODEL, INPUT_TOKENS, REPLY_TOKENS)
        if not isinstance(found, Reservation):
            return False
        found.settle(INPUT_TOKENS, REPLY_TOKENS)
        return True

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._call.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def report_leasing(
    report: Report, target: str, pid: int, clients: Sequence[str], seconds: float
) -> None:
    """Measure what renewals cost the daemon while calls go on."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [
        grpc.aio.insecure_channel(target, options=options)
        for _ in range(PRODUCERS // PRODUCERS_PER_CHANNEL)
    ]
    producers = [
        Producer(quota_pb2_grpc.QuotaServiceStub(channel))
        for channel in channels
        for _ in range(PRODUCERS_PER_CHANNEL)
    ]
    try:
        await _report(report, producers, pid, clients, seconds)
    finally:
        await asyncio.gather(*(producer.end() for producer in producers))
        await asyncio.gather(*(channel.close() for channel in channels))


async def _report(
    report: Report, producers: list[Producer], pid: int, clients: Sequence[str], seconds: float
) -> None:
    rng = random.Random(7)
    leases = len(producers) * len(clients)
    before, start = cpu_s(pid), time.perf_counter()
    await asyncio.gather(*(producer.first_calls(clients, rng) for producer in producers))
    took, cpu = time.perf_counter() - start, cpu_s(pid) - before
    what = f"{len(producers):,} producers × {len(clients)} clients"
    report.add(f"{what}: first leases", leases / took, "leases/s")
    report.add("CPU of the daemon for a first lease", cpu / leases * 1e6, "µs")

    idle = await _busy(pid, IDLE_S, asyncio.sleep(IDLE_S))
    asked = sum(producer.requests for producer in producers)
    calls = _Calls(producers, clients, rng)
    busy = await _busy(pid, seconds, calls.run(seconds))
    asked = sum(producer.requests for producer in producers) - asked
    report.add(f"{what}: calls", calls.made / seconds, "calls/s")
    waited = "calls that had to wait for the daemon, after the first"
    report.add(waited, calls.undecided, f"of {calls.made:,}", "0")
    report.add("lease requests", asked / seconds, "requests/s")
    report.add("CPU of the daemon, streams open, no calls", idle * 100, "% of a core")
    report.add("CPU of the daemon for these requests", (busy - idle) * 100, "% of a core", "≤ 5")


async def _busy(pid: int, seconds: float, work: object) -> float:
    """The share of a core that the daemon takes while something goes on."""
    before, start = cpu_s(pid), time.perf_counter()
    await work  # type: ignore[misc]  # any awaitable
    return (cpu_s(pid) - before) / (time.perf_counter() - start)


class _Calls:
    """Calls of random producers for random clients, so many a second."""

    def __init__(
        self, producers: list[Producer], clients: Sequence[str], rng: random.Random
    ) -> None:
        self.made = self.undecided = 0
        self._producers, self._clients, self._rng = producers, clients, rng

    async def run(self, seconds: float) -> None:
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            while self.made < elapsed * CALLS_PER_S:
                self.made += 1
                producer = self._rng.choice(self._producers)
                self.undecided += not producer.call(self._rng.choice(self._clients))
            await asyncio.sleep(0.005)
