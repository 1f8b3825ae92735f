"""A client's account: its usage and what was billed so far, made into the next invoice.

    usage of the period ─┐
    usage of closed ones ┼─▶ invoice_of ─▶ Invoice
    lines billed so far ─┘

Pure, and told everything: so a draft, a closing and the proof of a closing years later are
the same computation on the same values.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.billing.conversion import conversion_of
from meterd.billing.invoice import CreditLeft, LateUsage, draw_up
from meterd.billing.period import day_of
from meterd.billing.plan_of_period import plan_of_period
from meterd.money import exact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meterd.billing.statement import Invoice, Statement
    from meterd.config.agency import Agency


@dataclass(frozen=True, slots=True)
class Billed:
    """What a client's documents say so far, added up."""

    charged: Mapping[int, Decimal] = field(default_factory=dict)
    """By period: its own lines and the adjustments made to it, before credits and tax."""
    credits_taken: Mapping[str, Decimal] = field(default_factory=dict)
    """By description; never negative."""
    carried: Decimal = Decimal(0)
    """What the last invoice left over, never positive."""


@dataclass(frozen=True, slots=True)
class LatePeriod:
    """A closed period that usage was posted to since, with the terms it was closed under."""

    statement: Statement
    """The whole of it."""
    agency: Agency


@dataclass(frozen=True, slots=True)
class Account:
    """All that an invoice rests on."""

    agency: Agency
    statement: Statement
    late: Sequence[LatePeriod] = ()
    billed: Billed = Billed()


def invoice_of(account: Account) -> Invoice:
    """The invoice of the statement's period, under the agency's terms."""
    agency, statement = account.agency, account.statement
    client = agency.clients.get(statement.client)
    plan = plan_of_period(agency, statement.client, statement.period)
    invoice = draw_up(
        statement,
        plan,
        agency.currency,
        late=tuple(_late(account)),
        credits_left=tuple(_credits_left(account)),
        carried=account.billed.carried,
        tax=(client.tax if client else None) or agency.tax,
        conversion=conversion_of(agency, statement.period),
        rounding=agency.rounding,
    )
    if plan is not None:
        return replace(invoice, plan=plan.name)
    return invoice


def _late(account: Account) -> Iterator[LateUsage]:
    for one in account.late:
        client, period = one.statement.client, one.statement.period
        plan = plan_of_period(one.agency, client, period)
        if plan is None:
            continue
        conversion = conversion_of(one.agency, period)
        yield LateUsage(
            one.statement,
            plan,
            account.billed.charged.get(period.index, Decimal(0)),
            conversion.rate if conversion else Decimal(1),
        )


def _credits_left(account: Account) -> Iterator[CreditLeft]:
    """Credits that have begun, less what invoices took of them; those of one name in order."""
    agency, statement = account.agency, account.statement
    client = agency.clients.get(statement.client)
    end = day_of(statement.period.end, agency.zone)
    taken = dict(account.billed.credits_taken)
    for credit in client.credits if client else ():
        if credit.from_day >= end:
            continue
        used = min(credit.amount, taken.get(credit.description, Decimal(0)))
        with exact():
            taken[credit.description] = taken.get(credit.description, Decimal(0)) - used
            left = credit.amount - used
        if left:
            yield CreditLeft(credit, left)
