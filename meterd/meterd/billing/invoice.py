"""An invoice: what a plan charges, adjustments for what came late, credits, tax, the total.

    charges ─▶ adjustments ─▶ credits ─▶ what was carried ─▶ tax ─▶ total = Σ lines

An adjustment is what an earlier, closed period would have been charged with the usage that
came late, less what it was charged: so all invoices together are what one late invoice
would have been, rounding included. A closed invoice itself never changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.billing.charges import charges, project_amounts, total_of, usage_amount
from meterd.billing.period import first_day
from meterd.billing.statement import Invoice, Line, LineKind
from meterd.billing.wording import month_text, percent_text
from meterd.money import allot, exact, round_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.billing.statement import Conversion, Statement
    from meterd.config.agency import Credit, Plan, Tax
    from meterd.money import Rounding


@dataclass(frozen=True, slots=True)
class LateUsage:
    """A closed period whose usage grew after it was invoiced."""

    statement: Statement
    """The whole of the period, with what came late."""
    plan: Plan
    charged: Decimal
    """What the period was charged so far before tax: its invoice and earlier adjustments."""
    conversion: Decimal = Decimal(1)


@dataclass(frozen=True, slots=True)
class CreditLeft:
    """A credit and what of it no invoice has taken yet."""

    credit: Credit
    left: Decimal


def draw_up(
    statement: Statement,
    plan: Plan | None,
    currency: str,
    *,
    late: Sequence[LateUsage] = (),
    credits_left: Sequence[CreditLeft] = (),
    carried: Decimal = Decimal(0),
    tax: Tax | None = None,
    conversion: Conversion | None = None,
    rounding: Rounding = "half_up",
) -> Invoice:
    """One client's invoice for one period. Pure: the same values give the same invoice.

    Args:
        plan: the terms of the period; None, free or internal: nothing is owed.
        carried: what the invoice before left over, never positive.
        conversion: where the agency doesn't bill in US dollars; without it, one for one.

    Returns:
        An invoice whose total is the sum of its lines and never negative: what would be is
        carried to the next one, on a line of its own.
    """
    rate = conversion.rate if conversion else Decimal(1)
    lines = list(
        charges(statement, plan, currency, conversion=rate, rounding=rounding) if plan else ()
    )
    is_billed = bool(lines)
    lines += [line for one in late for line in _adjustment(one, currency, rounding)]
    lines += _credits(total_of(lines), credits_left)
    if carried:
        lines.append(Line(LineKind.CARRIED, "Carried from the last invoice", carried))
    lines += _carried_on(total_of(lines))
    subtotal = total_of(lines)
    lines += _taxes(lines, subtotal, tax, currency, rounding)
    usage = usage_amount(statement, currency, rate, rounding)
    return Invoice(
        statement=statement,
        plan=plan.name if plan else "",
        currency=currency,
        lines=tuple(lines),
        projects=project_amounts(statement, usage, currency),
        subtotal=subtotal,
        total=total_of(lines),
        conversion=conversion,
        notes=tuple(_notes(statement)),
        is_billed=is_billed or bool(lines),
    )


def charged_before_tax(invoice: Invoice) -> Decimal:
    """What an invoice charged for its own period: without adjustments, credits and tax."""
    own = [line for line in invoice.lines if line.kind not in _NOT_THE_PERIODS_OWN]
    return total_of(own)


def project_totals(invoice: Invoice) -> dict[str, Decimal]:
    """Every project's share of the subtotal, by its part of the usage; sums to the subtotal."""
    if not invoice.projects or invoice.subtotal <= 0:
        return {}
    weights = [project.amount for project in invoice.projects]
    if not any(weights):
        weights = [Decimal(project.tokens) for project in invoice.projects]
    parts = allot(invoice.subtotal, weights, invoice.currency)
    names = [project.project for project in invoice.projects]
    return dict(zip(names, parts, strict=True))


_NOT_THE_PERIODS_OWN = frozenset(
    {LineKind.ADJUSTMENT, LineKind.CREDIT, LineKind.CARRIED, LineKind.TAX}
)


def _adjustment(late: LateUsage, currency: str, rounding: Rounding) -> list[Line]:
    """The line for one closed period; none where what came late changes nothing."""
    owed = total_of(
        charges(late.statement, late.plan, currency, conversion=late.conversion, rounding=rounding)
    )
    difference = owed - late.charged
    if not difference:
        return []
    name = late.statement.period.name
    text = f"Usage of {month_text(first_day(late.statement.period.index, 1))} that arrived late"
    return [Line(LineKind.ADJUSTMENT, text, difference, period=name)]


def _credits(total: Decimal, credits_left: Sequence[CreditLeft]) -> list[Line]:
    """Credits in their order, each up to what is still owed."""
    lines: list[Line] = []
    for one in credits_left:
        taken = min(one.left, total)
        if taken <= 0:
            continue
        lines.append(Line(LineKind.CREDIT, one.credit.description, -taken))
        total -= taken
    return lines


def _carried_on(total: Decimal) -> list[Line]:
    if total >= 0:
        return []
    return [Line(LineKind.CARRIED, "Carried to the next invoice", -total)]


def _taxes(
    lines: Sequence[Line], subtotal: Decimal, tax: Tax | None, currency: str, rounding: Rounding
) -> list[Line]:
    """On the total per rate (EN 16931, BR-CO-17), or on each line where the agency says so."""
    if tax is None or not subtotal:
        return []
    bases = [line.amount for line in lines] if tax.per_line else [subtotal]
    with exact():
        amount = sum(
            (round_line(base * tax.rate, currency, rounding) for base in bases), Decimal(0)
        )
    return [Line(LineKind.TAX, f"{tax.name} ({percent_text(tax.rate)})", amount)]


def _notes(statement: Statement) -> list[str]:
    """What a reader must know of how the tokens were counted."""
    notes = []
    if statement.estimated_tokens:
        share = _percent(statement.estimated_tokens, statement.tokens)
        notes.append(
            f"{statement.estimated_tokens:,} of {statement.tokens:,} tokens ({share}) were "
            "estimated because the provider reported none."
        )
    if statement.unpriced_requests:
        calls, are = ("request has", "is") if statement.unpriced_requests == 1 else (
            "requests have", "are"
        )  # fmt: skip
        notes.append(
            f"{statement.unpriced_requests:,} {calls} no price yet and {are} not in the usage line."
        )
    return notes


def _percent(part: int, whole: int) -> str:
    """A share for eyes, to a tenth of a percent."""
    tenths = (part * 2000 + whole) // (2 * whole) if whole else 0
    return f"{tenths // 10}.{tenths % 10}%"
