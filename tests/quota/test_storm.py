"""A short storm with every suite; `make quota-storm` runs the whole one."""

from __future__ import annotations

import os

import pytest

from tests.quota.storm.run import Force, storm
from tests.quota.storm.verdict import Scenario

SEED = int(os.environ.get("METERD_STORM_SEED", "7"))
FORCE = Force(
    workers=2, concurrency=4, worker_kills=1, daemon_kills=1, quota=40_000, calm_s_max=2.0
)
SCENARIOS = (
    Scenario("40k hard", "usual", 40_000, 1_024, 1_000),
    Scenario("20k left, max_tokens 40,000", "ceiling", 20_000, 40_000, 1_000, with_kills=False),
)


@pytest.mark.timeout(180)
def test_no_quota_is_passed_whoever_is_killed() -> None:
    """Real processes, three SDKs, kill -9 of a worker and of meterd in the middle of it.

    The provider's own ledger says what was served; docs/quotas.md has the long run's figures.
    """
    used_up, too_large = storm(2, SEED, FORCE, SCENARIOS)

    assert (used_up.wrong, too_large.wrong) == ([], []), f"seed {SEED}"
    assert used_up.worker_kills + used_up.daemon_kills > 0
    assert used_up.served > 30_000
    assert too_large.served == 0
    assert "20,000 of 40,000 tokens left, and this call needs up to 40," in too_large.refusal
