"""Which part of a provider's bill is whose: shares in whole cents that add up to it exactly.

    bill = Σ shares of the rows + what meterd has not seen

Each row's exact cost is cut to the cent, and the cents left over go to the rows that lost
most, so that the shares sum to the rounded total; what is not seen is the rest of the bill.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, localcontext
from typing import TYPE_CHECKING

from meterd.cli.figures import decimals, rounded

if TYPE_CHECKING:
    from collections.abc import Sequence

NOT_SEEN = "not seen by meterd"


@dataclass(frozen=True, slots=True)
class BillShares:
    """A bill and how it divides: a share a row, what was metered, and the rest."""

    bill: Decimal
    shares: tuple[Decimal, ...]
    metered: Decimal
    not_seen: Decimal


def share_bill(bill: Decimal, costs: Sequence[Decimal], currency: str) -> BillShares:
    """Divide a bill by largest remainder; ties go to the row that comes first.

    Args:
        bill: the amount of the provider's bill, in whole minor units.
        costs: the exact cost of each row.
        currency: of both.
    """
    with localcontext() as context:
        context.prec = 60
        unit = Decimal(1).scaleb(-decimals(currency))
        metered = rounded(sum(costs, Decimal(0)), currency)
        shares = [cost.quantize(unit, rounding=ROUND_FLOOR) for cost in costs]
        left_over = int((metered - sum(shares, Decimal(0))) / unit)
        by_loss = sorted(range(len(costs)), key=lambda row: shares[row] - costs[row])
        for row in by_loss[:left_over]:
            shares[row] += unit
        return BillShares(bill, tuple(shares), metered, bill - metered)
