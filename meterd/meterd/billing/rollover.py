"""Rollover: tokens that a period left unused and that later ones may use, oldest first.

    lots of earlier periods ─ used first, oldest first ─▶ then the period's own ─▶ a new lot

Tokens, never money. A lot lasts for `rollover_periods` periods; all lots together never hold
more than `rollover_tokens_max`. It is always derived from the periods' usage, never stored, so
what arrives late shrinks what rolls over into the period that is still open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from meterd.config.agency import Plan


class Lot(NamedTuple):
    """What is left of one period's included tokens."""

    period: int
    tokens: int


class Month(NamedTuple):
    """A period as rollover sees it."""

    period: int
    tokens: int
    plan: Plan | None


def rolled_over(months: Iterable[Month], period: int, plan: Plan | None) -> int:
    """Tokens that a period may use of earlier ones.

    Args:
        months: the periods before, in order; one without usage, too, if its plan held.
        period: the index of the one that is billed, under `plan`.
    """
    lots: tuple[Lot, ...] = ()
    for month in months:
        lots = lots_after(lots, month)
    return sum(lot.tokens for lot in _valid(lots, period, plan))


def lots_after(lots: Sequence[Lot], month: Month) -> tuple[Lot, ...]:
    """The lots that remain after a period: used oldest first, and what it left of its own."""
    plan = month.plan
    valid = _valid(lots, month.period, plan)
    if plan is None or plan.included_tokens is None or not plan.rollover_tokens_max:
        return ()
    left: list[Lot] = []
    used = month.tokens
    for lot in valid:
        taken = min(used, lot.tokens)
        used -= taken
        # One that the next period may not use any more takes no room from the new one.
        if lot.tokens > taken and _lasts(lot, month.period + 1, plan):
            left.append(Lot(lot.period, lot.tokens - taken))
    room = plan.rollover_tokens_max - sum(lot.tokens for lot in left)
    unused = min(room, plan.included_tokens - used)
    return (*left, Lot(month.period, unused)) if unused > 0 else tuple(left)


def _valid(lots: Sequence[Lot], period: int, plan: Plan | None) -> tuple[Lot, ...]:
    """Those that have not expired; none under a plan without rollover."""
    if plan is None or not plan.rollover_tokens_max:
        return ()
    return tuple(lot for lot in lots if _lasts(lot, period, plan))


def _lasts(lot: Lot, period: int, plan: Plan) -> bool:
    return period - lot.period <= max(1, plan.rollover_periods)
