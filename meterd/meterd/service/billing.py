"""BillingService: invoices drafted, closed, drawn, voided, credited and proved."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from meterd.billing.chain import FIRST, canonical_json, hash_of, number_of
from meterd.billing.credit_note import credit_note
from meterd.billing.documents.page import html_of
from meterd.billing.documents.rows import csv_of
from meterd.clock import moment_of
from meterd.errors import InvalidRequest, NotFound, NotPossibleNow
from meterd.money import CURRENCIES, minor_unit
from meterd.service.closing import DEFAULT_SERIES, Closing
from meterd.service.drafting import Drafting
from meterd.service.invoice_message import draft_message, final_message, status_of
from meterd.service.months import month_asked
from meterd.service.profits import Profits
from meterd.service.proving import Proving
from meterd.service.repricing import Prices, check_reprice
from meterd.service.status import answers, streams
from meterd.store.book_values import DocumentLine, NewDocument, Series
from meterd_proto.v1 import billing_pb2, billing_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping
    from pathlib import Path

    from meterd.clock import Clock
    from meterd.config.in_force import InForce
    from meterd.ids import ProducerId
    from meterd.store.book_values import StoredDocument
    from meterd.store.store import Store
    from meterd.store.values import PeriodIndex

CHUNK_BYTES = 256 << 10
FORMATS = ("pdf", "html", "csv", "json")
TEXT_CHARACTERS_MAX = 500


class BillingServicer(billing_pb2_grpc.BillingServiceServicer):
    """Thin over drafting and closing: checks what was asked, and says what was answered."""

    def __init__(
        self,
        store: Store,
        in_force: InForce,
        clock: Clock,
        letters: Path,
        connected: Callable[[], Collection[ProducerId]] = frozenset,
    ) -> None:
        self._store = store
        self._books = store.books
        self._in_force = in_force
        self._clock = clock
        self._drafting = Drafting(store, in_force)
        self._closing = Closing(store, in_force, clock, self._drafting, connected)
        self._proving = Proving(self._books, self._drafting)
        self._profits = Profits(store, in_force, clock, self._drafting, letters)
        self._prices = Prices(self._books, in_force, clock)
        # The chain has one end: who puts something there does it alone.
        self._one_at_a_time = asyncio.Lock()

    # ── invoices ──

    @answers
    async def GetInvoice(
        self, request: billing_pb2.InvoiceRequest, context: object
    ) -> billing_pb2.Invoice:
        """The invoice of a closed period; of an open one the draft, as it is now."""
        if request.number:
            return final_message(await self._numbered(request.number))
        found, sheet = await self._invoice(request.client, request.period)
        return final_message(found) if found else draft_message(sheet)

    @streams
    async def ListInvoices(
        self, request: billing_pb2.ListInvoicesRequest, context: object
    ) -> AsyncIterator[billing_pb2.Invoice]:
        """Stored invoices and credit notes, in the order of the chain."""
        period = self._month(request.period) if request.period else None
        for document in await self._books.documents(period, request.client or None):
            if document.kind != "void":
                yield final_message(document)

    @streams
    async def Document(
        self, request: billing_pb2.DocumentRequest, context: object
    ) -> AsyncIterator[billing_pb2.DocumentChunk]:
        """The invoice as a file, in pieces; the first names it."""
        if request.format not in FORMATS:
            raise InvalidRequest(f"{request.format!r} is no format; pdf, html, csv or json")
        found: StoredDocument | None
        if request.number:
            found = await self._numbered(request.number)
            sheet = json.loads(found.canonical)
        else:
            found, sheet = await self._invoice(request.client, request.period)
        content = await self._content(found, sheet, request.format)
        name = sheet["number"] or f"draft-{sheet['client']}-{sheet['period']}"
        for first in range(0, max(1, len(content)), CHUNK_BYTES):
            yield billing_pb2.DocumentChunk(
                data=content[first : first + CHUNK_BYTES],
                file_name=f"{name}.{request.format}" if not first else "",
            )

    async def _invoice(
        self, client: str, period: str
    ) -> tuple[StoredDocument | None, dict[str, Any]]:
        """A stored invoice with its sheet, or the sheet of a draft."""
        agency = self._in_force.agency
        if not client:
            raise InvalidRequest("name the client whose invoice you want")
        index = self._month(period, client)
        stored = [one for one in await self._books.documents(index, client)
                  if one.kind == "invoice"]  # fmt: skip
        if stored:
            found = stored[-1]
            return found, json.loads(found.canonical)
        if (client, index) in await self._books.closed_by(client):
            raise NotFound(f"{client} was not billed for {period}: nothing was owed")
        drafts = await self._drafting.drafts(index, client)
        account = drafts.accounts[client]
        if client not in agency.clients and not account.statement.requests:
            raise NotFound(f"meterd knows no client {client!r}: neither listed nor in the ledger")
        invoice = drafts.invoice(client)
        return None, dict(drafts.sheet(client, invoice))

    def _month(self, name: str, client: str = "") -> PeriodIndex:
        return month_asked(self._in_force.agency, name, self._clock.now(), client)

    async def _numbered(self, number: str) -> StoredDocument:
        found = await self._books.document(number)
        if found is None:
            raise NotFound(f"no invoice or credit note has the number {number!r}")
        return found

    async def _content(
        self, found: StoredDocument | None, sheet: Mapping[str, Any], form: str
    ) -> bytes:
        if form == "json":
            return _json(found, sheet)
        if form == "csv":
            return csv_of(sheet).encode()
        shown = "" if found is None else found.hash
        if form == "html":
            return html_of(sheet, shown).encode()
        if found is not None and (kept := await self._books.file(found.id, form)) is not None:
            return kept
        from meterd.billing.documents.pdf import pdf_of  # typst takes 20 ms to import

        content = await asyncio.to_thread(pdf_of, sheet, shown)
        if found is not None:
            await self._books.keep_file(found.id, form, content)
        return content

    # ── closing ──

    @streams
    async def Close(
        self, request: billing_pb2.CloseRequest, context: object
    ) -> AsyncIterator[billing_pb2.CloseProgress]:
        """All invoices of a period, or none."""
        if not request.period:
            raise InvalidRequest("name the month to close, as 2026-11")
        async with self._one_at_a_time:
            async for progress in self._closing.close(request):
                yield progress

    @answers
    async def Void(self, request: billing_pb2.VoidRequest, context: object) -> billing_pb2.Invoice:
        """Declare an invoice void; it stays, with its number, and is not billed again."""
        _check_reason(request.why, request.who)
        async with self._one_at_a_time:
            found = await self._numbered(request.number)
            if found.is_void:
                raise NotPossibleNow(f"{found.number} is void already")
            if found.credited:
                raise NotPossibleNow(f"{found.number} was credited; credit the rest of it instead")
            canonical = canonical_json(
                {
                    "schema": "meterd.void/1",
                    "voids": found.number,
                    "why": request.why.strip(),
                    "who": request.who,
                    "at": self._now().isoformat(),
                }
            )
            await self._append(found, "void", found.number, canonical, (), 0, None)
            return final_message(await self._numbered(request.number))

    @answers
    async def Credit(
        self, request: billing_pb2.CreditRequest, context: object
    ) -> billing_pb2.Invoice:
        """Take an invoice back, whole or in part, by a document of its own."""
        _check_reason(request.why, request.who)
        async with self._one_at_a_time:
            found = await self._numbered(request.number)
            if found.is_void or found.kind != "invoice":
                raise NotPossibleNow(
                    f"{found.number} is void"
                    if found.is_void
                    else f"{found.number} is a credit note"
                )
            return await self._credit(found, _amount(request.amount), request.why.strip())

    @streams
    async def VerifyInvoices(
        self, request: billing_pb2.VerifyInvoicesRequest, context: object
    ) -> AsyncIterator[billing_pb2.VerifyInvoicesProgress]:
        """The chain of numbers and hashes, and each closed invoice recomputed from the ledger."""
        month = self._month(request.period) if request.period else None
        async for step in self._proving.steps(month):
            yield step

    @streams
    async def Profit(
        self, request: billing_pb2.ProfitRequest, context: object
    ) -> AsyncIterator[billing_pb2.ProfitRow]:
        """Revenue, cost and margin by client, who loses money, and what to do about it."""
        if request.by not in ("", "client", "project"):
            raise InvalidRequest(f"profit is by client or project, not by {request.by!r}")
        async for row in self._profits.rows(request):
            yield row

    # ── prices ──

    @streams
    async def Reprice(
        self, request: billing_pb2.RepriceRequest, context: object
    ) -> AsyncIterator[billing_pb2.RepriceRow]:
        """What the prices in force change; done and recorded unless it is a dry run."""
        check_reprice(request)
        async with self._one_at_a_time:
            async for row in self._prices.reprice(request):
                yield row

    @streams
    async def Prices(
        self, request: billing_pb2.PricesRequest, context: object
    ) -> AsyncIterator[billing_pb2.PriceRow]:
        """The prices that a period's usage was priced by."""
        async for row in self._prices.used(request):
            yield row

    @streams
    async def UpdatePrices(
        self, request: billing_pb2.UpdatePricesRequest, context: object
    ) -> AsyncIterator[billing_pb2.PriceRow]:
        """Put the installed price book in force from now on; says what it changes."""
        async with self._one_at_a_time:
            async for row in self._prices.update(is_dry_run=request.dry_run):
                yield row

    async def _credit(
        self, found: StoredDocument, amount: Decimal | None, why: str
    ) -> billing_pb2.Invoice:
        invoice = json.loads(found.canonical)
        series = f"{self._in_force.agency.invoice_series or DEFAULT_SERIES}CN-"
        last = await self._books.series(series)
        unit, places = minor_unit(invoice["currency"]), CURRENCIES[invoice["currency"]]
        number = number_of(series, last + 1)
        sheet = credit_note(
            invoice,
            amount,
            found.credited * unit,
            found.credited_tax * unit,
            number=number,
            issued_at=self._now(),
            why=why,
        )
        lines = tuple(
            DocumentLine(
                found.period,
                line["kind"],
                line["description"],
                int(Decimal(line["amount"]).scaleb(places)),
            )
            for line in _lines(sheet)
        )
        total = int(Decimal(str(sheet["total"])).scaleb(places))
        moved = Series(name=series, before=last, after=last + 1)
        await self._append(found, "credit_note", number, canonical_json(sheet), lines, total, moved)
        return final_message(await self._numbered(number))

    async def _append(
        self,
        about: StoredDocument,
        kind: str,
        number: str,
        canonical: str,
        lines: tuple[DocumentLine, ...],
        total: int,
        moved: Series | None,
    ) -> None:
        """Put a document about another one at the end of the chain."""
        basis = await self._books.basis()
        previous = basis.last_hash or FIRST
        targets = self._in_force.agency.clients.get(about.client)
        await self._books.append(
            NewDocument(
                client=about.client,
                period=about.period,
                kind=kind,
                number=number,
                canonical=canonical,
                previous_hash=previous,
                hash=hash_of(previous, canonical),
                total=total,
                issued_at_ms=self._clock.unix_ns() // 1_000_000,
                lines=lines,
                targets=tuple(sorted(targets.remote_ids)) if targets else (),
            ),
            basis.last_document,
            moved,
        )

    def _now(self) -> datetime:
        """To the second: what a document says, and its hash covers, is what people read."""
        return moment_of(self._clock.unix_ns()).replace(microsecond=0).astimezone(UTC)


def _json(found: StoredDocument | None, sheet: Mapping[str, Any]) -> bytes:
    shown = {"status": "draft", **sheet}
    if found is not None:
        shown = {
            "status": status_of(found, sheet),
            **sheet,
            "hash": found.hash,
            "previous_hash": found.previous_hash,
        }
    return (json.dumps(shown, ensure_ascii=False, indent=2) + "\n").encode()


def _lines(sheet: Mapping[str, Any]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = sheet["lines"]
    return lines


def _amount(text: str) -> Decimal | None:
    if not text:
        return None
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite():
        raise InvalidRequest(f"{text!r} is no amount; write it as 12.50")
    return amount


def _check_reason(why: str, who: str) -> None:
    if not why.strip():
        raise InvalidRequest('say why, as in --why "agreed with Ann"; it stands in the books')
    if max(len(why), len(who)) > TEXT_CHARACTERS_MAX:
        raise InvalidRequest(f"who and why have at most {TEXT_CHARACTERS_MAX} characters")
