"""The real thing, for a few rounds: uvicorn's workers, SDK calls, meterd; each killed in turn."""

from __future__ import annotations

import os

import pytest

from tests.delivery.torture.run import torture

ROUNDS = int(os.environ.get("METERD_TORTURE_ROUNDS", "8"))
SEED = int(os.environ.get("METERD_TORTURE_SEED", "6"))


@pytest.mark.timeout(600)
def test_every_call_that_reached_the_provider_has_exactly_one_record() -> None:
    """kill -9 of app, worker, meterd and all of it, in mid-call and between calls.

    `make torture` runs two hundred rounds; docs/reliability.md has what came out last.
    """
    verdict = torture(ROUNDS, SEED)

    assert verdict.wrong == [], f"seed {SEED}"
    assert verdict.rounds == ROUNDS
    assert verdict.served > ROUNDS
