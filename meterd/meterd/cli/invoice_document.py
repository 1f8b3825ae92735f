"""An invoice for machines: the sheet that its hash is over, or a csv row a line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd_proto.v1 import billing_pb2

SCHEMA = "meterd.invoice/1"
COLUMNS = (
    "number", "client", "period", "status", "kind", "description", "tokens", "amount", "currency",
)  # fmt: skip
_LINE = ("kind", "description", "tokens", "amount", "period")
_PROJECT = ("project", "requests", "tokens", "amount")
_FIELDS = (
    "number", "kind", "client", "client_name", "period", "start", "end", "timezone", "issued_at",
    "currency", "plan", "subtotal", "total", "requests", "tokens", "estimated_tokens",
    "unpriced_requests", "credits", "why",
)  # fmt: skip


def document_of(invoice: billing_pb2.Invoice) -> dict[str, object]:
    """A stored invoice as its sheet has it, a draft from the message; amounts are strings."""
    head: dict[str, object] = {"schema": SCHEMA, "status": invoice.status}
    if invoice.canonical_json:
        sheet: dict[str, object] = json.loads(invoice.canonical_json)
        tail = {
            "credited": invoice.credited,
            "hash": invoice.hash,
            "previous_hash": invoice.previous_hash,
        }
        return {**head, **sheet, **{name: value for name, value in tail.items() if value}}
    rate = invoice.exchange_rate
    return {
        **head,
        **{name: getattr(invoice, name) for name in _FIELDS},
        "lines": [{name: getattr(line, name) for name in _LINE} for line in invoice.lines],
        "projects": [
            {name: getattr(one, name) for name in _PROJECT} for one in invoice.projects
        ],
        "exchange_rate": {
            "from": getattr(rate, "from"), "to": rate.to, "rate": rate.rate, "day": rate.date,
            "source": rate.source,
        } if rate.rate else None,
        "notes": list(invoice.notes),
        "rests_on": {
            "config_version": invoice.config_version,
            "price_book": invoice.price_book,
        },
    }  # fmt: skip


def rows_of(invoice: billing_pb2.Invoice) -> Iterator[dict[str, object]]:
    """A row a line, then the total."""
    fixed = {
        "number": invoice.number,
        "client": invoice.client,
        "period": invoice.period,
        "status": invoice.status,
        "currency": invoice.currency,
    }
    for line in invoice.lines:
        yield {
            **fixed,
            "kind": line.kind,
            "description": line.description,
            "tokens": line.tokens or None,
            "amount": line.amount,
        }
    yield {**fixed, "kind": "total", "description": "Total", "amount": invoice.total}
