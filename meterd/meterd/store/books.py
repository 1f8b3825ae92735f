"""The books: invoices and all that they rest on, asked of the store.

Reads go to readers, each one short transaction; what is written goes to the one writer. The
documents' texts are made by billing/ and service/; here they are kept, in the order of their
chain, and nothing of them is ever changed.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from meterd.store import (
    closing,
    documents,
    input_sizes,
    price_books,
    repricing,
    statements,
)
from meterd.store.input_sizes import Measuring
from meterd.store.ledger_statements import LedgerStatements
from meterd.store.repricing import Repricing

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from decimal import Decimal

    from meterd.billing.period import Period
    from meterd.billing.statement import Statement
    from meterd.config.agency import Agency
    from meterd.pricing.edition import Edition
    from meterd.pricing.rate_card import Rate
    from meterd.store.book_values import (
        Basis,
        BilledLine,
        ClosedClient,
        Closing,
        LastSeen,
        LedgerCut,
        NewDocument,
        OutboxEntry,
        Series,
        StoredDocument,
    )
    from meterd.store.input_sizes import InputSizes
    from meterd.store.readers import Readers
    from meterd.store.repricing import PriceDifference, UsedRate
    from meterd.store.sums import Rates
    from meterd.store.values import PeriodIndex
    from meterd.store.writer import Writer


class Books:
    """The books of one ledger."""

    def __init__(self, writer: Writer, readers: Readers, rates: Rates) -> None:
        self._writer = writer
        self._readers = readers
        self._rates = rates

    # ── what bills rest on ──

    async def basis(self) -> Basis:
        """Where ledger and books stand now."""
        return await self._readers.read(documents.basis)

    async def statements(
        self,
        agency: Agency,
        period: PeriodIndex,
        posted_through: PeriodIndex,
        client: str | None = None,
    ) -> dict[str, Statement]:
        """By client: a period's usage, as far as a bill of `posted_through` knows it."""
        users = await self._readers.read(
            partial(statements.users, period=period, posted_through=posted_through, client=client)
        )
        found: dict[str, Statement] = {}
        # In parts, so that no read holds the write-ahead log back.
        for first in range(0, len(users), statements.PART_CLIENTS):
            part = users[first : first + statements.PART_CLIENTS]
            found |= await self._readers.read(
                partial(
                    statements.statements,
                    rates=self._rates,
                    agency=agency,
                    period=period,
                    posted_through=posted_through,
                    clients=part,
                )
            )
        return found

    async def empty_statements(
        self, agency: Agency, period: PeriodIndex, clients: list[str]
    ) -> dict[str, Statement]:
        """The statements of clients that used nothing."""
        return await self._readers.read(
            lambda connection: statements.empties(connection, agency, period, clients)
        )

    async def posted(self, posted_in: PeriodIndex) -> dict[PeriodIndex, frozenset[str]]:
        """By period of use: the clients that a period bills usage of."""
        return await self._readers.read(partial(statements.posted, posted_in=posted_in))

    async def open_before(self, period: PeriodIndex, clients: Collection[str]) -> list[PeriodIndex]:
        """Earlier periods that bill usage of some of the clients and that nobody has closed."""
        return await self._readers.read(
            partial(statements.open_before, period=period, clients=clients)
        )

    async def tokens_by_period(
        self, posted_through: PeriodIndex, client: str | None = None
    ) -> dict[str, dict[PeriodIndex, int]]:
        """By client: the tokens of each period, as far as a bill of a period knows them."""
        return await self._readers.read(
            partial(statements.tokens_by_period, posted_through=posted_through, client=client)
        )

    async def rates_used(
        self, period: PeriodIndex, posted_through: PeriodIndex
    ) -> dict[str, tuple[int, ...]]:
        """By client: the rates that priced a period's usage, sorted."""
        return await self._readers.read(
            partial(statements.rates_used, period=period, posted_through=posted_through)
        )

    async def books_of_rates(self) -> dict[int, str]:
        """By rate: the version of the price book it was read from."""
        return await self._readers.read(statements.books_of_rates)

    async def ledger_statements(
        self, cut: LedgerCut, bounds: Mapping[str, Period]
    ) -> dict[str, Statement]:
        """By client: usage within its bounds, added up from the ledger's rows as they counted.

        Grants are as they are now; names of projects are as they were sent.
        """
        spans = {(period.start_unix_ns // 1_000_000, period.end_unix_ns // 1_000_000)
                 for period in bounds.values()}  # fmt: skip
        found: dict[str, Statement] = {}
        for start_ms, end_ms in sorted(spans):
            mine = {
                client: period
                for client, period in bounds.items()
                if period.start_unix_ns // 1_000_000 == start_ms
                and period.end_unix_ns // 1_000_000 == end_ms
            }
            adding = LedgerStatements(self._rates, cut, start_ms, end_ms)
            for first, end in await self._readers.read(adding.pages):
                await self._readers.read(partial(adding.add, first=first, end=end))
            found |= await self._readers.read(partial(adding.statements, bounds=mine))
        return found

    async def input_sizes(
        self, clients: Collection[str], bounds: Period
    ) -> dict[tuple[str, str], InputSizes]:
        """By client and project (the empty one: all of it): how large requests were."""
        measuring = Measuring(
            clients, bounds.start_unix_ns // 1_000_000, bounds.end_unix_ns // 1_000_000
        )
        for first, end in await self._readers.read(measuring.pages):
            await self._readers.read(partial(measuring.add, first=first, end=end))
        return measuring.sizes()

    async def input_costs(self, period: PeriodIndex) -> dict[str, Decimal]:
        """By client: what its input alone cost in a period, US dollars, exact."""
        return await self._readers.read(
            partial(input_sizes.input_costs, rates=self._rates, period=period)
        )

    async def bounds(self, period: PeriodIndex) -> dict[str, Period]:
        """By client: the bounds of a period, of those that opened it."""
        return await self._readers.read(partial(statements.bounds, period=period))

    async def granted(self, period: PeriodIndex) -> dict[str, int]:
        """By client: the tokens granted by hand in a period."""
        return await self._readers.read(partial(statements.granted, period=period))

    async def first_row(self, start_ms: int) -> int:
        """The first ledger row that can lie at a moment or after it; 0: there is none."""
        return await self._readers.read(partial(statements.first_row, start_ms=start_ms))

    async def billed(
        self, client: str | None = None, before_document: int = 1 << 62
    ) -> list[BilledLine]:
        """What invoices say so far, added up."""
        return await self._readers.read(
            partial(documents.billed, client=client, before_document=before_document)
        )

    async def last_seen(self) -> dict[bytes, LastSeen]:
        """How far each producer's records in the ledger reach, by its id."""
        return await self._readers.read(documents.last_seen)

    # ── prices ──

    async def rows_span(self) -> tuple[int, int]:
        """The rows that the ledger has, `[first, end)`."""
        return await self._readers.read(repricing.span)

    def repricing(self, agency: Agency, client: str | None, is_all: bool) -> Repricing:
        """A look for rows that the prices in force price otherwise; `look_again` goes on."""
        return Repricing(agency, self._rates, client, is_all)

    async def look_again(self, looking: Repricing, first: int) -> None:
        """Look at the next page of rows."""
        end = first + repricing.PAGE_ROWS
        await self._readers.read(partial(looking.look, first=first, end=end))

    async def begin_reprice(self, who: str, why: str) -> int:
        """A reprice is recorded; its number."""
        return await self._writer.run(partial(repricing.begin, who=who, why=why))

    async def take_prices(self, number: int, rows: Sequence[int]) -> int:
        """Let some rows take the prices in force; how many did."""
        return await self._writer.run(
            partial(repricing.take, number=number, rows=rows), after_batches=True
        )

    async def price_editions(self) -> list[Edition]:
        """The editions of the price book in force, oldest first."""
        return await self._readers.read(price_books.editions)

    async def price_differences(self, now_ms: int) -> list[PriceDifference]:
        """What the installed book says otherwise than the one in force, of the models used."""
        return await self._readers.read(partial(repricing.differences, now_ms=now_ms))

    async def update_prices(self) -> bool:
        """Put the installed book in force from now on; False: it is already."""
        return await self._writer.run(price_books.update, alone=True)

    async def used_rates(self, period: PeriodIndex) -> list[UsedRate]:
        """The models used in a period, with the rates that priced them."""
        return await self._readers.read(partial(repricing.used_rates, period=period))

    async def rate(self, number: int) -> Rate:
        """A rate of the ledger by its number."""
        return await self._readers.read(
            lambda connection: repricing.rate(connection, self._rates, number)
        )

    # ── documents ──

    async def series(self, name: str) -> int:
        """The last number given out in a series; 0: none was."""
        return await self._readers.read(partial(documents.series, name=name))

    async def documents(
        self, period: PeriodIndex | None = None, client: str | None = None
    ) -> list[StoredDocument]:
        """Documents of a period and client, in the order of the chain; a None asks for all."""
        return await self._readers.read(partial(documents.of_period, period=period, client=client))

    async def document(self, number: str) -> StoredDocument | None:
        """The invoice or credit note with a number."""
        return await self._readers.read(partial(documents.numbered, number=number))

    async def chain(self, after: int) -> list[StoredDocument]:
        """The next documents of the chain after an id; empty at its end."""
        return await self._readers.read(partial(documents.chain, after=after))

    async def document_count(self) -> int:
        """How many documents the chain has."""
        return await self._readers.read(documents.count)

    async def append(self, document: NewDocument, after: int, moved: Series | None) -> None:
        """Put one document at the end of the chain, behind the one with the id `after`.

        Raises:
            BooksMoved: the chain has grown meanwhile.
            NotPossibleNow: it voids what is void already.
        """
        await self._writer.run(
            lambda engine: documents.append(engine, document, after, moved), alone=True
        )

    async def file(self, document: int, form: str) -> bytes | None:
        """A document as it was drawn before, or None."""
        return await self._readers.read(partial(documents.file, document=document, form=form))

    async def keep_file(self, document: int, form: str, content: bytes) -> None:
        """Keep a document as it was drawn; the first stays."""
        await self._writer.run(
            partial(documents.keep_file, document=document, form=form, content=content)
        )

    # ── closing ──

    async def closings(self) -> list[Closing]:
        """Every committed closing, in order."""
        return await self._readers.read(documents.closings_made)

    async def closed_by(self, client: str | None = None) -> dict[tuple[str, PeriodIndex], int]:
        """(client, period) → the closing that closed it."""
        return await self._readers.read(partial(documents.closed_by, client=client))

    async def begin_closing(self, period: PeriodIndex, basis: Basis, config_version: int) -> int:
        """Throw away what an unfinished closing left, and begin one; its number."""
        while await self._writer.run(closing.discard_staged):
            pass
        return await self._writer.run(
            lambda engine: closing.begin(engine, period, basis, config_version)
        )

    async def stage(
        self,
        number: int,
        first_id: int,
        new: Sequence[NewDocument],
        clients: Sequence[ClosedClient],
    ) -> None:
        """Write some of a closing's documents, the first with this id, and whom it closes."""
        await self._writer.run(lambda engine: closing.stage(engine, number, first_id, new, clients))

    async def commit_closing(
        self, number: int, basis: Basis, end_ms: int, series: Sequence[Series]
    ) -> None:
        """Make a closing hold, all of it, if nothing that it rests on has moved.

        Raises:
            BooksMoved: something has; nothing was closed.
        """
        await self._writer.run(
            lambda engine: closing.commit(engine, number, basis, end_ms, series), alone=True
        )

    # ── accounting programs ──

    async def outbox(self, target: str | None = None, state: str = "waiting") -> list[OutboxEntry]:
        """What accounting programs have to be told, in the order of the chain."""
        return await self._readers.read(partial(documents.outbox, target=target, state=state))

    async def answered(self, key: str, state: str, remote_id: str = "", note: str = "") -> None:
        """Keep what an accounting program said; a step that is done stays done."""
        await self._writer.run(
            partial(documents.answered, key=key, state=state, remote_id=remote_id, note=note)
        )
