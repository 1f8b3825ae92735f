"""An invoice's sheet as the message that goes over the wire."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from meterd.billing.chain import canonical_json
from meterd.money import minor_unit
from meterd_proto.v1 import billing_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meterd.store.book_values import StoredDocument


def draft_message(sheet: Mapping[str, Any]) -> billing_pb2.Invoice:
    """A sheet without a number, as it would be now."""
    message = _message(sheet, "draft")
    message.canonical_json = canonical_json(sheet)
    return message


def final_message(document: StoredDocument) -> billing_pb2.Invoice:
    """A stored document, with its place in the chain."""
    sheet = json.loads(document.canonical)
    message = _message(sheet, status_of(document, sheet))
    message.hash = document.hash
    message.previous_hash = document.previous_hash
    message.canonical_json = document.canonical
    if document.credited:
        message.credited = in_units(document.credited, sheet)
    return message


def status_of(document: StoredDocument, sheet: Mapping[str, Any]) -> str:
    """final, void, or credited once all of it was taken back."""
    if document.is_void:
        return "void"
    total = Decimal(sheet["total"])
    if document.credited and in_units(document.credited, sheet) == f"{total:f}":
        return "credited"
    return "final"


def in_units(amount: int, sheet: Mapping[str, Any]) -> str:
    """Minor units as an amount of the sheet's currency."""
    return f"{amount * minor_unit(sheet['currency']):f}"


def _message(sheet: Mapping[str, Any], status: str) -> billing_pb2.Invoice:
    rate = sheet["exchange_rate"]
    rests_on = sheet["rests_on"]
    return billing_pb2.Invoice(
        number=sheet["number"],
        client=sheet["client"],
        client_name=sheet["client_name"],
        period=sheet["period"],
        start=sheet["start"],
        end=sheet["end"],
        status=status,
        kind=sheet["kind"],
        currency=sheet["currency"],
        lines=[billing_pb2.InvoiceLine(**line) for line in sheet["lines"]],
        total=sheet["total"],
        subtotal=sheet["subtotal"],
        timezone=sheet["timezone"],
        issued_at=sheet["issued_at"],
        credits=sheet["credits"],
        why=sheet["why"],
        tokens=sheet["tokens"],
        estimated_tokens=sheet["estimated_tokens"],
        requests=sheet["requests"],
        unpriced_requests=sheet["unpriced_requests"],
        projects=[billing_pb2.ProjectAmount(**project) for project in sheet["projects"]],
        plan=sheet["plan"],
        config_version=rests_on["config_version"],
        price_book=rests_on["price_book"],
        exchange_rate=_rate(rate) if rate else None,
        agency=sheet["agency"]["name"],
        notes=sheet["notes"],
    )


def _rate(rate: Mapping[str, str]) -> billing_pb2.ExchangeRate:
    return billing_pb2.ExchangeRate(
        **{"from": rate["from"]},
        to=rate["to"],
        rate=rate["rate"],
        date=rate["day"],
        source=rate["source"],
    )
