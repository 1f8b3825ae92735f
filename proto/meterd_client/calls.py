"""Each thing that can be asked: its method, its request, and how its answers are read.

    arguments ─ calls ─▶ One | Whole | Rows ─ client.py, aio.py ─▶ channel
                            └ read: messages ─▶ values

No I/O: the sync and the async client are thin shells over the same calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from meterd_client import reading, reading_invoices
from meterd_client.errors import InvalidArgument
from meterd_proto.v1 import admin_pb2, billing_pb2, quota_pb2, rollup_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from decimal import Decimal

    from google.protobuf.message import Message

    from meterd_client.invoices import (
        Closing,
        Document,
        Invoice,
        PriceRow,
        ProfitRow,
        RepriceRow,
    )
    from meterd_client.values import Quota, Record, Rollup, RollupRow

Answer = TypeVar("Answer")
Value = TypeVar("Value")

DIMENSIONS = {
    "client": rollup_pb2.DIMENSION_CLIENT,
    "project": rollup_pb2.DIMENSION_PROJECT,
    "model": rollup_pb2.DIMENSION_MODEL,
    "day": rollup_pb2.DIMENSION_DAY,
}
DOCUMENT_FORMATS = ("pdf", "html", "csv", "json")


@dataclass(frozen=True, slots=True)
class _Call(Generic[Answer]):
    method: str
    request: Message
    parse: Callable[[bytes], Answer]

    @property
    def path(self) -> str:
        """As gRPC names it."""
        return f"/meterd.v1.{self.method}"


@dataclass(frozen=True, slots=True)
class One(_Call[Answer], Generic[Answer, Value]):
    """One answer, one value."""

    read: Callable[[Answer], Value]


@dataclass(frozen=True, slots=True)
class Whole(_Call[Answer], Generic[Answer, Value]):
    """Many answers, one value when all are there."""

    read: Callable[[Iterable[Answer]], Value]


@dataclass(frozen=True, slots=True)
class Rows(_Call[Answer], Generic[Answer, Value]):
    """Many answers, values as they come."""

    read: Callable[[Answer], Iterable[Value]]


def rollup(
    month: str | date | None, by: str | Iterable[str], client: str | None
) -> Whole[rollup_pb2.RollupResponse, Rollup]:
    """A month's sums, whole."""
    request = _rollup_request(month, by, client)
    parse = rollup_pb2.RollupResponse.FromString
    return Whole("RollupService/Query", request, parse, reading.rollup)


def rollup_rows(
    month: str | date | None, by: str | Iterable[str], client: str | None
) -> Rows[rollup_pb2.RollupResponse, RollupRow]:
    """A month's rows as they come."""
    request = _rollup_request(month, by, client)
    parse = rollup_pb2.RollupResponse.FromString
    return Rows("RollupService/Query", request, parse, reading.rollup_rows)


def _rollup_request(
    month: str | date | None, by: str | Iterable[str], client: str | None
) -> rollup_pb2.RollupRequest:
    names = by.split(",") if isinstance(by, str) else list(by)
    unknown = [name for name in names if name not in DIMENSIONS]
    if unknown:
        raise InvalidArgument(
            f"by is {', '.join(unknown)!r}, expected client, project, model or day"
        )
    return rollup_pb2.RollupRequest(
        period=period(month), by=[DIMENSIONS[name] for name in names], client=client or ""
    )


def quotas(client: str | None) -> One[quota_pb2.QuotaStatusResponse, tuple[Quota, ...]]:
    """What may still be used."""
    request = quota_pb2.QuotaStatusRequest(client=client or "")
    parse = quota_pb2.QuotaStatusResponse.FromString
    return One("QuotaService/Status", request, parse, reading.quotas)


def records(
    client: str, first: date, last: date | None, project: str | None
) -> Rows[admin_pb2.RecordRow, Record]:
    """The ledger's rows of some days."""
    request = admin_pb2.RecordsRequest(
        client=client,
        project=project or "",
        from_day=_day(first),
        to_day=_day(first if last is None else last),
    )
    return Rows("AdminService/Records", request, admin_pb2.RecordRow.FromString, reading.records)


def invoice(
    client: str | None, month: str | date | None, number: str | None
) -> One[billing_pb2.Invoice, Invoice]:
    """A draft, or what was made final."""
    _check_named(client, number)
    request = billing_pb2.InvoiceRequest(
        client=client or "", period=period(month), number=number or ""
    )
    parse = billing_pb2.Invoice.FromString
    return One("BillingService/GetInvoice", request, parse, reading_invoices.invoice)


def invoices(month: str | date | None, client: str | None) -> Rows[billing_pb2.Invoice, Invoice]:
    """What was made final, in the order of the chain."""
    request = billing_pb2.ListInvoicesRequest(period=period(month), client=client or "")
    parse = billing_pb2.Invoice.FromString
    return Rows("BillingService/ListInvoices", request, parse, reading_invoices.invoices)


