"""Money at the month's end: closing a thousand clients, drawing an invoice, asking for one.

    rollups of 1,000 clients × 10 projects × 8 models × 31 days ─▶ close
    one sheet ─▶ PDF                    a process `meterctl invoice` ─▶ its end

The rollups are what ten million records leave (--quick: a tenth of the days); a closing reads
nothing else of them. How long the writer is held is measured inside it, from BEGIN IMMEDIATE to
the return of COMMIT, in closings that nobody disturbs, and with its last part, the wait for the
disk, told apart; what that means to others from outside, by small jobs that ask for the writer
all the time.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import closing as closing_of
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import sqlite3  # isort: skip  # the benchmark multiplies days in place

from benchmarks.harness import ROUNDS_MIN, Report, Series, arguments
from meterd.store.engine import Engine
from meterd_proto.v1 import billing_pb2
from tests.billing.test_documents import a_sheet
from tests.support.builders import usage
from tests.support.daemon import start_daemon
from tests.support.office import Office

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.store.values import Committed

CLIENTS, PROJECTS, DAYS = 1_000, 10, 31
MODELS = (
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-4.1",
    "gpt-4.1-mini",
    "gpt-4.1-nano",
    "o3",
    "o4-mini",
    "gpt-5",
)
FIRST = datetime(2025, 11, 1, 12, tzinfo=UTC)
CLOSED_AT = datetime(2025, 12, 4, 12, tzinfo=UTC)


def toml() -> str:
    """A thousand clients, half on retainers."""
    plans = (
        '[agency]\nname = "Northwind Studio"\n'
        '[plans.managed]\ntype = "cost_plus"\nmarkup = "30%"\n'
        '[plans.starter]\ntype = "retainer"\nfee = "500"\nincluded_tokens = "2M"\n'
        'overage_per_million = "60"\n'
    )
    return plans + "".join(
        f'[clients.client-{n:04d}]\nplan = "{"managed" if n % 2 else "starter"}"\n'
        for n in range(CLIENTS)
    )


async def fill(office: Office, days: int) -> int:
    """A day of real records through the ledger, then the same again for each further day."""
    at_ms = int(FIRST.timestamp()) * 1_000
    for client in range(CLIENTS):
        await office.record(
            *(
                usage(f"client-{client:04d}", f"project-{project}", model=model,
                      input_tokens=1_000 + project, output_tokens=100, occurred_at_ms=at_ms)
                for project in range(PROJECTS)
                for model in MODELS
            )
        )  # fmt: skip
    await office.close()
    with closing_of(sqlite3.connect(office.directory / "data" / "ledger.db")) as database, database:
        names = [row[1] for row in database.execute("PRAGMA table_info(rollup_day)")]
        moved = ", ".join("day + n" if name == "day" else name for name in names)
        database.execute(
            "WITH RECURSIVE more (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM more "
            f"WHERE n < {days - 1}) INSERT INTO rollup_day ({', '.join(names)}) "
            f"SELECT {moved} FROM rollup_day, more"
        )
        sums = ("requests", "input_tokens", "cache_read_tokens", "output_tokens")
        database.execute(
            "UPDATE rollup_month SET " + ", ".join(f"{name} = {name} * {days}" for name in sums)
        )
        (rows,) = database.execute("SELECT count(*) FROM rollup_day").fetchone()
    await office.open()
    return int(rows)


@dataclass
class Held:
    """How long transactions held the writer, in milliseconds, and what of it was the disk's."""

    whole: list[float] = field(default_factory=list)
    disk: list[float] = field(default_factory=list)


@contextmanager
def watched() -> Iterator[Held]:
    """Time every transaction of the engine."""
    held, began, committing = Held(), 0.0, 0.0
    begin, commit = Engine.begin, Engine.commit

    def timed_begin(engine: Engine, now_ms: int) -> None:
        nonlocal began
        begin(engine, now_ms)
        began = time.perf_counter()

    def notice(statement: str) -> None:
        nonlocal committing
        if statement == "COMMIT":
            committing = time.perf_counter()

    def timed_commit(engine: Engine) -> Committed | None:
        engine.connection.set_trace_callback(notice)
        committed = commit(engine)
        ended = time.perf_counter()
        engine.connection.set_trace_callback(None)
        held.whole.append((ended - began) * 1_000)
        held.disk.append((ended - committing) * 1_000)
        return committed

    with patch.object(Engine, "begin", timed_begin), patch.object(Engine, "commit", timed_commit):
        yield held


