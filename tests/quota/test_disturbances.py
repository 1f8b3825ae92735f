"""A real daemon under load while the worst is done to it: the sum of what was served holds.

Eight threads of two producers make calls all the while. What a test waits for is calls, never
time; in the end everything lent has come back, and used is what was served, to the token.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from itertools import cycle, islice
from typing import TYPE_CHECKING

from meterd_middleware import QuotaExceeded
from tests.quota.test_with_a_daemon import CONFIG, _when, apply, call, meter_of
from tests.support.daemon import start_daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd_middleware import Meter
    from meterd_proto.v1 import quota_pb2
    from tests.support.daemon import Daemon

WORKERS = 8
WITHIN_S = 60.0
CALL_TOKENS = 300


class Load:
    """Calls of many threads, and how much was served."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.served = self.decided = 0
        self._changed = threading.Condition()
        self._is_over = threading.Event()
        self._meters = [meter_of(daemon) for _ in range(2)]
        for meter in self._meters:
            call(meter, 100, 200)  # the plan is known to each from here on: it rejects
            self.served += CALL_TOKENS
        self._threads = [
            threading.Thread(target=self._work, args=(self._meters[number % 2],))
            for number in range(WORKERS)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, meter: Meter) -> None:
        while not self._is_over.wait(0.002):
            served = CALL_TOKENS
            try:
                call(meter, 100, 200)
            except QuotaExceeded:
                served = 0
            with self._changed:
                self.served += served
                self.decided += 1
                self._changed.notify_all()

    def go_on(self, decisions: int) -> None:
        """Wait for so many more decisions, whatever they are."""
        with self._changed:
            until = self.decided + decisions
            assert self._changed.wait_for(lambda: self.decided >= until, WITHIN_S)

    def settle(self) -> quota_pb2.QuotaStatus:
        """End the calls, ship all records, give everything back."""
        self.stop()
        for meter in self._meters:
            assert meter.flush(WITHIN_S)
            meter.close()
        return _when(self.daemon, lambda quota: quota.leased == 0)

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def loaded(limit: str) -> Iterator[tuple[Daemon, Load]]:
    with start_daemon(config=CONFIG % limit) as daemon:
        load = Load(daemon)
        try:
            yield daemon, load
        finally:
            load.stop()


def test_a_daemon_that_is_killed_again_and_again_lends_nothing_twice() -> None:
    """Of 60,000 tokens 200 calls can be made, whoever is started how often."""
    with loaded("60k") as (daemon, load):
        for _ in range(5):
            daemon.kill()
            load.go_on(40)
            daemon.start()
            load.go_on(200)
        quota = load.settle()

    assert (quota.used, quota.leased) == (load.served, 0)
    assert load.served <= 60_000
    assert quota.remaining == 60_000 - load.served


def test_a_storm_of_plan_changes_overspends_nothing() -> None:
    """Up and down twenty times under load: never beyond the largest, and the sum is right."""
    with loaded("100k") as (daemon, load):
        for tokens in islice(cycle(("300k", "100k", "200k")), 21):
            apply(daemon, tokens)
            load.go_on(20)
        quota = load.settle()

    assert quota.used == load.served <= 300_000
    assert quota.remaining == max(0, quota.limit - quota.used)


def test_a_restored_backup_is_filled_again_and_the_sum_holds() -> None:
    """A process is lent nothing before its own records are there again; only what others used
    since the backup, who are still on their way, can be lent once more until they are."""
    with loaded("300k") as (daemon, load):
        load.go_on(200)
        backup = daemon.directory / "backup.db"
        forgotten = -load.served
        _meterctl(daemon, "backup", str(backup))
        load.go_on(400)
        daemon.kill()
        forgotten += load.served
        for file in daemon.data.glob("ledger.db*"):
            file.unlink()
        shutil.copy(backup, daemon.data / "ledger.db")
        daemon.start()
        load.go_on(1_000)
        quota = load.settle()

    assert quota.used == load.served
    assert load.served <= 300_000 + forgotten


def _meterctl(daemon: Daemon, *arguments: str) -> None:
    command = [sys.executable, "-m", "meterd.cli.main", *arguments, "--target", daemon.target]
    subprocess.run(command, check=True, capture_output=True, timeout=WITHIN_S)
