"""Closing a period: all of its invoices, or none.

    drafts ─▶ obstacles? ─▶ numbers, hashes ─▶ staged, some at a time ─▶ one commit
       ▲                                                                   │
       └────────────────── something moved meanwhile ◀─────────────────────┘

Everything is computed beside the writer, which is held for milliseconds at a time. A closing
that is killed leaves nothing that counts; the next begins anew. One that was done is done:
asked again it shows the same invoices, and closes only clients that came later. Whom meterd.toml
doesn't list is named and left open: once listed, closing the month again bills it.
"""

from __future__ import annotations

import asyncio
import shlex
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from meterd.billing import obstacles
from meterd.billing.chain import FIRST, canonical_json, hash_of, number_of
from meterd.billing.contract import period_for_index
from meterd.billing.conversion import lacks_rate
from meterd.billing.documents.pdf import letters_without_glyph
from meterd.billing.period import index_of
from meterd.clock import moment_of, unix_ns_of
from meterd.errors import NotPossibleNow, Unavailable
from meterd.ids import OTHER, UNATTRIBUTED
from meterd.money import CURRENCIES
from meterd.service.invoice_message import draft_message, final_message
from meterd.service.months import month_asked
from meterd.store.book_values import ClosedClient, DocumentLine, NewDocument, Series
from meterd.store.closing import BooksMoved
from meterd.store.values import PeriodIndex
from meterd_proto.v1 import billing_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence

    from meterd.billing.sheet import Json
    from meterd.billing.statement import Invoice
    from meterd.clock import Clock
    from meterd.config.in_force import InForce
    from meterd.ids import ProducerId
    from meterd.service.drafting import Drafting, Drafts
    from meterd.store.store import Store

ATTEMPTS_MAX = 5
STAGED_AT_ONCE = 50
"""Documents written in one transaction: about 5 ms."""
MESSAGE_INVOICES_MAX = 100
DEFAULT_SERIES = "INV-"


class _Drawn(NamedTuple):
    """A client's invoice and its sheet; not yet numbered."""

    client: str
    invoice: Invoice
    sheet: Mapping[str, Json]
    is_billed: bool


