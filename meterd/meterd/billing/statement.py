"""What an invoice rests on, and what it is made of: values without rules.

    Statement ──charges.py──▶ lines ──invoice.py──▶ Invoice

Costs are US dollars, exact and unrounded, as the rate cards give them; every other amount
is in the agency's currency, rounded to its minor unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import date

    from meterd.billing.period import Period


class LineKind(StrEnum):
    """What a line is for, in the order in which lines stand on an invoice."""

    FEE = "fee"
    USAGE = "usage"
    MARKUP = "markup"
    OVERAGE = "overage"
    MINIMUM = "minimum"
    DISCOUNT = "discount"
    ADJUSTMENT = "adjustment"
    CREDIT = "credit"
    CARRIED = "carried"
    TAX = "tax"


@dataclass(frozen=True, slots=True)
class ProjectUsage:
    """One project's share of a statement. `cost` in US dollars, exact."""

    project: str
    requests: int
    tokens: int
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Statement:
    """What a client used in a period, as the rollups have it.

    `tokens` count towards what a retainer includes; `cost` is what is priced of them, in
    US dollars, exact; the projects' costs sum to it.
    """

    client: str
    period: Period
    requests: int = 0
    tokens: int = 0
    estimated_tokens: int = 0
    unpriced_requests: int = 0
    cost: Decimal = Decimal(0)
    projects: tuple[ProjectUsage, ...] = ()
    rolled_over_tokens: int = 0
    """Unused tokens of earlier periods that this one may use, before its own."""
    granted_tokens: int = 0
    """Tokens granted by hand, included like the plan's."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an invoice: a rounded amount and what it is for."""

    kind: LineKind
    description: str
    amount: Decimal
    tokens: int = 0
    """Tokens the line counts; 0: none."""
    period: str = ""
    """An adjustment's own period, as `2026-10`."""


@dataclass(frozen=True, slots=True)
class ProjectAmount:
    """A project's part of the usage line; the parts sum to the line."""

    project: str
    requests: int
    tokens: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Conversion:
    """One exchange rate, frozen on the invoice: units of the agency's currency a US dollar."""

    rate: Decimal
    day: date
    source: str


@dataclass(frozen=True, slots=True)
class Invoice:
    """One client's bill for one period. `total` is the sum of the lines' amounts."""

    statement: Statement
    plan: str
    currency: str
    lines: tuple[Line, ...]
    projects: tuple[ProjectAmount, ...]
    subtotal: Decimal
    """Before tax."""
    total: Decimal
    conversion: Conversion | None = None
    notes: tuple[str, ...] = ()
    is_billed: bool = True
    """False for free and internal clients, and those without a plan: nothing is owed."""
