"""Who makes and who loses money, and the three ways out for each loser.

    revenue (net of tax) − AI cost − service cost = profit;   margin = profit ÷ revenue

Revenue is what the period is charged: the invoice's own lines, without what belongs to
other periods, credits and tax. AI cost is what the provider billed for the period, priced
in the agency's currency. All figures are values; the texts are letters/.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import TYPE_CHECKING

from meterd.billing.charges import charges, total_of, usage_amount
from meterd.config.agency import Plan, PlanType
from meterd.money import exact, round_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from meterd.billing.statement import Statement
    from meterd.config.agency import ServiceCost
    from meterd.money import Rounding


@dataclass(frozen=True, slots=True)
class Outcome:
    """One client's month in money; amounts rounded to the currency."""

    revenue: Decimal
    ai_cost: Decimal
    service_cost: Decimal

    @property
    def profit(self) -> Decimal:
        """What is left of the revenue."""
        with exact():
            return self.revenue - self.ai_cost - self.service_cost

    @property
    def margin(self) -> Decimal | None:
        """Profit as a fraction of revenue, to a tenth of a percent; None without revenue."""
        if not self.revenue:
            return None
        with localcontext() as context:
            context.prec = 40
            share = self.profit / self.revenue
            return share.quantize(Decimal("0.001"), ROUND_HALF_UP)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan that a client could have, and what its month would have been under it."""

    plan: Plan
    outcome: Outcome


def outcome_of(
    statement: Statement,
    plan: Plan | None,
    service: ServiceCost,
    currency: str,
    *,
    conversion: Decimal = Decimal(1),
    rounding: Rounding = "half_up",
) -> Outcome:
    """What a statement brings and costs under a plan; without a plan it brings nothing."""
    lines = (
        charges(statement, plan, currency, conversion=conversion, rounding=rounding) if plan else ()
    )
    revenue = total_of(lines)
    return Outcome(
        revenue,
        usage_amount(statement, currency, conversion, rounding),
        service_cost_of(service, revenue, currency, rounding),
    )


def service_cost_of(
    service: ServiceCost, revenue: Decimal, currency: str, rounding: Rounding = "half_up"
) -> Decimal:
    """What serving a client costs beside tokens: fixed + hours × hourly + a share of revenue."""
    with exact():
        cost = service.fixed + service.hours * service.hourly + revenue * service.revenue_share
    return round_line(cost, currency, rounding)


def flags_of(
    outcome: Outcome, unpriced_requests: int, target_margin: Decimal | None
) -> tuple[str, ...]:
    """What an owner should look at: "loss", "margin" under the target, "unpriced" usage."""
    margin = outcome.margin
    flags = []
    if outcome.profit < 0:
        flags.append("loss")
    elif target_margin is not None and margin is not None and margin < target_margin:
        flags.append("margin")
    if unpriced_requests:
        flags.append("unpriced")
    return tuple(flags)


def plans_that_pay(
    statements: Sequence[Statement],
    candidates: Iterable[Plan],
    service: ServiceCost,
    currency: str,
    *,
    conversion: Decimal = Decimal(1),
    rounding: Rounding = "half_up",
) -> list[Proposal]:
    """The retainers under which each of these months pays for itself, cheapest first.

    Args:
        statements: this month's and the last ones', newest first; the proposal's outcome is
            the newest month's.

    Returns:
        Nothing where no plan covers the cost: then only cost-plus, or less usage, does.
    """
    found = []
    for plan in candidates:
        if plan.type is not PlanType.RETAINER:
            continue
        outcomes = [
            outcome_of(one, plan, service, currency, conversion=conversion, rounding=rounding)
            for one in statements
        ]
        if outcomes and all(outcome.profit >= 0 for outcome in outcomes):
            found.append(Proposal(plan, outcomes[0]))
    return sorted(found, key=lambda one: (one.outcome.revenue, one.plan.fee, one.plan.name))


def under_cost_plus(
    statement: Statement,
    markup: Decimal,
    service: ServiceCost,
    currency: str,
    *,
    conversion: Decimal = Decimal(1),
    rounding: Rounding = "half_up",
) -> Proposal:
    """What the month would have been at actual cost plus a management fee."""
    plan = Plan("cost_plus", PlanType.COST_PLUS, markup=markup)
    outcome = outcome_of(
        statement, plan, service, currency, conversion=conversion, rounding=rounding
    )
    return Proposal(plan, outcome)


def with_less_input(
    statement: Statement, input_tokens: int, input_cost: Decimal, change: Decimal
) -> tuple[Statement, Decimal]:
    """The statement with its input tokens changed by a fraction (−0.67), and what that saves.

    Args:
        input_tokens: of the statement, cached ones included.
        input_cost: US dollars that those tokens cost, exact.

    Returns:
        The new statement and the saving, US dollars, exact. Tokens round down.
    """
    with exact():
        kept = int(input_tokens * (1 + change))
        saved = -input_cost * change
        cost = statement.cost - saved
    tokens = statement.tokens - input_tokens + kept
    return replace(statement, tokens=tokens, cost=cost, projects=()), saved
