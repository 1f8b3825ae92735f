"""From filled spools to durable, priced and rolled up, against a bare `executemany`.

    producers, processes of their own ─ real gRPC ─▶ meterd ─▶ ledger, both rollups, watermark
    this process ─────────── executemany, 10,000 rows a transaction ─▶ the same table, alone

Seconds are those from the moment the producers find the socket to the last acknowledgment:
connecting, reading the spool, sending, and a commit with synchronous=FULL are all in them.
CPU is told beside, since it says what bounds the whole where wall time depends on who else
uses the machine.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.bare import Bare
from benchmarks.daemon import metering
from benchmarks.harness import Pair, Report, Series, alternated, arguments, interleaved
from benchmarks.process import cpu_s
from benchmarks.producer import Producer
from benchmarks.workload import DAY_NS, DAYS, config, records, span_ns
from meterd_middleware.batch import Batches
from meterd_middleware.payload import record_payload
from meterd_middleware.segment import KIND_RECORD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.daemon import Daemon
    from meterd_middleware.segment import Frame

RECORDS = 200_000
RECORDS_QUICK = 40_000
MANY = 16
SIZED_RECORDS = 20_000
BATCH_RECORDS = 4_096


def main() -> None:
    options = arguments(__doc__ or "")
    count = RECORDS_QUICK if options.quick else RECORDS
    report = Report("ingest")
    with ExitStack() as stack:
        bare = stack.enter_context(Bare(count))
        daemon = stack.enter_context(metering(config(), is_pinned=False))
        producers = [Producer() for _ in range(MANY)]
        for producer in producers:
            stack.callback(producer.close)
        ingest = Ingest(daemon, producers)
        _report_throughput(report, bare, ingest, count)
        if not options.quick:
            _report_sparse(report, bare, ingest, count)
        _report_bytes(report, ingest)
    if not options.quick:
        _report_own_prices(report, count)
    report.print(options.json)


class _Passage(NamedTuple):
    """One round: what it took, and whom."""

    seconds: float
    daemon_cpu_s: float
    producer_cpu_s: float
    unfairness: float
    """The fastest producer's throughput over the slowest's."""


class Ingest:
    """Rounds against one daemon, one after the other in the month that is recorded."""

    def __init__(self, daemon: Daemon, producers: Sequence[Producer]) -> None:
        self.daemon = daemon
        self.producers = producers
        self.passages: dict[int, list[_Passage]] = {}
        """By how many producers there were."""
        self._round = 0
        self.begin_month()

    def begin_month(self) -> None:
        """Go back to the first of the days that are recorded."""
        self._next_ns = time.time_ns() - DAYS * DAY_NS

    def seconds(
        self,
        count: int,
        producers: Sequence[Producer],
        shape: str = "plain",
        lasting_ns: int = 0,
    ) -> float:
        """Fill the spools with `count` records together; time their way into the ledger.

        `lasting_ns`: how long it took to use them; else as long as at the workload's pace.
        """
        root = Path(tempfile.mkdtemp(prefix="mb"))
        try:
            self._fill(
                root, count // len(producers), producers, shape, lasting_ns or span_ns(count)
            )
            return self._ship(root, producers)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def _fill(
        self,
        root: Path,
        count: int,
        producers: Sequence[Producer],
        shape: str,
        lasting_ns: int,
    ) -> None:
        self._round += 1
        for number, producer in enumerate(producers):
            producer.begin(
                "fill",
                target=f"unix:{root}/go.sock",
                spool=str(root / "spool"),
                count=count,
                first_ns=self._next_ns,
                span_ns=lasting_ns,
                seed=self._round * MANY + number,
                shape=shape,
            )
        for producer in producers:
            producer.end()
        self._next_ns += lasting_ns

    def _ship(self, root: Path, producers: Sequence[Producer]) -> float:
        before = cpu_s(self.daemon.pid)
        (root / "go.sock").symlink_to(self.daemon.target.removeprefix("unix:"))
        for producer in producers:
            producer.begin("ship")
        done = [producer.end() for producer in producers]
        start = min(one["start_s"] for one in done)
        took = [one["end_s"] - start for one in done]
        self.passages.setdefault(len(producers), []).append(
            _Passage(
                max(took),
                cpu_s(self.daemon.pid) - before,
                sum(one["cpu_s"] for one in done),
                max(took) / min(took),
            )
        )
        return max(took)


def _report_throughput(report: Report, bare: Bare, ingest: Ingest, count: int) -> None:
    one, many = ingest.producers[:1], ingest.producers
    ways = (
        bare.seconds,
        bare.seconds_short,
        lambda: ingest.seconds(count, one),
        lambda: ingest.seconds(count, many),
        lambda: ingest.seconds(count, one, "unpriced"),
    )
    for way in ways:
        way()
    ingest.passages.clear()
    full, short, ours, together, unpriced = alternated(*ways)
    report.add("bare executemany", _per_second(count, full), "rows/s")
    report.add("one producer", _per_second(count, ours), "records/s")
    report.add("one producer, of bare", _inverse(Pair(full, ours)), "×", "≥ 0.30, aim 0.40")
    report.add("one producer, of bare without NULL", _inverse(Pair(short, ours)), "×")
    report.add(f"{MANY} producers", _per_second(count, together), "records/s")
    report.add(f"{MANY} producers, of one", _inverse(Pair(ours, together)), "×", "≥ 0.80")
    worst = Series(tuple(one.unfairness for one in ingest.passages[MANY]))
    report.add(f"{MANY} producers, fastest over slowest", worst, "×", "≤ 2")
    report.add("priced, of unpriced", _inverse(Pair(unpriced, ours)), "×", "≥ 0.90")
    _report_cpu(report, ingest.passages[1], count)


def _report_cpu(report: Report, passages: Sequence[_Passage], count: int) -> None:
    """What bounds it, told by who works: wall time depends on who else uses the machine."""
    daemon = [passage.daemon_cpu_s for passage in passages]
    shipper = [passage.producer_cpu_s for passage in passages]
    report.add("daemon, CPU", _each_us(count, daemon), "µs a record")
    report.add("shipper, CPU", _each_us(count, shipper), "µs a record")


def _report_sparse(report: Report, bare: Bare, ingest: Ingest, count: int) -> None:
    """A day's records in each round: nearly every one has a rollup row of its own."""
    one = ingest.producers[:1]
    ingest.begin_month()
    pair = interleaved(bare.seconds, lambda: ingest.seconds(count, one, lasting_ns=DAY_NS))
    report.add("a day in a round, of bare", _inverse(pair), "×")


