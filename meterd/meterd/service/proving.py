"""Proving the books: the chain of documents, and every closed invoice computed once more.

    documents ─▶ numbers without gaps, each hash over the one before
    ledger rows as they counted then + the configuration of then ─▶ the invoice ─▶ = the stored

A closed invoice rests on ledger rows alone here: rollups, which the invoice was made from, are
proved against the same rows by the store.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from meterd.billing.account import invoice_of
from meterd.billing.chain import Link, broken_links
from meterd.billing.sheet import Particulars, sheet
from meterd.billing.statement import Statement
from meterd.ids import OTHER
from meterd.service.drafting import Gathered, billed_by_client
from meterd.store.book_values import LedgerCut
from meterd_proto.v1 import billing_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from meterd.service.drafting import Drafting
    from meterd.store.book_values import Closing, StoredDocument
    from meterd.store.books import Books
    from meterd.store.values import PeriodIndex

DIFFERENCES_MAX = 100
_COMPARED = (
    "lines", "subtotal", "total", "requests", "tokens", "estimated_tokens", "unpriced_requests",
    "plan", "first_day", "last_day", "exchange_rate",
)  # fmt: skip


class Proving:
    """Goes through the books."""

    def __init__(self, books: Books, drafting: Drafting) -> None:
        self._books = books
        self._drafting = drafting

    async def steps(
        self, wanted: PeriodIndex | None
    ) -> AsyncIterator[billing_pb2.VerifyInvoicesProgress]:
        """Progress by documents, with what differs; the last step is done."""
        total = await self._books.document_count()
        differences, made = await self._chain()
        yield _progress(0, total, differences)
        checked = 0
        for closing in await self._books.closings():
            mine = made.get(closing.id, {})
            checked += len(mine)
            if wanted in (None, closing.period):
                found = await self._closing(closing, mine)
                yield _progress(checked, total, found)
        yield _progress(total, total, [], is_done=True)

    async def _chain(self) -> tuple[list[str], dict[int, dict[str, StoredDocument]]]:
        """What is wrong with the chain, and the invoices of each closing by client."""
        links: list[Link] = []
        series: dict[str, int] = {}
        differences: list[str] = []
        made: dict[int, dict[str, StoredDocument]] = {}
        after = 0
        while page := await self._books.chain(after):
            after = page[-1].id
            for one in page:
                links.append(Link(one.number, one.canonical, one.previous_hash, one.hash))
                differences += _numbered(one, series)
                if one.closing:
                    made.setdefault(one.closing, {})[one.client] = one
        return [*broken_links(links), *differences][:DIFFERENCES_MAX], made

    async def _closing(self, closing: Closing, made: Mapping[str, StoredDocument]) -> list[str]:
        """What differs between a closing's invoices and the ledger."""
        gathered = await self._gathered(closing)
        own, late = await self._from_ledger(closing, gathered)
        gathered = replace(gathered, own=own)
        late_of = gathered.late_periods()
        differences: list[str] = []
        for client in sorted(own):
            account = gathered.account(
                client,
                [late[i][client] for i in late_of.get(client, ()) if client in late[i]],
            )
            invoice = invoice_of(account)
            stored = made.get(client)
            is_billed = invoice.is_billed and any(line.amount for line in invoice.lines)
            if stored is None:
                if is_billed:
                    differences.append(
                        f"{client}, {own[client].period.name}: no invoice, but the ledger makes "
                        f"one of {invoice.total} {invoice.currency}"
                    )
                continue
            shown = sheet(invoice, Particulars(number=stored.number), gathered.agency)
            differences += _compared(stored, dict(shown))
        return differences[:DIFFERENCES_MAX]

    async def _gathered(self, closing: Closing) -> Gathered:
        """What the closing knew beside the usage."""
        agency = await self._drafting.agency_of(closing.config_version)
        closed_by = await self._books.closed_by()
        clients = [
            client
            for (client, period), number in closed_by.items()
            if number == closing.id and period == closing.period
        ]
        bounds = await self._books.bounds(closing.period)
        grants = await self._books.granted(closing.period)
        empty = {
            name: Statement(name, bounds[name], granted_tokens=grants.get(name, 0))
            for name in clients
        }
        posted = await self._books.posted(closing.period)
        closed_under = await self._drafting.closed_under(None)
        billed = await self._books.billed(before_document=closing.last_document + 1)
        return Gathered(
            agency=agency,
            period=closing.period,
            own=empty,
            posted={index: who for index, who in posted.items() if index < closing.period},
            billed=billed_by_client(billed, agency.currency),
            tokens=await self._books.tokens_by_period(closing.period),
            closed_under={
                key: value for key, value in closed_under.items() if closed_by[key] < closing.id
            },
        )

    async def _from_ledger(
        self, closing: Closing, gathered: Gathered
    ) -> tuple[dict[str, Statement], dict[PeriodIndex, dict[str, Statement]]]:
        """The clients' own usage, and that of the closed periods that grew."""
        cut = LedgerCut(
            end_row=closing.end_row,
            last_reprice=closing.last_reprice,
            last_accepted=closing.last_accepted,
        )
        bounds = {name: one.period for name, one in gathered.own.items()}
        counted = await self._books.ledger_statements(cut, bounds)
        own = {
            name: replace(counted[name], granted_tokens=empty.granted_tokens)
            if name in counted
            else empty
            for name, empty in gathered.own.items()
        }
        late: dict[PeriodIndex, dict[str, Statement]] = {}
        late_of = gathered.late_periods()
        for index in sorted({i for periods in late_of.values() for i in periods}):
            opened = await self._books.bounds(index)
            grants = await self._books.granted(index)
            mine = {name: opened[name] for name, periods in late_of.items() if index in periods}
            found = await self._books.ledger_statements(cut, mine)
            late[index] = {
                name: replace(one, granted_tokens=grants.get(name, 0))
                for name, one in found.items()
            }
        return own, late


def _numbered(one: StoredDocument, series: dict[str, int]) -> Iterator[str]:
    """Numbers of a series follow one another without a gap; a void has none of its own."""
    if one.kind == "void":
        return
    name, count = one.number[:-6], one.number[-6:]
    expected = series.get(name, 0) + 1
    if not count.isdigit() or int(count) != expected:
        yield f"{one.number} follows number {expected - 1} of {name}"
    series[name] = int(count) if count.isdigit() else expected


def _compared(stored: StoredDocument, computed: Mapping[str, Any]) -> Iterator[str]:
    """Each field of a stored invoice that the ledger doesn't make."""
    kept = json.loads(stored.canonical)
    for name in _COMPARED:
        if json.loads(json.dumps(computed[name])) != kept[name]:
            yield (
                f"{stored.number} of {stored.client}, {kept['period']}: {name} is "
                f"{_short(kept[name])}, the ledger makes it {_short(computed[name])}"
            )
    pooled = any(project["project"] == OTHER for project in kept["projects"])
    if not pooled and list(computed["projects"]) != kept["projects"]:
        yield f"{stored.number} of {stored.client}, {kept['period']}: projects differ"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _progress(
    checked: int, total: int, differences: list[str], *, is_done: bool = False
) -> billing_pb2.VerifyInvoicesProgress:
    return billing_pb2.VerifyInvoicesProgress(
        checked=checked, total=total, differences=differences, is_done=is_done
    )
