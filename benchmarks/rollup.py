"""The month's rollup by client over a small and a large ledger, and how fast meterd starts on it.

Both are built through the daemon's own Ship stream: 1,000 clients × 10 projects × 8 models over
the running period, and one client with a project a call; `--records` says how large the large one
gets. Then two daemons answer the same query in turns. `--keep DIR` builds in a directory that
stays, and takes what an earlier run has built there: 100 million records take half an hour.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from benchmarks.daemon import starting
from benchmarks.harness import Report, Series, machine
from benchmarks.sending import send
from benchmarks.workload import config
from meterd_proto.v1 import rollup_pb2
from meterd_proto.v1.rollup_pb2_grpc import RollupServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = 1_000_000
LARGE = 10_000_000
SMALL_QUICK = 250_000
LARGE_QUICK = 1_250_000
QUERIES = 300
SETTLED_AFTER_S = 3
PROCESSES = 9
STARTS = 7
BY_CLIENT = [rollup_pb2.DIMENSION_CLIENT]


def main() -> None:
    options = _options()
    small = SMALL_QUICK if options.quick else SMALL
    large = options.records or (LARGE_QUICK if options.quick else LARGE)
    report = Report("rollup")
    root = options.keep or Path(tempfile.mkdtemp(prefix="mb"))
    try:
        few, many = root / "small", root / "large"
        _build(few, small)
        took, period = _build(many, large)
        report.add("records in the large ledger", large, "records")
        if took:
            report.add("built at", large / took, "records/s")
        with (
            starting(few, _config(few), is_pinned=False) as beside,
            starting(many, _config(many), is_pinned=False) as daemon,
        ):
            before, after = _query_ms(beside.target, daemon.target, BY_CLIENT, period)
            _report_queries(report, small, large, before, after)
            _report_process(report, daemon.target, period)
            _report_size(report, daemon.data, large)
        _report_starts(report, many)
    finally:
        if options.keep is None:
            shutil.rmtree(root, ignore_errors=True)
    report.print(options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under 45 seconds")
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    parser.add_argument("--records", type=int, metavar="N", help="how large the ledger gets")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="build there, or take what is")
    return parser.parse_args()


def _config(root: Path) -> str:
    """What a ledger was built with: on another day the workload's periods begin on another."""
    kept = root / "meterd.toml"
    return kept.read_text() if kept.exists() else config()


def _build(root: Path, count: int) -> tuple[float, str]:
    """Fill a ledger in `root`, unless it is there; the seconds it took, and the period filled."""
    done = root / f"{count}.built"
    if done.exists():
        return 0.0, done.read_text()
    root.mkdir(parents=True)
    print(f"rollup: sending {count:,} records on {machine()}", file=sys.stderr)
    with starting(root, config(), is_pinned=False) as daemon:
        start = time.perf_counter()
        send(daemon.target, count, count)
        took = time.perf_counter() - start
        period = _running(daemon.target)
    done.write_text(period)
    return took, period


def _running(target: str) -> str:
    with grpc.insecure_channel(target) as channel:
        answers = RollupServiceStub(channel).Query(rollup_pb2.RollupRequest(by=BY_CLIENT))
        return str(next(answer.header.period for answer in answers))


def _query_ms(
    small: str, large: str, by: list[rollup_pb2.Dimension.ValueType], period: str
) -> tuple[list[float], list[float]]:
    """Milliseconds of each query over gRPC, the last row received, in order of size.

    Asked in turns, so that a noisy moment meets both; and not in the first seconds of a daemon,
    in which it imports what it didn't need to serve (up to 70 ms an answer then).
    """
    request = rollup_pb2.RollupRequest(by=by, period=period)
    with grpc.insecure_channel(small) as first, grpc.insecure_channel(large) as second:
        stubs = (RollupServiceStub(first), RollupServiceStub(second))
        taken: tuple[list[float], list[float]] = ([], [])
        begun = time.monotonic()
        while len(taken[0]) < QUERIES:
            is_settled = time.monotonic() - begun > SETTLED_AFTER_S
            for stub, times in zip(stubs, taken, strict=True):
                start = time.perf_counter_ns()
                for _ in stub.Query(request):
                    pass
                if is_settled:
                    times.append((time.perf_counter_ns() - start) / 1e6)
    return sorted(taken[0]), sorted(taken[1])


def _report_queries(
    report: Report, small: int, large: int, before: list[float], after: list[float]
) -> None:
    name = "by client"
    for count, taken in ((small, before), (large, after)):
        report.add(f"{name}, {_short(count)} records, p50", taken[len(taken) // 2], "ms")
        report.add(f"{name}, {_short(count)} records, p99", taken[-1 - len(taken) // 100], "ms",
                   "≤ 20" if count == large else "")  # fmt: skip
    ratio = after[len(after) // 2] / before[len(before) // 2]
    report.add(f"{name}, {_short(large)} of {_short(small)}, p50", ratio, "×", "≤ 1.2")


def _short(count: int) -> str:
    return f"{count / 1e6:g} M"


def _report_process(report: Report, target: str, period: str) -> None:
    command = [sys.executable, "-m", "meterd.cli.main", "rollup", period, "--target", target]

    def run() -> float:
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return (time.perf_counter() - start) * 1e3

    bare = _times(PROCESSES, lambda: _python_ms())
    ours = _times(PROCESSES, run)
    report.add("python -c pass, a process", bare, "ms")
    report.add("meterctl rollup, a process", ours, "ms", "≤ 400")


def _python_ms() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return (time.perf_counter() - start) * 1e3


def _times(count: int, measure: Callable[[], float]) -> Series:
    return Series(tuple(measure() for _ in range(count)))


def _report_size(report: Report, data: Path, count: int) -> None:
    held = sum(path.stat().st_size for path in data.iterdir() if path.suffix == ".db")
    report.add("database, rollups and names included", held / count, "bytes a record")


def _report_starts(report: Report, root: Path) -> None:
    """From the start of the process to SERVING; an empty ledger beside the large one."""
    empty = Path(tempfile.mkdtemp(prefix="mb"))
    try:
        bare, ours = [], []
        for _ in range(STARTS):
            with starting(empty, is_pinned=False) as daemon:
                bare.append(daemon.ready_s * 1e3)
            with starting(root, _config(root), is_pinned=False) as daemon:
                ours.append(daemon.ready_s * 1e3)
    finally:
        shutil.rmtree(empty, ignore_errors=True)
    report.add("start to SERVING, empty ledger", Series(tuple(bare)), "ms")
    report.add("start to SERVING, large ledger", Series(tuple(ours)), "ms", "≤ 500")


if __name__ == "__main__":
    main()
