"""What may go wrong under the ledger: kills, full disks, deleted and corrupt files.

Nothing acknowledged is lost, nothing is counted twice, and what can't be done now is said.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from meterd.config.agency import Agency
from meterd.errors import CannotStart, StorageFault
from meterd.store.sqlite import DATABASE, open_store
from meterd.store.values import Committed, PeriodIndex, Producer, RecordsQuery, RollupQuery
from tests.store.conftest import HandClock
from tests.support.builders import NOW_MS, placed, producer_id, usage

if TYPE_CHECKING:
    from meterd.store.batch import PlacedBatch
    from meterd.store.sqlite import SqliteStore

NOVEMBER = PeriodIndex(2025 * 12 + 10)
ROOT = Path(__file__).parents[2]

_COMMIT_FOR_EVER = """
import asyncio, sys
from pathlib import Path
from meterd.store.sqlite import open_store
from tests.store.conftest import HandClock
from tests.support.builders import placed, usage

async def main():
    store = await open_store(Path(sys.argv[1]), HandClock())
    first, size = int(sys.argv[2]), 7
    while True:
        batch = placed(*(usage(input_tokens=first + n) for n in range(size)), first_sequence=first)
        print(await store.commit(batch), flush=True)
        first += size

asyncio.run(main())
"""


async def differences(store: SqliteStore) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    async for step in store.verify():
        found = step.differences
    return found


async def input_tokens(store: SqliteStore) -> int:
    rows = await store.rollup(RollupQuery(period=NOVEMBER, by=()))
    return rows[0].sums.input_tokens if rows else 0


def test_kill_9_at_any_moment_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Killed while it commits; whatever it answered is there, each record once."""
    chance = random.Random(1)
    acknowledged = 0
    for _ in range(6):
        acknowledged = max(acknowledged, _commit_until_killed(tmp_path, acknowledged + 1, chance))

        watermark = asyncio.run(_watermark_and_check(tmp_path))

        assert watermark >= acknowledged
        acknowledged = watermark


