"""What the app itself pays for a record that nothing loses, and how soon it is durable in meterd.

    open frame + record ─▶ spool        1 and 8 threads, beside an idle and beside a busy disk
    record ─▶ acknowledgment            an idle daemon, one record at a time

The disk is made busy by a process that writes 4 MiB and fsyncs, over and over, in the same file
system. Bare are two `os.write` of as many bytes into one file: the least that any log costs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.daemon import metering
from benchmarks.harness import ROUNDS_MIN, Report, Series, arguments, interleaved
from meterd_middleware.settings import Settings
from meterd_middleware.shipper import Shipper
from meterd_middleware.spool import OpenCall
from meterd_middleware.usage import UsageRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLS = 20_000
LATENCIES = 200
PAUSE_S = 0.06
"""Longer than the shipper gathers under load: each record finds everything at rest."""
SLOW_US = 1_000
OPEN_BYTES, RECORD_BYTES = 150, 190

OPENED = OpenCall(
    client="acme-corp", project="support-chatbot", provider="openai", request_model="gpt-4o",
    occurred_at_unix_ns=1_700_000_000_000_000_000, input_tokens=800, reserved_tokens=1_824,
    server_address="api.openai.com", input_bytes=3_200,
)  # fmt: skip
RECORD = UsageRecord(
    client="acme-corp", project="support-chatbot", provider="openai", request_model="gpt-4o",
    response_model="gpt-4o-2024-08-06", http_status=200, duration_ms=900,
    occurred_at_unix_ns=1_700_000_000_000_000_000, input_tokens=812, output_tokens=240,
    server_address="api.openai.com", input_bytes=3_200,
)  # fmt: skip


def main() -> None:
    options = arguments(__doc__ or "")
    calls = CALLS // (4 if options.quick else 1)
    report = Report("spool")
    _report_calls(report, calls)
    _report_tail(report, calls)
    _report_latency(report, LATENCIES // (2 if options.quick else 1))
    report.print(options.json)


def _report_calls(report: Report, calls: int) -> None:
    with _shipping() as shipper, tempfile.TemporaryFile(buffering=0) as file:
        _calls_us(shipper, calls, 1)
        one = interleaved(
            lambda: _bare_us(file.fileno(), calls), lambda: _calls_us(shipper, calls, 1)
        )
        report.add("two writes, bare", one.bare, "µs a call")
        report.add("open frame + record, 1 thread", one.ours, "µs a call", "≤ 15")
        report.add("1 thread, of bare", one.ratio, "×")
        threads = interleaved(
            lambda: _calls_us(shipper, calls, 1), lambda: _calls_us(shipper, calls, 8)
        )
        report.add("open frame + record, 8 threads", threads.ours, "µs a call", "≤ 15")
        report.add("8 threads, of 1", threads.ratio, "×")
        with _one_core():
            taken = Series(tuple(_calls_us(shipper, calls, 8) for _ in range(ROUNDS_MIN)))
        report.add("8 threads, on one core", taken, "µs a call", "≤ 15")


def _report_tail(report: Report, calls: int) -> None:
    """Percentiles of single calls, each between two looks at the clock.

    A loop that never rests is the first to lose its processor to others, a call in some hundred
    where the machine is full: what it waited for one is told apart.
    """
    for name, around in (("idle disk", contextlib.nullcontext()), ("busy disk", _busy_disk())):
        with around, _shipping() as shipper:
            _calls_us(shipper, calls, 1)
            singles = [one for _ in range(ROUNDS_MIN) for one in _singles(shipper, calls)]
        taken = sorted(one.taken_us for one in singles)
        ours = sorted(one.taken_us - one.waited_us for one in singles)
        target = "≤ 10,000" if name == "busy disk" else ""
        report.add(f"{name}, p50", _percentile(taken, 0.5), "µs")
        report.add(f"{name}, p99", _percentile(taken, 0.99), "µs")
        report.add(f"{name}, p99.9", _percentile(taken, 0.999), "µs", target)
        report.add(f"{name}, slowest of {len(taken):,}", taken[-1], "µs")
        report.add(f"{name}, without waiting for a processor, p99.9",
                   _percentile(ours, 0.999), "µs", target)  # fmt: skip


def _report_latency(report: Report, count: int) -> None:
    with metering() as daemon, _shipping(daemon.target) as shipper:
        taken = []
        for at in range(count + 5):
            start = time.perf_counter_ns()
            shipper.append(RECORD)
            if not shipper.flush(10):
                raise RuntimeError("no acknowledgment in ten seconds")
            if at >= 5:  # the first connect
                taken.append((time.perf_counter_ns() - start) / 1e6)
            time.sleep(PAUSE_S)
    taken.sort()
    report.add("record to acknowledgment, p50", statistics.median(taken), "ms")
    report.add("record to acknowledgment, p99", _percentile(taken, 0.99), "ms", "≤ 25")


@contextlib.contextmanager
def _shipping(target: str = "unix:/nowhere/m.sock") -> Iterator[Shipper]:
    root = Path(tempfile.mkdtemp(prefix="mb"))
    shipper = Shipper(Settings.load(target=target, spool=root, service="bench"))
    try:
        yield shipper
    finally:
        shipper.close(1)
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """This thread, and those that it starts, on one core: what is left without the interpreter's
    lock, which each write lets go of, wandering from core to core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _calls_us(shipper: Shipper, calls: int, threads: int) -> float:
    """Microseconds a call, all threads together: from the first to the last."""

    def work() -> None:
        for _ in range(calls // threads):
            shipper.append(RECORD, closes=shipper.open_call(OPENED))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    start = time.perf_counter_ns()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return (time.perf_counter_ns() - start) / (calls // threads * threads) / 1_000


class _Single(NamedTuple):
    """One call: how long it took, and how much of that its thread was ready and had no core."""

    taken_us: float
    waited_us: float


def _singles(shipper: Shipper, calls: int) -> list[_Single]:
    singles = []
    clock = time.perf_counter_ns
    waited = _waited_us()
    for _ in range(calls):
        start = clock()
        shipper.append(RECORD, closes=shipper.open_call(OPENED))
        taken_us = (clock() - start) / 1_000
        if taken_us < SLOW_US:  # asking takes longer than a call does
            singles.append(_Single(taken_us, 0))
            continue
        before, waited = waited, _waited_us()
        singles.append(_Single(taken_us, min(waited - before, taken_us)))
    return singles


def _waited_us() -> float:
    """How long this thread has been ready to run without a core; 0 where no system says."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1_000
    except OSError:
        return 0.0


def _bare_us(fd: int, calls: int) -> float:
    opened, record = bytes(OPEN_BYTES), bytes(RECORD_BYTES)
    start = time.perf_counter_ns()
    for _ in range(calls):
        os.write(fd, opened)
        os.write(fd, record)
    taken = (time.perf_counter_ns() - start) / calls / 1_000
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    return taken


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@contextlib.contextmanager
def _busy_disk() -> Iterator[None]:
    """Somebody else's writes and fsyncs in the same file system."""
    program = (
        "import os,tempfile\n"
        "file=tempfile.TemporaryFile(buffering=0)\n"
        "data=os.urandom(1<<22)\n"
        "while True:\n"
        "    os.pwrite(file.fileno(),data,0)\n"
        "    os.fsync(file.fileno())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        try:
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    main()
