"""What a plan makes of a statement: fee, usage, markup, overage, minimum, discount.

Each line is computed exactly and rounded once (money.round_line); what follows from a line
follows from its printed amount: markup is taken on the printed usage line, so that a
client's calculator agrees. Nothing here knows what was billed before; adjustments, credits
and tax are invoice.py's.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.billing.statement import Line, LineKind, ProjectAmount
from meterd.billing.wording import money_text, percent_text, prose_money, tokens_exact_text
from meterd.config.agency import Overage, OverageRounding, PlanType
from meterd.money import Rounding, allot, exact, per_million, round_line

if TYPE_CHECKING:
    from meterd.billing.statement import Statement
    from meterd.config.agency import Plan


def charges(
    statement: Statement,
    plan: Plan,
    currency: str,
    *,
    conversion: Decimal = Decimal(1),
    rounding: Rounding = "half_up",
) -> tuple[Line, ...]:
    """The lines that a plan charges for a statement, before adjustments, credits and tax.

    Args:
        plan: the contract's plan with its own numbers in place; free and internal plans
            charge nothing.
        conversion: units of `currency` a US dollar; applied to the exact cost, once.

    Returns:
        Lines in the order of `LineKind`; none whose amount rounds to zero, but the fee and
        usage of a paying client always stand.
    """
    if plan.type in (PlanType.FREE, PlanType.INTERNAL):
        return ()
    usage = usage_amount(statement, currency, conversion, rounding)
    lines = (
        _retainer(statement, plan, currency, usage, rounding)
        if plan.type is PlanType.RETAINER
        else _cost_plus(statement, plan, currency, usage, rounding)
    )
    return _with_minimum_and_discount(lines, plan, currency, rounding)


def usage_amount(
    statement: Statement, currency: str, conversion: Decimal, rounding: Rounding
) -> Decimal:
    """The usage line's amount: the exact cost in the agency's currency, rounded once."""
    with exact():
        converted = statement.cost * conversion
    return round_line(converted, currency, rounding)


def project_amounts(
    statement: Statement, usage: Decimal, currency: str
) -> tuple[ProjectAmount, ...]:
    """The usage line shared among projects by their exact cost, by largest remainder."""
    if not statement.projects:
        return ()
    parts = allot(usage, [project.cost for project in statement.projects], currency)
    return tuple(
        ProjectAmount(project.project, project.requests, project.tokens, part)
        for project, part in zip(statement.projects, parts, strict=True)
    )


def overage_tokens(statement: Statement, plan: Plan) -> int:
    """Tokens beyond what the plan, rollover and grants include; 0 where it includes all."""
    if plan.included_tokens is None:
        return 0
    included = plan.included_tokens + statement.rolled_over_tokens + statement.granted_tokens
    return max(0, statement.tokens - included)


def markup_text(plan: Plan) -> str:
    """The markup line's wording: the plan's own label, else "Agency Markup (30%)"."""
    return plan.markup_label or f"Agency Markup ({percent_text(plan.markup)})"


def _retainer(
    statement: Statement, plan: Plan, currency: str, usage: Decimal, rounding: Rounding
) -> list[Line]:
    included = plan.included_tokens
    promise = "" if included is None else f", {tokens_exact_text(included)} tokens included"
    fee = round_line(plan.fee, currency, rounding)
    lines = [Line(LineKind.FEE, f"{plan.title} retainer{promise}", fee, statement.tokens)]
    beyond = overage_tokens(statement, plan)
    if beyond:
        lines += _overage(statement, plan, currency, usage, beyond, rounding)
    return lines


def _overage(
    statement: Statement,
    plan: Plan,
    currency: str,
    usage: Decimal,
    beyond: int,
    rounding: Rounding,
) -> list[Line]:
    if plan.overage is Overage.NONE:
        return []
    if plan.overage is Overage.COST_PLUS:
        return _cost_plus_overage(statement, plan, currency, usage, beyond, rounding)
    billed = beyond
    if plan.overage_rounding is OverageRounding.STARTED:
        billed = -(-beyond // plan.overage_block) * plan.overage_block
    amount = round_line(per_million(billed, plan.overage_per_million), currency, rounding)
    text = (
        f"Overage: {tokens_exact_text(beyond)} tokens at "
        f"{prose_money(plan.overage_per_million, currency)} per additional 1M"
    )
    return _unless_zero(Line(LineKind.OVERAGE, text, amount, beyond))


def _cost_plus_overage(
    statement: Statement,
    plan: Plan,
    currency: str,
    usage: Decimal,
    beyond: int,
    rounding: Rounding,
) -> list[Line]:
    """The part of the printed cost that the tokens beyond have, by tokens, and its markup."""
    cost = allot(usage, [statement.tokens - beyond, beyond], currency)[1]
    text = f"Overage: {tokens_exact_text(beyond)} tokens at cost"
    lines = _unless_zero(Line(LineKind.OVERAGE, text, cost, beyond))
    return lines + _unless_zero(_markup(cost, plan, currency, rounding))


def _cost_plus(
    statement: Statement, plan: Plan, currency: str, usage: Decimal, rounding: Rounding
) -> list[Line]:
    lines: list[Line] = []
    if plan.fee:
        fee = round_line(plan.fee, currency, rounding)
        lines.append(Line(LineKind.FEE, f"{plan.title} fee", fee))
    text = f"AI usage: {tokens_exact_text(statement.tokens)} tokens"
    lines.append(Line(LineKind.USAGE, text, usage, statement.tokens))
    return lines + _unless_zero(_markup(usage, plan, currency, rounding))


def _markup(printed: Decimal, plan: Plan, currency: str, rounding: Rounding) -> Line:
    with exact():
        amount = printed * plan.markup
    return Line(LineKind.MARKUP, markup_text(plan), round_line(amount, currency, rounding))


def _with_minimum_and_discount(
    lines: list[Line], plan: Plan, currency: str, rounding: Rounding
) -> tuple[Line, ...]:
    missing = round_line(plan.minimum, currency, rounding) - total_of(lines)
    if missing > 0:
        text = f"Minimum fee of {money_text(plan.minimum, currency)}"
        lines = [*lines, Line(LineKind.MINIMUM, text, missing)]
    with exact():
        discount = -total_of(lines) * plan.discount
    text = f"Discount ({percent_text(plan.discount)})"
    off = Line(LineKind.DISCOUNT, text, round_line(discount, currency, rounding))
    return (*lines, *_unless_zero(off))


def total_of(lines: list[Line] | tuple[Line, ...]) -> Decimal:
    """The sum of printed amounts."""
    with exact():
        return sum((line.amount for line in lines), Decimal(0))


def _unless_zero(line: Line) -> list[Line]:
    return [line] if line.amount else []
