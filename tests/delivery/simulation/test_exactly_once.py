"""Whatever is killed, whenever, as often as one likes: the ledger equals what was appended."""

from __future__ import annotations

import os
from collections import Counter
from copy import deepcopy
from dataclasses import replace

import pytest

from tests.delivery.simulation.host import Host
from tests.support.disk import Faults

SEEDS = int(os.environ.get("METERD_SIMULATION_SEEDS", "50"))
"""Schedules of a block: 1,600 in all by default; `make torture` asks for more."""
STEPS = 120


def _check(host: Host, seed: int) -> None:
    counted = Counter(host.counted())
    twice = [uid for uid, times in counted.items() if times > 1]
    assert not twice, f"seed {seed}: counted twice: {twice}"
    missing = (host.appended | host.opened) - counted.keys() - host.doubtful
    assert not missing, f"seed {seed}: lost: {missing}"
    invented = counted.keys() - host.appended - host.opened - host.doubtful
    assert not invented, f"seed {seed}: counted what was refused: {invented}"
    assert not host.ledger.losses, f"seed {seed}: {host.ledger.losses}"


@pytest.mark.parametrize("block", range(8))
def test_every_record_is_counted_once_whoever_dies(block: int) -> None:
    """Kills, broken streams, lost answers, a full ledger, two adopters at once, restarts."""
    for seed in range(block * SEEDS, (block + 1) * SEEDS):
        host = Host(seed)
        host.run(STEPS)
        host.settle()
        _check(host, seed)


@pytest.mark.parametrize("block", range(8))
def test_a_failing_disk_costs_what_was_refused_and_nothing_else(block: int) -> None:
    """Short writes, a full disk, a truncate or fsync that fails, a signal in mid-write."""
    for seed in range(block * SEEDS, (block + 1) * SEEDS):
        faults = Faults(
            no_space=0.05, short_write=0.1, truncate=0.3, sync=0.2, open=0.05, interrupt=0.02
        )
        host = Host(seed, faults=faults)
        host.run(STEPS)
        host.settle()
        _check(host, seed)


@pytest.mark.parametrize("block", range(4))
def test_a_ledger_restored_from_a_backup_is_filled_again(block: int) -> None:
    """All since the backup comes from what is kept: of the living, the dead, the finished."""
    for seed in range(block * SEEDS, (block + 1) * SEEDS):
        host = Host(seed)
        host.settings = replace(host.settings, acknowledged_keep_s=10**9)
        host.settings = replace(host.settings, acknowledged_keep_bytes=10**12)
        host.run(STEPS // 2, without=("sweep",))
        backup = deepcopy(host.ledger.producers)
        host.run(STEPS // 2, without=("sweep",))
        host.restore_ledger(backup)
        host.run(STEPS // 2, without=("sweep",))
        host.settle(again=True)
        _check(host, seed)


@pytest.mark.parametrize("block", range(4))
def test_between_two_ledgers_each_record_is_in_one(block: int) -> None:
    """A data directory was deleted: nobody is blocked, and what the old one has is declared."""
    for seed in range(block * SEEDS, (block + 1) * SEEDS):
        host = Host(seed)
        host.run(STEPS // 2)
        former = host.replace_ledger()
        host.run(STEPS // 2)
        host.settle()
        counted = Counter(host.counted())
        before = Counter(record.input_tokens for record in former.records)
        missing = (host.appended | host.opened) - counted.keys() - before.keys()
        assert not missing, f"seed {seed}: lost: {missing}"
        assert max((counted | before).values(), default=1) == 1, f"seed {seed}: counted twice"
        # An acknowledgment that was on its way when the old ledger went: counted by both.
        both = counted.keys() & before.keys()
        assert len(both) <= host.unheard, f"seed {seed}: {both}"


@pytest.mark.parametrize("block", range(4))
def test_a_power_cut_loses_what_was_not_synced_and_nothing_else(block: int) -> None:
    """And nothing is counted twice for it, though the ledger may know more than the disk."""
    for seed in range(block * SEEDS, (block + 1) * SEEDS):
        host = Host(seed)
        host.run(STEPS)
        for process in list(host.processes):
            process.die()
        for adopter in list(host.adopters):
            adopter.die()
        host.disk.cut_power()
        host.settle()
        counted = Counter(host.counted())
        assert max(counted.values(), default=1) == 1, f"seed {seed}: {counted}"
        assert counted.keys() <= host.appended | host.opened | host.closed, f"seed {seed}"


@pytest.mark.parametrize("block", range(4))
def test_a_flipped_bit_costs_one_frame_and_is_declared(block: int) -> None:
    """Every other record is counted; the one that is gone has its range in the losses."""
    for seed in range(block * SEEDS, (block + 1) * SEEDS):
        host = Host(seed)
        host.run(STEPS)
        for process in list(host.processes):
            process.die()
        segments = [path for path in host.disk.files if path.endswith(".segment")]
        for path in host.random.sample(segments, min(2, len(segments))):
            host.disk.flip_bit(path, host.random.randrange(len(host.disk.files[path].data)))
        host.settle()
        counted = Counter(host.counted())
        assert max(counted.values(), default=1) == 1, f"seed {seed}: {counted}"
        missing = host.appended - counted.keys()
        lost = sum(last - first + 1 for first, last, _ in host.ledger.losses)
        torn = sum(bool(one.report.torn_bytes) for one in host.ledger.producers.values())
        assert len(missing) <= 2, f"seed {seed}: {missing}"
        assert lost + torn or not missing, f"seed {seed}: {missing} and nobody says so"
