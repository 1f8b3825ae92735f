"""Whatever is killed, whenever, as often as one likes: the ledger equals what was appended."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.delivery.simulation.host import Host
from tests.support.disk import Faults

SEEDS = 150
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