def _commit_until_killed(data: Path, first: int, chance: random.Random) -> int:
    process = subprocess.Popen(
        [sys.executable, "-c", _COMMIT_FOR_EVER, str(data), str(first)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    answers = chance.randrange(1, 30)
    last = b"0"
    for _ in range(answers):
        last = process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().splitlines()
    process.stdout.close()
    process.wait()
    whole = [line for line in (last.strip(), *rest) if line.isdigit()]
    return int(whole[-1])


async def _watermark_and_check(data: Path) -> int:
    store = await open_store(data, HandClock())
    watermark = await store.hello(Producer(id=producer_id()), NOW_MS)
    assert await input_tokens(store) == watermark * (watermark + 1) // 2
    assert await differences(store) == ()
    await store.close()
    return watermark


async def test_a_full_disk_is_answered_with_not_now_and_recovers(store: SqliteStore) -> None:
    await store.commit(placed(usage()))
    engine = store._writer._engine
    assert engine is not None
    engine.connection.execute("PRAGMA max_page_count = 1")
    many = placed(*(usage(client=f"c-{n}", note="x" * 200) for n in range(500)), first_sequence=2)

    with pytest.raises(StorageFault, match="the disk is full"):
        await store.commit(many)
    fault = store.storage_fault

    assert "the disk is full" in fault
    assert await input_tokens(store) == 1_000
    assert await store.commit(many) == 501  # the next connection has no such limit
    assert store.storage_fault == ""
    assert await differences(store) == ()


_FILL_UP = """
import asyncio, resource, sys
from pathlib import Path
from meterd.errors import StorageFault
from meterd.store.sqlite import open_store
from tests.store.conftest import HandClock
from tests.support.builders import placed, usage

async def main():
    store = await open_store(Path(sys.argv[1]), HandClock())
    first, refused = 1, 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
    while refused < 3:
        records = [usage(client=f"c-{first + n}", note="x" * 100) for n in range(200)]
        try:
            first = await store.commit(placed(*records, first_sequence=first)) + 1
        except StorageFault:
            refused += 1
    before = first
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    records = [usage(client=f"c-{first + n}", note="x" * 100) for n in range(200)]
    after = await store.commit(placed(*records, first_sequence=first))
    differences = ()
    async for step in store.verify():
        differences = step.differences
    print(before > 200, after == before + 199, store.storage_fault == "", differences)
    await store.close()

asyncio.run(main())
"""


def test_a_file_that_cant_grow_is_survived_without_a_restart(tmp_path: Path) -> None:
    """The kernel's limit on a file's size: real write errors under SQLite's feet."""
    done = subprocess.run(
        [sys.executable, "-c", _FILL_UP, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
        check=False,
    )

    assert done.stdout.strip() == "True True True ()", done.stderr


async def test_a_second_daemon_on_the_same_data_is_refused_in_one_sentence(
    tmp_path: Path, clock: HandClock
) -> None:
    first = await open_store(tmp_path, clock)

    with pytest.raises(CannotStart, match="another meterd already uses the data directory"):
        await open_store(tmp_path, clock)

    await first.close()
    second = await open_store(tmp_path, clock)
    await second.close()


async def test_a_lock_that_somebody_deleted_is_taken_anew(tmp_path: Path, clock: HandClock) -> None:
    """Else a second daemon would find a free one beside the new ledger."""
    store = await open_store(tmp_path / "data", clock)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(StorageFault, match="was deleted or moved"):
        await store.commit(placed(usage()))
    assert await store.commit(placed(usage())) == 1

    with pytest.raises(CannotStart, match="another meterd already uses the data directory"):
        await open_store(tmp_path / "data", clock)

    await store.close()


async def test_two_daemons_on_one_ledger_count_once_all_the_same(
    tmp_path: Path, clock: HandClock
) -> None:
    """Whatever became of the lock: what one has in memory is void once another has written."""
    first = await open_store(tmp_path, clock)
    await first.commit(placed(usage(), usage()))
    (tmp_path / "lock").unlink()
    second = await open_store(tmp_path, clock)
    await second.commit(placed(usage(), usage(), usage()))

    with pytest.raises(StorageFault, match="somebody else has written"):
        await first.commit(placed(usage(), usage(), usage()))
    with pytest.raises(StorageFault, match="another meterd has taken"):
        await first.commit(placed(usage(), usage(), usage()))

    assert await input_tokens(second) == 3_000
    assert await differences(second) == ()
    await second.close()
    assert await first.commit(placed(usage(), usage(), usage())) == 3
    assert await input_tokens(first) == 3_000
    await first.close()


async def test_a_data_directory_that_cant_be_made_is_one_sentence(
    tmp_path: Path, clock: HandClock
) -> None:
    (tmp_path / "file").write_text("not a directory")

    with pytest.raises(CannotStart, match="can't be written: "):
        await open_store(tmp_path / "file" / "data", clock)


async def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path, clock: HandClock) -> None:
    (tmp_path / DATABASE).write_bytes(b"this is not a database, however one looks at it" * 100)

    with pytest.raises(CannotStart, match="can't be opened: file is not a database"):
        await open_store(tmp_path, clock)


async def test_a_deleted_ledger_acknowledges_nothing_and_is_begun_anew(
    tmp_path: Path, clock: HandClock
) -> None:
    """Its commits would go into a file that nobody can open any more."""
    store = await open_store(tmp_path / "data", clock)
    before = store.ledger_id
    await store.commit(placed(usage()))
    shutil.rmtree(tmp_path / "data")

    with pytest.raises(StorageFault, match="was deleted or moved"):
        await store.commit(placed(usage(), first_sequence=2))

    assert await store.hello(Producer(id=producer_id()), NOW_MS) == 0
    assert store.ledger_id != before
    assert await store.commit(placed(usage())) == 1
    assert await input_tokens(store) == 1_000
    await store.close()


async def test_what_is_corrupt_in_the_middle_is_stepped_over_and_named(
    tmp_path: Path, clock: HandClock
) -> None:
    store = await open_store(tmp_path, clock)
    for first in range(1, 6_001, 1_000):
        await store.commit(
            placed(*(usage(note="n" * 40) for _ in range(1_000)), first_sequence=first)
        )
    await store.close()
    _spoil_a_ledger_page(tmp_path / DATABASE)

    store = await open_store(tmp_path, clock)
    given = 0
    with pytest.raises(StorageFault, match="can't be read; all others were given"):
        async for page in store.records(RecordsQuery()):
            given += len(page)

    assert 4_000 < given < 6_000
    assert any("can't be read" in line for line in await differences(store))
    assert await store.commit(placed(usage(), first_sequence=6_001)) == 6_001
    await store.close()


def _spoil_a_ledger_page(database: Path) -> None:
    connection = sqlite3.connect(database)
    (page,) = (
        connection.execute(
            "SELECT pageno FROM dbstat WHERE name = 'ledger' AND pagetype = 'leaf' "
            "ORDER BY pageno LIMIT 1 OFFSET 20"
        ).fetchone()
        if _has_dbstat(connection)
        else (60,)
    )
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with database.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


def _has_dbstat(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1 FROM dbstat LIMIT 1")
    except sqlite3.Error:
        return False
    return True


async def test_a_planted_difference_is_found(tmp_path: Path, clock: HandClock) -> None:
    store = await open_store(tmp_path, clock)
    await store.commit(placed(*(usage(client=f"c-{n}") for n in range(50))))
    await store.close()
    for statement, found in (
        ("UPDATE ledger SET input_tokens = input_tokens + 1 WHERE id = 17", "the ledger has"),
        ("UPDATE ledger SET input_tokens = input_tokens - 1 WHERE id = 17", ""),
        (
            "UPDATE rollup_month SET output_tokens = output_tokens + 1 WHERE client = 9",
            "the one by month",
        ),
        ("UPDATE rollup_month SET output_tokens = output_tokens - 1 WHERE client = 9", ""),
        ("DELETE FROM ledger WHERE id = 50", "the ledger ends at row 49"),
        ("UPDATE producers SET watermark = 60", "its watermark is 60"),
    ):
        connection = sqlite3.connect(tmp_path / DATABASE)
        connection.execute(statement)
        connection.commit()
        connection.close()

        store = await open_store(tmp_path, clock)
        told = await differences(store)
        await store.close()

        assert (found in "; ".join(told)) if found else told == (), statement


_COMMIT_A_FEW = """
import asyncio, os, sys
from pathlib import Path
from meterd.store.sqlite import open_store
from tests.store.conftest import HandClock
from tests.support.builders import placed, usage

async def main():
    store = await open_store(Path(sys.argv[1]), HandClock())
    for first in range(1, 6):
        await store.commit(placed(usage(), first_sequence=first))
        os.write(1, b"acknowledged")
    await store.close()

asyncio.run(main())
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_log_is_on_the_disk_before_anything_is_acknowledged(tmp_path: Path) -> None:
    """What the kernel saw: between two answers the write-ahead log was synced."""
    trace = tmp_path / "trace"
    done = subprocess.run(
        ["strace", "-f", "-y", "-o", str(trace), "-e", "trace=fsync,fdatasync,write",
         sys.executable, "-c", _COMMIT_A_FEW, str(tmp_path / "data")],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
        check=False,
    )  # fmt: skip
    if b"ptrace" in done.stderr:
        pytest.skip("this process may not trace another")
    assert done.returncode == 0, done.stderr

    happened = [
        "answer" if "acknowledged" in line else "sync"
        for line in trace.read_text().splitlines()
        if ("write(1<" in line and "acknowledged" in line)
        or ("sync(" in line and "ledger.db-wal" in line and "= 0" in line)
    ]

    assert happened.count("answer") == 5
    for at, what in enumerate(happened):
        if what == "answer":
            assert happened[at - 1] == "sync", happened


async def test_a_batch_is_let_go_of_once_it_is_answered(store: SqliteStore) -> None:
    """Without the collector's help: at full speed it would find them late."""

    class Batch:
        def read(self) -> PlacedBatch:
            return placed(usage())

        def set_aside(self, reason: str) -> None:
            """Nothing."""

    batch = Batch()
    gone = weakref.ref(batch)
    gc.disable()
    try:
        await store.commit(batch)
        del batch
        await store.commit(placed(usage()))

        assert gone() is None
    finally:
        gc.enable()


async def test_requests_that_wait_while_it_closes_are_answered(
    tmp_path: Path, clock: HandClock
) -> None:
    store = await open_store(tmp_path, clock)
    waiting = [
        asyncio.ensure_future(store.commit(placed(usage(), producer=f"p-{n}"))) for n in range(20)
    ]
    await asyncio.sleep(0)

    await store.close()

    assert await asyncio.gather(*waiting) == [1] * 20


async def test_a_rollback_that_fails_too_leaves_a_writer_that_goes_on(
    tmp_path: Path, clock: HandClock
) -> None:
    """A bug and a failing disk at once: the thread that writes must outlive both."""
    broken_disk = ["ROLLBACK"]

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
            if sql in broken_disk:
                broken_disk.clear()
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, parameters)

    class Bug:
        span = (1, 1)

        def read(self) -> None:
            raise ZeroDivisionError("a bug")

    store = await open_store(tmp_path, clock, factory=Connection)

    with pytest.raises(StorageFault, match="disk I/O error"):
        await store.commit(Bug())  # type: ignore[arg-type]  # what it reads is the bug

    assert await store.commit(placed(usage())) == 1
    await store.close()


async def test_strangers_that_come_back_are_counted_after_names_were_let_go_of(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty thousand ids are held in memory: where one is rolled up goes with its name."""
    monkeypatch.setattr("meterd.store.interning.NAMES_MAX", 5)
    store = await open_store(tmp_path, clock, agency=Agency(unlisted_ids_max=3))
    told: list[Committed] = []
    store.subscribe(told.append)
    strangers = [usage(f"stranger-{number}", f"project-{number}") for number in range(10)]

    for first in (1, 11, 21):
        await store.commit(placed(*strangers, first_sequence=first))

    assert [sum(one.client_tokens.values()) for one in told] == [11_000] * 3
    assert (await store.uncounted()).quarantined_records == 0
    assert await differences(store) == ()
    await store.close()
