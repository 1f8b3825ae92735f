"""A credit note: an invoice taken back, whole or in part, as a document of its own.

It is made from the invoice's stored sheet, so that it says what the invoice said. A whole
one mirrors every line; a part is one line, and its tax the same share of the invoice's,
except that the last part takes the rest: parts never sum to a cent more or less.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from meterd.errors import InvalidRequest, NotPossibleNow
from meterd.money import CURRENCIES, allot, exact, round_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from meterd.billing.sheet import Json

KIND = "credit_note"


def credit_note(
    invoice: Mapping[str, Any],
    amount: Decimal | None,
    credited: Decimal,
    credited_tax: Decimal,
    *,
    number: str,
    issued_at: datetime,
    why: str,
) -> dict[str, Json]:
    """The sheet of a credit note over an invoice.

    Args:
        invoice: the stored sheet.
        amount: to take back, tax included; None: all that is left.
        credited, credited_tax: what earlier credit notes took back, and the tax of it; never
            negative.

    Raises:
        NotPossibleNow: nothing is left to take back.
        InvalidRequest: it is no amount of the currency, or more than what is left.
    """
    currency, total = invoice["currency"], Decimal(invoice["total"])
    with exact():
        left = total - credited
    if left <= 0:
        raise NotPossibleNow(f"{invoice['number']} has nothing left to credit")
    taken = left if amount is None else _checked(amount, left, currency)
    lines = (
        [_mirrored(line) for line in invoice["lines"]]
        if taken == total
        else _part(invoice, taken, credited_tax if taken == left else None)
    )
    with exact():
        subtotal = sum(
            (Decimal(line["amount"]) for line in lines if line["kind"] != "tax"), Decimal(0)
        )
    places = CURRENCIES[currency]
    return {
        **invoice,
        "number": number,
        "kind": KIND,
        "credits": invoice["number"],
        "why": why,
        "issued_at": issued_at.astimezone(ZoneInfo(invoice["timezone"])).isoformat(),
        "lines": lines,
        "projects": [],
        "notes": [],
        "subtotal": f"{subtotal:.{places}f}",
        "total": f"{-taken:.{places}f}",
    }


def _checked(amount: Decimal, left: Decimal, currency: str) -> Decimal:
    if amount <= 0 or round_line(amount, currency) != amount:
        places = CURRENCIES[currency]
        raise InvalidRequest(
            f"{amount} is no amount to credit; more than 0 {currency}, at most {places} decimals"
        )
    if amount > left:
        raise InvalidRequest(f"{amount} is more than the {left} that is left to credit")
    return amount


def _mirrored(line: Mapping[str, Any]) -> dict[str, Any]:
    with exact():
        amount = -Decimal(line["amount"])
    places = max(0, -int(amount.as_tuple().exponent))
    return {**line, "amount": f"{amount if amount else abs(amount):.{places}f}"}


def _part(
    invoice: Mapping[str, Any], taken: Decimal, credited_tax: Decimal | None
) -> list[dict[str, Any]]:
    """One line and its tax, in the invoice's own proportion of the two.

    Args:
        credited_tax: given for the last part, which takes the tax that is left.
    """
    currency = invoice["currency"]
    places = CURRENCIES[currency]
    taxes = [line for line in invoice["lines"] if line["kind"] == "tax"]
    with exact():
        tax = sum((Decimal(line["amount"]) for line in taxes), Decimal(0))
        net = Decimal(invoice["total"]) - tax
        if credited_tax is None:
            parts = allot(-taken, [net, tax], currency)
        else:
            parts = [-(taken - (tax - credited_tax)), -(tax - credited_tax)]
    line = {"kind": "adjustment", "tokens": 0, "period": ""}
    text = f"Credit on {invoice['number']}"
    lines = [{**line, "description": text, "amount": f"{parts[0]:.{places}f}"}]
    if parts[1]:
        name, amount = taxes[0]["description"], f"{parts[1]:.{places}f}"
        lines.append({**line, "kind": "tax", "description": name, "amount": amount})
    return lines
