"""Resident memory: the middleware over the bare app, the app while meterd is away, the daemon.

app        the same program, bare and metered, each a process of its own, after some calls
app, away  records appended with no meterd to take them: they wait on disk, not in memory
daemon     idle, and while millions of records pass through it
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.daemon import metering
from benchmarks.harness import ROUNDS_MIN, Report, Series, arguments
from benchmarks.process import rss_mib
from benchmarks.sending import send
from benchmarks.server import serving
from benchmarks.workload import config

CALLS = 300
AWAY_RECORDS, AWAY_RECORDS_QUICK = 1_000_000, 250_000
DAEMON_RECORDS, DAEMON_RECORDS_QUICK = 10_000_000, 1_000_000
IDLE_S = 3.0
WARM_SHARE = 2
"""Half of the records have passed when a process is taken for warm: what it keeps of names and
kinds is bounded, and full by then."""


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report("memory")
    rounds = 3 if options.quick else ROUNDS_MIN
    _report_app(report, rounds)
    _report_away(report, AWAY_RECORDS_QUICK if options.quick else AWAY_RECORDS)
    _report_daemon(report, DAEMON_RECORDS_QUICK if options.quick else DAEMON_RECORDS)
    report.print(options.json)


# ── the middleware over the bare app ──

_APP = """
import sys
import httpx2
from starlette.applications import Starlette
url, target, spool, path, body, calls = sys.argv[1:7]
app = Starlette()
client = httpx2.Client()
if target:
    from meterd_middleware import Meter, MeterMiddleware, instrument
    meter = Meter(target=target, spool=spool, service="bench", client="acme-corp")
    app.add_middleware(MeterMiddleware, meter=meter)
    instrument(client, meter=meter)
for _ in range(int(calls)):
    client.post(url + path, content=body, headers={"content-type": "application/json"}).json()
if target and not meter.flush(10):
    sys.exit("not everything was acknowledged")
from benchmarks.process import rss_mib
print(rss_mib())
"""


def _report_app(report: Report, rounds: int) -> None:
    from benchmarks.exchanges import EXCHANGES

    chat = EXCHANGES["oa.chat"]
    with serving() as url, metering() as daemon:

        def held(target: str) -> float:
            command = [sys.executable, "-c", _APP, url, target, str(daemon.spool_root), chat.path,
                       json.dumps(chat.request), str(CALLS)]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            return float(done.stdout)

        bare, ours = [], []
        for _ in range(rounds):
            bare.append(held(""))
            ours.append(held(daemon.target))
    report.add("bare app", Series(tuple(bare)), "MiB")
    added = Series(tuple(b - a for a, b in zip(bare, ours, strict=True)))
    report.add("middleware, added", added, "MiB", "≤ 25 MB")


# ── the app while meterd is away ──

_AWAY = """
import sys
from benchmarks.process import rss_mib
from benchmarks.workload import DAY_NS, records
from meterd_middleware.settings import Settings
from meterd_middleware.shipper import Shipper
spool, count = sys.argv[1], int(sys.argv[2])
shipper = Shipper(Settings.load(target="unix:/nowhere/m.sock", spool=spool, service="bench"))
for at, record in enumerate(records(count, 10**18, DAY_NS, 1), start=1):
    if not shipper.append(record):
        sys.exit("the spool refused a record")
    if at == count // 2 or at == count:
        print(rss_mib(), flush=True)
shipper.close(1)
"""


def _report_away(report: Report, count: int) -> None:
    root = tempfile.mkdtemp(prefix="mb")
    try:
        command = [sys.executable, "-c", _AWAY, root, str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        warm, end = (float(line) for line in done.stdout.split())
        held = sum(path.stat().st_size for path in Path(root).rglob("*.segment"))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    report.add(f"app, meterd away, {count // 2:,} records", warm, "MiB")
    report.add(f"app, meterd away, {count:,} records", end, "MiB")
    report.add("app, meterd away, grown in the second half", end / warm, "×", "≤ 1.05 (flat)")
    report.add("spool, a record", held / count, "bytes")


# ── the daemon ──


def _report_daemon(report: Report, count: int) -> None:
    with metering(is_pinned=False) as daemon:
        time.sleep(IDLE_S)  # what is put off until nothing happens has happened then
        report.add("daemon, idle", rss_mib(daemon.pid), "MiB", "≤ 80")
    with metering(config(), is_pinned=False) as daemon:
        time.sleep(IDLE_S)
        report.add("daemon, idle, 1,000 clients listed", rss_mib(daemon.pid), "MiB")
        seen: list[tuple[int, float]] = []
        send(daemon.target, count, 1, lambda durable: seen.append((durable, rss_mib(daemon.pid))))
    warm = max(rss for durable, rss in seen if durable <= count // WARM_SHARE)
    end = max(rss for durable, rss in seen if durable > count // WARM_SHARE)
    report.add(f"daemon, most within the first {count // WARM_SHARE:,}", warm, "MiB")
    report.add(f"daemon, most within all {count:,}", end, "MiB")
    report.add("daemon, grown in the second half", end / warm, "×", "≤ 1.05 (flat)")


if __name__ == "__main__":
    main()