class Closing:
    """Closes periods, one at a time."""

    def __init__(
        self,
        store: Store,
        in_force: InForce,
        clock: Clock,
        drafting: Drafting,
        connected: Callable[[], Collection[ProducerId]],
    ) -> None:
        self._store = store
        self._books = store.books
        self._in_force = in_force
        self._clock = clock
        self._drafting = drafting
        self._connected = connected

    async def close(
        self, request: billing_pb2.CloseRequest
    ) -> AsyncIterator[billing_pb2.CloseProgress]:
        """Progress, then what came out: obstacles, drafts on a dry run, or the invoices."""
        agency = self._in_force.agency
        period = month_asked(agency, request.period, self._clock.now())
        name = period_for_index(agency, "", period).name
        yield billing_pb2.CloseProgress(period=name)
        for _ in range(ATTEMPTS_MAX):
            drafts = await self._drafting.drafts(period)
            closed = await self._books.closed_by()
            todo = [
                client
                for client in drafts.accounts
                if client in drafts.agency.clients and (client, period) not in closed
            ]
            remarks = await self._remarks(drafts, todo, closed)
            if not todo:
                async for progress in self._closed(period, drafts, remarks):
                    yield progress
                return
            found = await self._obstacles(drafts, todo, request)
            if found or request.dry_run:
                async for progress in self._looked(drafts, todo, found, remarks, request.dry_run):
                    yield progress
                return
            try:
                async for progress in self._close(drafts, todo, remarks):
                    yield progress
            except BooksMoved:
                continue
            async for progress in self._closed(period, drafts):
                yield progress
            return
        raise Unavailable(
            f"usage of {name} keeps arriving, or prices change; try again in a minute"
        )

    async def _close(
        self, drafts: Drafts, todo: list[str], remarks: list[str]
    ) -> AsyncIterator[billing_pb2.CloseProgress]:
        """Number, stage and commit.

        Raises:
            BooksMoved: something that the drafts rest on has changed.
        """
        series = drafts.agency.invoice_series or DEFAULT_SERIES
        last = await self._books.series(series)
        issued_at = moment_of(self._clock.unix_ns()).replace(microsecond=0)
        closing = await self._books.begin_closing(
            drafts.period, drafts.basis, drafts.config_version
        )
        previous, count = drafts.basis.last_hash or FIRST, 0
        for first in range(0, len(todo), STAGED_AT_ONCE):
            part = todo[first : first + STAGED_AT_ONCE]
            numbered = last + count
            new, previous = await asyncio.to_thread(
                _documents, drafts, part, series, numbered, issued_at, previous
            )
            clients = [_closed_client(drafts, name) for name in part]
            first_id = drafts.basis.last_document + 1 + count
            await self._books.stage(closing, first_id, new, clients)
            count += len(new)
            yield billing_pb2.CloseProgress(
                done=first + len(part), total=len(todo), remarks=remarks if not first else ()
            )
        end_ms = max(_ends_ms(drafts, todo))
        await self._books.commit_closing(
            closing, drafts.basis, end_ms, [Series(name=series, before=last, after=last + count)]
        )

    async def _closed(
        self, period: PeriodIndex, drafts: Drafts, remarks: Sequence[str] = ()
    ) -> AsyncIterator[billing_pb2.CloseProgress]:
        """The invoices of a closed period."""
        found = await self._books.documents(period)
        invoices = [final_message(one) for one in found if one.kind == "invoice"]
        if not drafts.agency.clients and not found:
            used = _strangers(drafts, drafts.accounts)
            raise NotPossibleNow(
                "there is nothing to close: meterd.toml lists no client"
                + (f"; these used something: {used}" if used else "")
            )
        total = len(drafts.accounts)
        for first in range(0, len(invoices), MESSAGE_INVOICES_MAX):
            part = invoices[first : first + MESSAGE_INVOICES_MAX]
            yield billing_pb2.CloseProgress(done=total, total=total, invoices=part)
        yield billing_pb2.CloseProgress(
            done=total, total=total, remarks=remarks, is_done=True, is_closed=True
        )

    async def _looked(
        self,
        drafts: Drafts,
        todo: list[str],
        found: list[str],
        remarks: list[str],
        is_dry_run: bool,
    ) -> AsyncIterator[billing_pb2.CloseProgress]:
        """What stands in the way, and on a dry run what would be billed."""
        total = len(todo)
        for first in range(0, total if is_dry_run else 0, STAGED_AT_ONCE):
            part = todo[first : first + STAGED_AT_ONCE]
            drawn = await asyncio.to_thread(_drawn, drafts, part)
            yield billing_pb2.CloseProgress(
                done=first + len(part),
                total=total,
                invoices=[draft_message(one.sheet) for one in drawn if one.is_billed],
            )
        yield billing_pb2.CloseProgress(
            done=total, total=total, obstacles=found, remarks=remarks, is_done=True
        )

    # ── what stands in the way ──

    async def _obstacles(
        self, drafts: Drafts, todo: list[str], request: billing_pb2.CloseRequest
    ) -> list[str]:
        agency, period = drafts.agency, drafts.period
        statements = [drafts.accounts[name].statement for name in todo]
        close_after = timedelta(hours=agency.close_after_hours)
        found = list(obstacles.of_time(agency, statements, self._clock.now(), close_after))
        found += await self._earlier(drafts)
        producers = await self._producers()
        end_ms = max(_ends_ms(drafts, todo))
        found += obstacles.of_producers(
            agency, producers, end_ms, set(request.without), _name(drafts, period)
        )
        if not request.allow_unpriced and any(one.unpriced_requests for one in statements):
            models = await self._store.unpriced(period)
            found += obstacles.of_prices(
                (f"{one.model} of {one.provider}", one.requests) for one in models
            )
        if lacks_rate(agency):
            found.append(
                f"nothing says what a US dollar is in {agency.currency}: record it under "
                "[[exchange_rates]] in meterd.toml"
            )
        return found

    async def _earlier(self, drafts: Drafts) -> list[str]:
        """Periods are closed in order: what one carries, or leaves unused, the next one takes."""
        names = set(await self._books.open_before(drafts.period, drafts.agency.clients.keys()))
        closed = {period for _, period in await self._books.closed_by()}
        if closed and max(closed) + 1 < drafts.period:
            names |= {PeriodIndex(i) for i in range(max(closed) + 1, drafts.period)}
        return [
            f"{_name(drafts, index)} has to be closed first: `meterctl close "
            f"{_name(drafts, index)}`"
            for index in sorted(names)
        ]

    async def _producers(self) -> list[obstacles.Waited]:
        figures = await self._store.status()
        seen = await self._books.last_seen()
        connected = self._connected()
        return [
            obstacles.Waited(
                name=one.producer.name,
                records_behind=one.highest_appended - one.watermark,
                newest_ms=seen[one.producer.id].newest_ms if one.producer.id in seen else 0,
                open_calls=one.open_calls,
                oldest_open_at_ms=one.oldest_open_at_ms,
                is_finished=one.is_finished,
                is_connected=one.producer.id in connected,
            )
            for one in figures.producers
        ]

    async def _remarks(
        self,
        drafts: Drafts,
        todo: list[str],
        closed: Mapping[tuple[str, PeriodIndex], int],
    ) -> list[str]:
        """What holds nothing up, but an owner should know before invoices go out."""
        figures = await self._store.status()
        remarks = []
        for late in figures.late:
            remarks.append(
                f"{late.records:,} records of {late.client} came more than 35 days late and are "
                f"not counted: `meterctl accept --late {shlex.quote(late.client)}`"
            )
        if figures.quarantined_records:
            remarks.append(f"{figures.quarantined_records:,} records in quarantine are not counted")
        left = [name for name in drafts.accounts if (name, drafts.period) not in closed]
        strangers = _strangers(drafts, left)
        if strangers:
            remarks.append(
                f"billed to nobody, for meterd.toml has no plan for them: {strangers}; give them "
                "one and close again, and they have their invoice"
            )
        missing = _undrawable(drafts, todo)
        if missing:
            remarks.append(f"no PDF can be drawn for {missing}: no shipped font has its letters")
        return remarks