async def close_once(office: Office, is_disturbed: bool) -> tuple[float, float]:
    """Seconds of a closing, and the longest that a job waited for the writer meanwhile."""
    longest, stop = 0.0, asyncio.Event()
    if not is_disturbed:
        stop.set()

    async def ask() -> None:
        nonlocal longest
        while not stop.is_set():
            began = time.perf_counter()
            await office.store.claim_event("nobody", 0, 0, "bench", 0)  # type: ignore[arg-type]  # any period
            longest = max(longest, time.perf_counter() - began)
            await asyncio.sleep(0.001)

    asking = asyncio.create_task(ask())
    began = time.perf_counter()
    last = billing_pb2.CloseProgress()
    async for progress in office.billing._closing.close(billing_pb2.CloseRequest(period="2025-11")):
        last = progress
    took = time.perf_counter() - began
    stop.set()
    await asking
    assert last.is_closed, list(last.obstacles)
    return took, longest


@dataclass
class Closed:
    """What the rounds of closing came to: seconds, and milliseconds that the writer was held."""

    rows: int = 0
    times: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)
    held_beside_disk: list[float] = field(default_factory=list)


async def closing(days: int, rounds: int) -> Closed:
    """Close the same month again and again, each time from a copy of the same ledger."""
    directory = Path(tempfile.mkdtemp(prefix="m", dir="/tmp"))
    office = Office(directory, FIRST.replace(hour=23))
    await office.open()
    try:
        await office.apply(toml())
        found = Closed(await fill(office, days))
        office.clock.step(CLOSED_AT)
        await office.close()
        shutil.copytree(directory / "data", directory / "kept")
        for at in range(2 * rounds):
            shutil.rmtree(directory / "data")
            shutil.copytree(directory / "kept", directory / "data")
            await office.open()
            with watched() as held:
                took, longest = await close_once(office, is_disturbed=at % 2 == 1)
            await office.close()
            if at % 2:
                found.waits.append(longest * 1_000)
                continue
            found.times.append(took)
            found.held.append(max(held.whole))
            found.held_beside_disk.append(
                max(whole - disk for whole, disk in zip(held.whole, held.disk, strict=True))
            )
        await office.open()
    finally:
        await office.close()
        shutil.rmtree(directory, ignore_errors=True)
    return found


def pdfs(rounds: int) -> list[float]:
    """Milliseconds of one PDF with ten projects, the first one included."""
    from meterd.billing.documents.pdf import pdf_of

    taken = []
    for number in range(rounds):
        sheet = a_sheet(f"Client {number}", projects=10)
        began = time.perf_counter()
        pdf_of(sheet, "ab" * 32)
        taken.append((time.perf_counter() - began) * 1_000)
    return taken


def processes(rounds: int) -> list[float]:
    """Milliseconds of `meterctl invoice` as a process, start to end."""
    plan = '[agency]\nname = "N"\n[plans.p]\ntype = "cost_plus"\nmarkup = "30%"\n'
    taken = []
    with start_daemon(config=plan + '[clients.acme]\nplan = "p"\n') as daemon:
        command = [sys.executable, "-m", "meterd.cli.main", "invoice", "acme"]
        for _ in range(rounds):
            began = time.perf_counter()
            subprocess.run([*command, "--target", daemon.target], check=True, capture_output=True)
            taken.append((time.perf_counter() - began) * 1_000)
    return taken


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__ or "")
    report = Report("billing")
    rounds = 3 if options.quick else ROUNDS_MIN
    found = asyncio.run(closing(4 if options.quick else DAYS, rounds))
    report.add("rows of the rollup by day", float(found.rows), "rows")
    report.add("closing 1,000 clients", Series(tuple(found.times)), "s", "≤ 5")
    report.add("longest that the writer was held", Series(tuple(found.held)), "ms", "≤ 20")
    beside = Series(tuple(found.held_beside_disk))
    report.add("the same, without the wait for the disk", beside, "ms")
    report.add("longest wait of another job meanwhile", Series(tuple(found.waits)), "ms")
    report.add("one PDF", Series(tuple(pdfs(ROUNDS_MIN))), "ms", "≤ 150")
    report.add("meterctl invoice, a process", Series(tuple(processes(ROUNDS_MIN))), "ms", "≤ 400")
    report.print(options.json)


if __name__ == "__main__":
    main()
