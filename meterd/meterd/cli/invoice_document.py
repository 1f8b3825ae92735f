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
    "estimated_tokens",
)  # fmt: skip


def document_of(invoice: billing_pb2.Invoice) -> dict[str, object]:
    """The invoice's sheet, as docs/schemas/invoice.json describes it; amounts are strings."""
    sheet: dict[str, object] = json.loads(invoice.canonical_json)
    more = {
        "credited": invoice.credited,
        "hash": invoice.hash,
        "previous_hash": invoice.previous_hash,
    }
    return {
        "schema": SCHEMA,
        "status": invoice.status,
        **sheet,
        **{name: value for name, value in more.items() if value},
    }


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
    yield {
        **fixed,
        "kind": "total",
        "description": "Total",
        "tokens": invoice.tokens or None,
        "estimated_tokens": invoice.estimated_tokens,
        "amount": invoice.total,
    }
