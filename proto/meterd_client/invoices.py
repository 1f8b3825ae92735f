"""Money as frozen values: invoices, closings, profit, prices. Each amount is a `Decimal` in the
currency that the value names, already rounded where it stands on paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import date, datetime
    from decimal import Decimal


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """A printed line; the total is the sum of these."""

    kind: str
    """fee, usage, markup, overage, minimum, discount, adjustment, credit, carried or tax"""
    description: str
    amount: Decimal
    tokens: int
    period: str
    """Of an adjustment: the month it is about; else empty."""


@dataclass(frozen=True, slots=True)
class ProjectAmount:
    """A project's share of the usage line."""

    project: str
    requests: int
    tokens: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class ExchangeRate:
    """The rate that an invoice's costs were converted by."""

    source_currency: str
    currency: str
    rate: Decimal
    day: date
    source: str


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice or a credit note: a draft until its month is closed, then never changed."""

    number: str
    """Empty on a draft."""
    kind: str
    """invoice or credit_note"""
    status: str
    """draft, final, void or credited"""
    client: str
    client_name: str
    agency: str
    period: str
    start: datetime
    end: datetime
    timezone: str
    currency: str
    plan: str
    lines: tuple[InvoiceLine, ...]
    subtotal: Decimal
    """Before tax."""
    total: Decimal
    projects: tuple[ProjectAmount, ...]
    requests: int
    tokens: int
    estimated_tokens: int
    unpriced_requests: int
    exchange_rate: ExchangeRate | None
    notes: tuple[str, ...]
    issued_at: datetime | None
    hash: str
    previous_hash: str
    credits: str
    """Of a credit note: the number it takes back."""
    why: str
    credited: Decimal
    """What credit notes took back of it so far."""
    config_version: int
    price_book: str
    canonical_json: str

    @property
    def is_final(self) -> bool:
        """Whether it has a number and can never change."""
        return bool(self.number)


@dataclass(frozen=True, slots=True)
class Document:
    """An invoice as a file."""

    file_name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Closing:
    """What came out of closing a month, or on a dry run what would."""

    period: str
    is_closed: bool
    obstacles: tuple[str, ...]
    """What stands in the way, a sentence each; on a dry run alone, else it is raised."""
    remarks: tuple[str, ...]
    """What holds nothing up, but should be known before invoices go out."""
    invoices: tuple[Invoice, ...]


@dataclass(frozen=True, slots=True)
class TrendPoint:
    """A month of a client's requests."""

    period: str
    requests: int
    mean_input_tokens: int
    p95_input_tokens: int


@dataclass(frozen=True, slots=True)
class Remedy:
    """A way out for a client that loses money, with the letter filled in."""

    kind: str
    """optimise, raise_tier or cost_plus"""
    summary: str
    revenue: Decimal | None
    profit: Decimal | None
    letter: str


@dataclass(frozen=True, slots=True)
class ProfitRow:
    """Revenue, cost and margin of a client or project; the last row is the total."""

    client: str
    project: str
    period: str
    plan: str
    currency: str
    is_total: bool
    revenue: Decimal
    """Net of tax."""
    ai_cost: Decimal
    service_cost: Decimal
    profit: Decimal
    margin: Decimal | None
    """Percent of revenue; None: no revenue."""
    ai_cost_share: Decimal | None
    """Percent of revenue; None: no revenue."""
    requests: int
    unpriced_requests: int
    """Above 0 the profit is an upper bound."""
    tokens: int
    estimated_tokens: int
    mean_input_tokens: int
    p95_input_tokens: int
    output_ratio: Decimal | None
    cache_read_share: Decimal | None
    history_share: Decimal | None
    flags: tuple[str, ...]
    """loss, margin, unpriced"""
    trend: tuple[TrendPoint, ...]
    remedies: tuple[Remedy, ...]


@dataclass(frozen=True, slots=True)
class RepriceRow:
    """What new prices change for a client, month and model."""

    client: str
    period: str
    provider: str
    model: str
    records: int
    requests_priced: int
    """Of those that had no price."""
    before: Decimal
    after: Decimal
    difference: Decimal
    currency: str
    is_closed_period: bool
    """The difference becomes an adjustment of the next invoice."""


@dataclass(frozen=True, slots=True)
class PriceRow:
    """A price, in US dollars a `unit`."""

    provider: str
    model: str
    kind: str
    price: Decimal | None
    """None: no price."""
    before: Decimal | None
    """Where an update changes it."""
    unit: str
    source: str
    condition: str