def _report_own_prices(report: Report, count: int) -> None:
    """Where each client has a price of its own, every record of that model is looked at."""
    with ExitStack() as stack:
        producer = Producer()
        stack.callback(producer.close)
        book = Ingest(stack.enter_context(metering(config(), is_pinned=False)), [producer])
        own = Ingest(stack.enter_context(metering(config(True), is_pinned=False)), [producer])
        pair = _warmed(
            lambda: book.seconds(count, [producer]), lambda: own.seconds(count, [producer])
        )
        report.add("a price for each client, of the book's", _inverse(pair), "×")


def _warmed(bare: Callable[[], float], ours: Callable[[], float]) -> Pair:
    bare(), ours()
    return interleaved(bare, ours)


def _report_bytes(report: Report, ingest: Ingest) -> None:
    for shape, target in (("plain", "≤ 40"), ("sampled", ""), ("everything", "≤ 70")):
        before = _ledger_bytes(ingest.daemon.data)
        ingest.seconds(SIZED_RECORDS, ingest.producers[:1], shape)
        added = _ledger_bytes(ingest.daemon.data) - before
        report.add(f"ledger, {shape} record", added / SIZED_RECORDS, "bytes", target)
    for shape, target in (("plain", "≤ 40"), ("everything", "")):
        report.add(f"wire, {shape} record", _wire_bytes(shape), "bytes", target)


def _ledger_bytes(data: Path) -> int:
    """What the ledger's table fills, its half-empty last page included."""
    (database,) = (path for path in data.iterdir() if path.suffix in (".db", ".sqlite"))
    connection = sqlite3.connect(database)
    try:
        query = "SELECT sum(pgsize) FROM dbstat WHERE name = 'ledger'"
        return int(connection.execute(query).fetchone()[0])
    finally:
        connection.close()


def _wire_bytes(shape: str) -> float:
    """Of the batches that a spool of such records becomes, a record's share."""
    made, sent = Batches(), 0
    frames: list[Frame] = []
    for number, record in enumerate(records(BATCH_RECORDS * 4, 10**18, DAY_NS, 7, shape), start=1):
        head, payload = record_payload(record)
        frames.append((KIND_RECORD, number, payload[:head], payload[head:]))
        if len(frames) == BATCH_RECORDS:
            sent += made.batch_of(
                frames, sent_at_unix_ns=10**18, highest_appended_sequence=number
            ).ByteSize()
            frames = []
    return sent / (BATCH_RECORDS * 4)


def _per_second(count: int, seconds: Series) -> Series:
    return Series(tuple(count / value for value in seconds.values))


def _each_us(count: int, seconds: Sequence[float]) -> Series:
    return Series(tuple(value / count * 1e6 for value in seconds))


def _inverse(pair: Pair) -> Series:
    """Throughput of the second over the first's, round by round."""
    return Series(tuple(1 / value for value in pair.ratio.values))


if __name__ == "__main__":
    main()
