"""The rollup as a table, with the remarks that keep it honest."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.cli.bill import NOT_SEEN
from meterd.cli.figures import count, counted, money, rounded, tokens
from meterd.cli.table import Column, render

if TYPE_CHECKING:
    import argparse

    from meterd.cli.rollup import Rollup
    from meterd_proto.v1 import rollup_pb2

UNPRICED = "unpriced"


@dataclass(frozen=True, slots=True)
class _Shape:
    """Which columns the table has beside its four: those that anything stands in."""

    by: list[str]
    currency: str
    has_estimated: bool
    has_unpriced: bool

    @property
    def columns(self) -> list[Column]:
        figures = ["REQUESTS", "TOKENS", "COST"]
        figures += ["ESTIMATED"] if self.has_estimated else []
        figures += ["UNPRICED"] if self.has_unpriced else []
        names = [Column(name.upper()) for name in self.by]
        return names + [Column(title, is_figure=True) for title in figures]

    def row(self, names: list[str], usage: rollup_pb2.Usage, share: Decimal | None) -> list[str]:
        cells = [count(usage.requests), tokens(usage.tokens), self._cost(usage, share)]
        cells += [tokens(usage.estimated_tokens)] if self.has_estimated else []
        cells += [count(usage.unpriced_requests)] if self.has_unpriced else []
        return [*names, *cells]

    def amount_row(self, name: str, amount: Decimal) -> list[str]:
        cells = [name, *[""] * (len(self.columns) - 1)]
        cells[len(self.by) + 2] = money(amount, self.currency)
        return cells

    def _cost(self, usage: rollup_pb2.Usage, share: Decimal | None) -> str:
        """The cost; where nothing of it is priced that is said, since zero would be a lie."""
        cost = Decimal(usage.cost or 0)
        if usage.unpriced_requests and not cost:
            return UNPRICED
        return money(cost if share is None else share, self.currency)


def table_lines(
    rollup: Rollup, by: list[str], options: argparse.Namespace, width: int | None
) -> list[str]:
    """The table of a rollup, its total, and a sentence for whatever the figures don't say."""
    head, rows = rollup.head, list(rollup.rows)
    if not rows:
        whose = f" by {options.client}" if options.client else ""
        return [f"No usage in {head.period}{whose}.", *_beside(rollup)]
    total = rollup.total
    shape = _Shape(by, head.currency, total.estimated_tokens > 0, total.unpriced_requests > 0)
    shares = rollup.shares
    cells = [
        shape.row(
            [getattr(row, name) or "-" for name in by],
            row.usage,
            shares.shares[index] if shares else None,
        )
        for index, row in enumerate(rows)
    ]
    cells.append(shape.row(["TOTAL", *[""] * (len(by) - 1)], total, None))
    if shares:
        cells.append(shape.amount_row(NOT_SEEN, shares.not_seen))
        cells.append(shape.amount_row("BILL", shares.bill))
    lines = render(shape.columns, cells, width)
    remarks = [*_rounding(rollup, rows), *_beside(rollup)]
    if not options.month:
        remarks.insert(0, f"{head.period} so far ({head.timezone}).")
    return [*lines, *([""] if remarks else []), *remarks]


def _rounding(rollup: Rollup, rows: list[rollup_pb2.RollupRow]) -> list[str]:
    """Where the printed costs don't add up to the printed total: by how much, and why."""
    currency, shares = rollup.head.currency, rollup.shares
    if shares:
        if shares.not_seen < 0:
            more = money(-shares.not_seen, currency)
            return [f"meterd counted {more} more than the bill: compare the days it covers."]
        return []
    printed = sum((rounded(Decimal(row.usage.cost or 0), currency) for row in rows), Decimal(0))
    off = printed - rounded(Decimal(rollup.total.cost or 0), currency)
    if not off:
        return []
    side = "more" if off > 0 else "less"
    return [
        f"The lines of COST add up to {money(printed, currency)}, {money(abs(off), currency)} "
        f"{side} than the total: each is rounded by itself, the total once."
    ]


def _beside(rollup: Rollup) -> list[str]:
    """What is known and stands in no row's columns."""
    head, total = rollup.head, rollup.total
    remarks = []
    if total.unpriced_requests:
        remarks.append(
            f"{counted(total.unpriced_requests, 'request')} without a price: COST is what is "
            "priced; `meterctl status` names the models."
        )
    if total.failed_requests or total.refused_requests:
        remarks.append(
            f"Not in REQUESTS: {count(total.failed_requests)} failed at the provider, "
            f"{count(total.refused_requests)} refused by meterd."
        )
    if head.late_records:
        remarks.append(
            f"{counted(head.late_records, 'record')} came more than 35 days late and wait for "
            "`meterctl accept --late CLIENT`."
        )
    if head.quarantined_records:
        remarks.append(
            f"{counted(head.quarantined_records, 'record')} in quarantine, not counted: "
            "`meterctl doctor` says why."
        )
    if head.lost_records:
        remarks.append(
            f"{counted(head.lost_records, 'record')} declared lost: `meterctl status` lists them."
        )
    return remarks