def _documents(
    drafts: Drafts,
    clients: Sequence[str],
    series: str,
    last: int,
    issued_at: object,
    previous: str,
) -> tuple[list[NewDocument], str]:
    """The documents of some clients, numbered after `last`, chained to `previous`."""
    new: list[NewDocument] = []
    for one in _drawn(drafts, clients):
        if not one.is_billed:
            continue
        number = number_of(series, last + len(new) + 1)
        sheet = drafts.sheet(one.client, one.invoice, number=number, issued_at=issued_at)
        document = new_document(one.invoice, sheet, previous, targets_of(drafts, one.client))
        new.append(document)
        previous = document.hash
    return new, previous


def _drawn(drafts: Drafts, clients: Iterable[str]) -> list[_Drawn]:
    drawn = []
    for client in clients:
        invoice = drafts.invoice(client)
        # Who owes nothing and used nothing gets no paper.
        is_billed = invoice.is_billed and any(line.amount for line in invoice.lines)
        drawn.append(_Drawn(client, invoice, drafts.sheet(client, invoice), is_billed))
    return drawn


def new_document(
    invoice: Invoice, sheet: Mapping[str, Json], previous: str, targets: tuple[str, ...]
) -> NewDocument:
    """An invoice's sheet as the chain's next document."""
    own = PeriodIndex(invoice.statement.period.index)
    canonical = canonical_json(sheet)
    places = CURRENCIES[invoice.currency]
    return NewDocument(
        client=invoice.statement.client,
        period=own,
        kind="invoice",
        number=str(sheet["number"]),
        canonical=canonical,
        previous_hash=previous,
        hash=hash_of(previous, canonical),
        total=int(invoice.total.scaleb(places)),
        issued_at_ms=_issued_ms(sheet),
        lines=tuple(
            DocumentLine(
                PeriodIndex(index_of(line.period)) if line.period else own,
                line.kind.value,
                line.description,
                int(line.amount.scaleb(places)),
            )
            for line in invoice.lines
        ),
        targets=targets,
    )


def targets_of(drafts: Drafts, client: str) -> tuple[str, ...]:
    """The accounting programs in which the client has an id."""
    listed = drafts.agency.clients.get(client)
    return tuple(sorted(listed.remote_ids)) if listed else ()


def _issued_ms(sheet: Mapping[str, Json]) -> int:
    from datetime import datetime

    return unix_ns_of(datetime.fromisoformat(str(sheet["issued_at"]))) // 1_000_000


def _closed_client(drafts: Drafts, client: str) -> ClosedClient:
    period = drafts.accounts[client].statement.period
    return ClosedClient(
        client=client,
        period=drafts.period,
        start_ms=period.start_unix_ns // 1_000_000,
        end_ms=period.end_unix_ns // 1_000_000,
    )


def _ends_ms(drafts: Drafts, clients: Iterable[str]) -> list[int]:
    return [drafts.accounts[name].statement.period.end_unix_ns // 1_000_000 for name in clients]


def _name(drafts: Drafts, index: PeriodIndex) -> str:
    return period_for_index(drafts.agency, "", index).name


def _strangers(drafts: Drafts, clients: Iterable[str]) -> str:
    """Unlisted clients that used something, by tokens."""
    used = [
        (statement.tokens, name)
        for name in clients
        if name not in drafts.agency.clients
        for statement in [drafts.accounts[name].statement]
        if statement.tokens or statement.cost > Decimal(0)
    ]
    used.sort(key=lambda one: (one[1] in (OTHER, UNATTRIBUTED), -one[0], one[1]))
    named = [f"{name} ({tokens:,} tokens)" for tokens, name in used[: obstacles.CLIENTS_NAMED]]
    more = len(used) - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def _undrawable(drafts: Drafts, clients: Iterable[str]) -> str:
    found = []
    for name in clients:
        listed = drafts.agency.clients.get(name)
        if listed and letters_without_glyph({"": f"{listed.title}{listed.address}"}):
            found.append(name)
    return ", ".join(found[: obstacles.CLIENTS_NAMED])
