"""Real full disks, under the daemon and under the app; and an hour without a daemon.

RLIMIT_FSIZE stands beside them in tests/store/test_faults.py and tests/delivery/test_spool.py.
"""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from meterd.clock import unix_ns_of
from meterd_middleware.settings import Settings
from meterd_middleware.shipper import Shipper
from meterd_middleware.usage import UsageRecord
from meterd_proto.v1 import rollup_pb2
from tests.cli.running import Meterctl
from tests.deploy.apps import App
from tests.deploy.asking import WITHIN_S, rollup, status, until
from tests.support.daemon import start_daemon
from tests.support.small_disk import small_disk

if TYPE_CHECKING:
    from pathlib import Path

HOUR_S = 3_600
CALLS_A_SECOND = 10


def test_a_full_disk_under_the_ledger_is_waited_out_without_a_restart(place: Path) -> None:
    """ "Not now" with the reason; the records wait in the spool; room is enough to go on."""
    with (
        small_disk(place / "data") as disk,
        start_daemon(place) as daemon,
        App(daemon, "busy") as app,
    ):
        app.record(100)
        assert app.flush()
        disk.fill()
        app.record(20_000)

        assert until(lambda: "the disk is full" in status(daemon).storage_fault)
        findings = Meterctl({"METERD_TARGET": daemon.target})("doctor")
        assert findings.code == 1
        assert "the disk is full" in findings.out
        disk.make_room()

        assert app.flush()
        assert rollup(daemon)["busy"].requests == 20_100
        assert status(daemon).storage_fault == ""
        assert Meterctl({"METERD_TARGET": daemon.target})("verify").code == 0


def test_a_full_disk_under_the_spool_refuses_and_counts(place: Path) -> None:
    """The app hears nothing of it; what was refused is reported in records and tokens."""
    with small_disk(place / "small", mebibytes=1) as disk, start_daemon(place) as daemon:
        settings = Settings(
            spool_root=disk.path / "spool", target=daemon.target, service="web", host="h",
            free_bytes_min=0,
        )  # fmt: skip
        shipper = Shipper(settings)
        record = UsageRecord(
            client="acme-corp", provider="openai", request_model="gpt-4o", http_status=200,
            input_tokens=900, output_tokens=100, occurred_at_unix_ns=time.time_ns(),
        )  # fmt: skip
        assert shipper.append(record) > 0
        assert shipper.flush(WITHIN_S)
        disk.fill()

        for _ in range(200):
            shipper.append(record)
        disk.make_room()
        shipper.append(record)

        assert shipper.flush(WITHIN_S)
        assert until(lambda: status(daemon).producers[0].report.refused_records > 0)
        report = status(daemon).producers[0].report
        shipper.close(5)
        assert report.refused_tokens == 1_000 * report.refused_records
        assert rollup(daemon)["acme-corp"].requests + report.refused_records == 202
        assert status(daemon).lost_records == 0


def test_an_hour_without_a_daemon_is_counted_when_it_is_back(place: Path) -> None:
    """An hour of a busy app, in the days it occurred, once each."""
    began = datetime.now(UTC) - timedelta(seconds=HOUR_S)
    with start_daemon(place) as daemon:
        daemon.kill()
        shipper = Shipper(
            Settings(
                spool_root=daemon.spool_root, target=daemon.target, service="web", host="h",
                free_bytes_min=0,
            )
        )  # fmt: skip
        for number in range(HOUR_S * CALLS_A_SECOND):
            moment = began + timedelta(seconds=number / CALLS_A_SECOND)
            assert shipper.append(
                UsageRecord(
                    client="acme-corp", provider="openai", request_model="gpt-4o",
                    http_status=200, input_tokens=900, output_tokens=100,
                    occurred_at_unix_ns=unix_ns_of(moment),
                )
            )  # fmt: skip
        daemon.start()

        assert shipper.flush(60)
        shipper.close(5)
        months = {f"{began:%Y-%m}", f"{datetime.now(UTC):%Y-%m}"}
        days = [rollup(daemon, month, rollup_pb2.DIMENSION_DAY)[""] for month in months]
        assert sum(day.requests for day in days) == HOUR_S * CALLS_A_SECOND
        assert sum(day.tokens for day in days) == HOUR_S * CALLS_A_SECOND * 1_000
        assert status(daemon).late_records == 0


_LOSE_PERMISSION = """
import asyncio, os, sqlite3, sys, traceback
from pathlib import Path
from meterd.errors import CannotStart, StorageFault
from meterd.store.sqlite import open_store
from tests.store.conftest import HandClock
from tests.support.builders import placed, usage

data = Path(sys.argv[1])
NOBODY = 65534

class Failing(sqlite3.Connection):
    fails = False
    def execute(self, sql, *parameters):
        if sql == "COMMIT" and Failing.fails:
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *parameters)

async def refused(store, first):
    try:
        await store.commit(placed(usage(), first_sequence=first))
    except StorageFault as fault:
        return str(fault)
    return "taken"

async def main():
    store = await open_store(data, HandClock(), factory=Failing)
    store._writer._book.load()
    await store.commit(placed(usage()))
    if os.geteuid() == 0:
        for path in (data.parent, data, *data.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        os.seteuid(NOBODY)  # root may write whatever the permissions say
    for path in data.iterdir():
        path.chmod(0o400)
    data.chmod(0o500)
    Failing.fails = True   # so that the database is opened anew
    print(await refused(store, 2))
    Failing.fails = False
    print(await refused(store, 2))
    print(await refused(store, 2))
    data.chmod(0o700)
    for path in data.iterdir():
        path.chmod(0o600)
    print(await store.commit(placed(usage(), first_sequence=2)), store.storage_fault == "")
    await store.close()
    for path in data.iterdir():
        path.chmod(0o400)
    data.chmod(0o500)
    try:
        await open_store(data, HandClock())
    except CannotStart as fault:
        print(fault)
    data.chmod(0o700)
    (data / "lock").chmod(0o600)
    store = await open_store(data, HandClock())
    print(await refused(store, 3))
    for path in data.iterdir():  # SQLite has made its -shm as read-only as the database
        path.chmod(0o600)
    print(await store.commit(placed(usage(), first_sequence=3)), store.storage_fault == "")
    await store.close()

try:
    asyncio.run(main())
except BaseException:
    traceback.print_exc()
    os._exit(1)  # the store's threads would wait for its close
"""


def test_a_ledger_that_may_not_be_written_any_more_is_waited_out(place: Path) -> None:
    """Permission lost under a running store, a directory and a database that are read-only at
    the start: a sentence each, nothing is acknowledged, and it goes on once it may."""
    done = subprocess.run(
        [sys.executable, "-c", _LOSE_PERMISSION, str(place / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    said = done.stdout.splitlines()
    assert len(said) == 7, done.stderr
    assert said[0] == "the database can't be written: disk I/O error"
    assert (
        said[1] == said[2] == "the database can't be written: attempt to write a readonly database"
    )
    assert said[3] == "2 True"
    assert said[4].endswith("/data can't be written: Permission denied")
    assert said[6] == "3 True"
