"""An invoice as one JSON object: what is stored, hashed, shown and drawn.

    Invoice + Particulars ──sheet()──▶ dict ──chain.py──▶ hash
                                          └──documents/──▶ PDF, HTML, CSV, JSON

Amounts and rates are strings, exact; days and times are ISO 8601. The schema is
docs/schemas/invoice.json, and its name stands in every sheet. A closed invoice's sheet is
stored as it is, so that a document made later shows what was true when it was closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from meterd.billing.period import day_of
from meterd.money import CURRENCIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from decimal import Decimal

    from meterd.billing.statement import Invoice, Line
    from meterd.config.agency import Agency

    Json = str | int | bool | None | Sequence["Json"] | Mapping[str, "Json"]

SCHEMA = "meterd.invoice/1"


@dataclass(frozen=True, slots=True)
class Particulars:
    """What an invoice says beside its lines. Empty `number`: a draft."""

    number: str = ""
    kind: str = "invoice"
    """invoice, or credit_note."""
    issued_at: datetime | None = None
    credits: str = ""
    """The number that a credit note takes back."""
    config_version: int = 0
    price_book: str = ""
    """The price book's version, as `genai-prices 0.2.3`."""
    ledger_rows: tuple[int, int] = (0, 0)
    """The range of ledger rows that the statement rests on, both ends included."""
    rates: tuple[int, ...] = ()
    """The rate rows that priced it, sorted."""
    last_reprice: int = 0
    """The newest recorded reprice that it knew."""
    why: str = ""
    """The reason for a credit note."""


def sheet(invoice: Invoice, particulars: Particulars, agency: Agency) -> dict[str, Json]:
    """The JSON object of an invoice; the same values give the same object, key for key."""
    statement = invoice.statement
    period = statement.period
    client = agency.clients.get(statement.client)
    places = CURRENCIES[invoice.currency]
    last_day = day_of(period.end, agency.zone) - timedelta(days=1)
    return {
        "schema": SCHEMA,
        "number": particulars.number,
        "kind": particulars.kind,
        "credits": particulars.credits,
        "why": particulars.why,
        "agency": {
            "name": agency.name,
            "address": agency.address,
            "email": agency.email,
            "tax_id": agency.tax_id,
            "payment_terms": agency.payment_terms,
        },
        "client": statement.client,
        "client_name": client.title if client else statement.client,
        "client_address": client.address if client else "",
        "client_email": client.email if client else "",
        "client_tax_id": client.tax_id if client else "",
        "period": period.name,
        "start": period.start.astimezone(agency.zone).isoformat(),
        "end": period.end.astimezone(agency.zone).isoformat(),
        "first_day": day_of(period.start, agency.zone).isoformat(),
        "last_day": last_day.isoformat(),
        "timezone": agency.timezone,
        "issued_at": _time(particulars.issued_at, agency),
        "currency": invoice.currency,
        "decimals": places,
        "plan": invoice.plan,
        "lines": [_line(line, places) for line in invoice.lines],
        "projects": [
            {
                "project": project.project,
                "requests": project.requests,
                "tokens": project.tokens,
                "amount": f"{project.amount:.{places}f}",
            }
            for project in invoice.projects
        ],
        "subtotal": f"{invoice.subtotal:.{places}f}",
        "total": f"{invoice.total:.{places}f}",
        "requests": statement.requests,
        "tokens": statement.tokens,
        "estimated_tokens": statement.estimated_tokens,
        "unpriced_requests": statement.unpriced_requests,
        "exchange_rate": _conversion(invoice),
        "notes": list(invoice.notes),
        "rests_on": {
            "config_version": particulars.config_version,
            "price_book": particulars.price_book,
            "first_ledger_row": particulars.ledger_rows[0],
            "last_ledger_row": particulars.ledger_rows[1],
            "rates": list(particulars.rates),
            "last_reprice": particulars.last_reprice,
        },
    }


def _line(line: Line, places: int) -> dict[str, Json]:
    return {
        "kind": line.kind.value,
        "description": line.description,
        "tokens": line.tokens,
        "amount": f"{line.amount:.{places}f}",
        "period": line.period,
    }


def _conversion(invoice: Invoice) -> Json:
    conversion = invoice.conversion
    if conversion is None:
        return None
    return {
        "from": "USD",
        "to": invoice.currency,
        "rate": _plain(conversion.rate),
        "day": conversion.day.isoformat(),
        "source": conversion.source,
    }


def _plain(value: Decimal) -> str:
    return format(value, "f")


def _time(moment: datetime | None, agency: Agency) -> str:
    """Where the agency is: an invoice made there in the evening is not of tomorrow."""
    return moment.astimezone(agency.zone).isoformat() if moment else ""
