"""Every invoice of an agency made from a seed, against whole-number sums over ledger rows."""

from __future__ import annotations

import pytest

from tests.billing.other_route import year_of


@pytest.mark.parametrize("seed", [7, 8])
async def test_sql_over_the_ledger_makes_the_same_cents(seed: int) -> None:
    """Closed month by month, with records of the month before arriving in between.

    `make money-check` does the same with a thousand clients and twelve months.
    """
    found = await year_of(seed, clients=120, months=3, records=2_500)

    assert found.billed == found.expected
    assert sum(found.billed.values()) > 100_000
    assert found.by_kind.keys() >= {"fee", "usage", "markup", "overage", "minimum", "discount",
                                    "adjustment"}  # fmt: skip
    assert found.differences == []