def document(
    client: str | None, month: str | date | None, number: str | None, form: str
) -> Whole[billing_pb2.DocumentChunk, Document]:
    """An invoice as a file."""
    _check_named(client, number)
    if form not in DOCUMENT_FORMATS:
        raise InvalidArgument(f"format is {form!r}, expected pdf, html, csv or json")
    request = billing_pb2.DocumentRequest(
        client=client or "", period=period(month), number=number or "", format=form
    )
    parse = billing_pb2.DocumentChunk.FromString
    return Whole("BillingService/Document", request, parse, reading_invoices.document)


def close(
    month: str | date, dry_run: bool, without: Iterable[str], allow_unpriced: bool
) -> Whole[billing_pb2.CloseProgress, Closing]:
    """All invoices of a month, or none."""
    name = period(month)
    request = billing_pb2.CloseRequest(
        period=name,
        dry_run=dry_run,
        without=[without] if isinstance(without, str) else without,
        allow_unpriced=allow_unpriced,
    )
    read = partial(reading_invoices.closing, name, dry_run)
    return Whole("BillingService/Close", request, billing_pb2.CloseProgress.FromString, read)


def void(number: str, why: str, who: str) -> One[billing_pb2.Invoice, Invoice]:
    """Declare an invoice void."""
    request = billing_pb2.VoidRequest(number=number, why=why, who=who)
    parse = billing_pb2.Invoice.FromString
    return One("BillingService/Void", request, parse, reading_invoices.invoice)


def credit(
    number: str, amount: Decimal | None, why: str, who: str
) -> One[billing_pb2.Invoice, Invoice]:
    """Take an invoice back, whole or in part."""
    if isinstance(amount, float):
        raise InvalidArgument("an amount is a Decimal, never a float: it has to be exact")
    shown = "" if amount is None else f"{amount:f}"
    request = billing_pb2.CreditRequest(number=number, amount=shown, why=why, who=who)
    parse = billing_pb2.Invoice.FromString
    return One("BillingService/Credit", request, parse, reading_invoices.invoice)


def profit(
    month: str | date | None, client: str | None, by: str, what_if_input: str | None
) -> Rows[billing_pb2.ProfitRow, ProfitRow]:
    """Who makes and who loses money."""
    request = billing_pb2.ProfitRequest(
        period=period(month), client=client or "", by=by, what_if_input=what_if_input or ""
    )
    parse = billing_pb2.ProfitRow.FromString
    return Rows("BillingService/Profit", request, parse, reading_invoices.profits)


def reprice(
    dry_run: bool, client: str | None, every: bool, why: str, who: str
) -> Rows[billing_pb2.RepriceRow, RepriceRow]:
    """Price what had no price."""
    request = billing_pb2.RepriceRequest(
        dry_run=dry_run, client=client or "", all=every, why=why, who=who
    )
    parse = billing_pb2.RepriceRow.FromString
    return Rows("BillingService/Reprice", request, parse, reading_invoices.reprices)


def prices(month: str | date | None, model: str | None) -> Rows[billing_pb2.PriceRow, PriceRow]:
    """What usage was priced by."""
    request = billing_pb2.PricesRequest(period=period(month), model=model or "")
    parse = billing_pb2.PriceRow.FromString
    return Rows("BillingService/Prices", request, parse, reading_invoices.prices)


def verify_ledger(
    month: str | date | None,
) -> Whole[admin_pb2.VerifyProgress, tuple[str, ...]]:
    """That ledger, rollups and watermarks agree."""
    request = admin_pb2.VerifyRequest(period=period(month))
    parse = admin_pb2.VerifyProgress.FromString
    return Whole("AdminService/Verify", request, parse, reading_invoices.differences)


def verify_invoices(
    month: str | date | None,
) -> Whole[billing_pb2.VerifyInvoicesProgress, tuple[str, ...]]:
    """That the chain is whole and each invoice what the ledger says."""
    request = billing_pb2.VerifyInvoicesRequest(period=period(month))
    parse = billing_pb2.VerifyInvoicesProgress.FromString
    return Whole("BillingService/VerifyInvoices", request, parse, reading_invoices.differences)


def period(month: str | date | None) -> str:
    """The name of a month: `"2026-11"`, any day of it, or None for the running one."""
    if month is None:
        return ""
    return f"{month.year:04d}-{month.month:02d}" if isinstance(month, date) else month


def _day(day: date) -> str:
    return date(day.year, day.month, day.day).isoformat()


def _check_named(client: str | None, number: str | None) -> None:
    if bool(client) == bool(number):
        raise InvalidArgument("name a client, or the number of an invoice")
