"""Exactly once, from the app's append to the row in SQLite: every part the real one.

Spool, delivery, adoption, service, ingest and store run as they are; disk, network and clock
are the simulation's. A failure names its seed: run it alone with METERD_SIMULATION_SEED.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meterd.ingest import stream
from tests.delivery.simulation.store_host import StoreHost
from tests.support.disk import Faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCHEDULES = int(os.environ.get("METERD_SIMULATION_SEEDS", "50")) // 5
"""Schedules of a block: 60 in all by default; each commits hundreds of times to a real file."""
ALONE = os.environ.get("METERD_SIMULATION_SEED", "")
STEPS = 150


@pytest.fixture
def make_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., StoreHost]]:
    """Makes hosts on a file system in memory, where there is one; batches are small."""
    monkeypatch.setattr(stream, "BATCH_RECORDS_MAX", 3)
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="m", dir=shared))
    made: list[StoreHost] = []

    def make(seed: int, **options: object) -> StoreHost:
        for host in made:
            host.daemon.end()
        made[:] = [StoreHost(seed, directory / str(seed), **options)]  # type: ignore[arg-type]  # the test's own
        return made[0]

    yield make
    for host in made:
        host.daemon.end()
    shutil.rmtree(directory)


def _seeds(block: int) -> range | list[int]:
    return [int(ALONE)] if ALONE else range(block * SCHEDULES, (block + 1) * SCHEDULES)


def _check(host: StoreHost, seed: int) -> None:
    """The ledger equals what was appended, once each, and its rollups equal it."""
    rows = host.daemon.counted()
    counted = Counter(rows)
    twice = [uid for uid, times in counted.items() if times > 1]
    assert not twice, f"seed {seed}: counted twice: {twice}"
    missing = (host.appended | host.opened) - counted.keys() - host.doubtful
    assert not missing, f"seed {seed}: lost: {missing}"
    invented = counted.keys() - host.appended - host.opened - host.doubtful
    assert not invented, f"seed {seed}: counted what was refused: {invented}"
    assert host.daemon.lost() == 0, f"seed {seed}: declared lost"
    assert host.daemon.rolled_up() + host.daemon.waiting() == sum(rows), f"seed {seed}: rollups"
    assert host.daemon.differences() == [], f"seed {seed}"


@pytest.mark.parametrize("block", range(2))
def test_whatever_crashes_on_either_side_each_record_has_one_row(
    block: int, make_host: Callable[..., StoreHost]
) -> None:
    """Apps, adopters and the daemon die; messages come late, twice, out of order, never."""
    for seed in _seeds(block):
        host = make_host(seed)
        host.run(STEPS)
        host.settle()
        _check(host, seed)


@pytest.mark.parametrize("block", range(2))
def test_a_disk_that_fails_on_either_side_costs_no_record(
    block: int, make_host: Callable[..., StoreHost]
) -> None:
    """Commits that fail before or after they were done, transactions cut by a full disk, torn
    logs; short writes and failing fsyncs in the spool."""
    for seed in _seeds(block):
        faults = Faults(no_space=0.05, short_write=0.1, truncate=0.3, sync=0.2, open=0.05)
        host = make_host(seed, faults=faults, commit_fails=0.15, write_fails=0.02)
        host.run(STEPS)
        host.settle()
        _check(host, seed)


@pytest.mark.parametrize("block", range(2))
def test_a_backup_restored_under_their_feet_is_filled_again(
    block: int, make_host: Callable[..., StoreHost]
) -> None:
    """From what the living, the dead and the finished keep; nothing is counted twice."""
    for seed in _seeds(block):
        host = make_host(seed)
        host.settings = replace(
            host.settings, acknowledged_keep_s=10**9, acknowledged_keep_bytes=10**12
        )
        host.run(STEPS // 2, without=("sweep",))
        copy = host.daemon.disk.directory.parent / f"{seed}.copy"
        host.daemon.back_up(copy)
        host.run(STEPS // 2, without=("sweep",))
        host.restore(copy)
        host.run(STEPS // 2, without=("sweep",))
        host.settle(again=True)
        _check(host, seed)
