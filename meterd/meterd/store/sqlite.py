"""The Store on SQLite: a writer's thread, readers beside it, one directory.

DATA/ledger.db  ledger.db-wal     the database, WAL, synchronous=FULL
DATA/lock                         held by the daemon that uses the directory
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from meterd.config.agency import Agency
from meterd.errors import CannotStart, StorageFault
from meterd.pricing.book import PriceBook
from meterd.store import backup, jobs, queries, records, refold, status, verify
from meterd.store.books import Books
from meterd.store.claim import Claim
from meterd.store.readers import Readers
from meterd.store.sums import Rates
from meterd.store.values import RollupQuery
from meterd.store.writer import ROWS_MAX, Writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from meterd.clock import Clock
    from meterd.ids import LeaseId, LedgerId, ProducerId
    from meterd.ids import Sequence as SequenceNumber
    from meterd.store.batch import UnreadBatch
    from meterd.store.engine import Engine
    from meterd.store.values import (
        Accepted,
        Committed,
        ConfigVersion,
        Grant,
        Heartbeat,
        Lease,
        LedgerRecord,
        PeriodBounds,
        PeriodIndex,
        Producer,
        RecordsQuery,
        RollupRow,
        StatusFigures,
        Uncounted,
        UnpricedModel,
        VerifyStep,
    )

DATABASE = "ledger.db"

T = TypeVar("T")


async def open_store(
    data: Path,
    clock: Clock,
    *,
    agency: Agency | None = None,
    rows_max: int = ROWS_MAX,
    factory: type[sqlite3.Connection] = sqlite3.Connection,
) -> SqliteStore:
    """Open, or make, the ledger in a directory.

    Args:
        agency: places and prices records until `use_agency` says otherwise.
        rows_max: records that one transaction may have.
        factory: of the connection that writes; tests have one whose disk fails to order.

    Raises:
        CannotStart: the directory can't be written, another daemon uses it, or the database
            in it can't be opened. One sentence says which.
    """
    claim = await asyncio.to_thread(Claim, data)
    path = data / DATABASE
    try:
        writer = Writer(
            path,
            agency or Agency(),
            PriceBook(),
            clock,
            rows_max=rows_max,
            claim=claim.renew,
            factory=factory,
        )
    except sqlite3.Error as fault:
        claim.release()
        raise CannotStart(f"the ledger {path} can't be opened: {fault}") from fault
    except BaseException:
        claim.release()
        raise
    return SqliteStore(path, writer, claim)


class SqliteStore:
    """`meterd.store.store.Store` on SQLite."""

    def __init__(self, path: Path, writer: Writer, claim: Claim) -> None:
        self._path = path
        self._writer = writer
        self._readers = Readers(path)
        self._claim = claim
        self._rates = Rates()
        self.books = Books(writer, self._readers, self._rates)
        self._heard: dict[ProducerId, Heartbeat] = {}
        self._reports: dict[ProducerId, bytes] = {}
        self._news = threading.Lock()

    @property
    def ledger_id(self) -> LedgerId:
        """16 random bytes, made with the ledger and kept by its backups."""
        return self._writer.ledger_id

    @property
    def opening(self) -> int:
        """Rises whenever the database is opened anew: it may be another, or an older copy."""
        return self._writer.opening

    @property
    def storage_fault(self) -> str:
        """Why nothing can be committed now; empty: all is well."""
        return self._writer.storage_fault

    def subscribe(self, told: Callable[[Committed], None]) -> Callable[[], None]:
        """Have `told` called on the event loop after each transaction with records or leases."""
        return self._writer.subscribe(told)

    async def close(self) -> None:
        """Finish what the writer has begun and let go of the data directory."""
        await self._writer.close()
        await self._readers.close()
        self._claim.release()

    # ── records ──

    async def hello(self, producer: Producer, at_ms: int) -> SequenceNumber:
        """Know a producer, and say its watermark."""
        return await self._writer.run(partial(jobs.hello, producer=producer, at_ms=at_ms))

    async def watermark(self, producer: ProducerId) -> SequenceNumber:
        """Up to where the ledger has a producer's records. Only reads."""
        return await self._readers.read(partial(jobs.watermark, producer=producer))

    async def commit(self, batch: UnreadBatch) -> SequenceNumber:
        """Store the records of `batch` that are new and move the watermark; returns it."""
        return await self._writer.commit(batch)

    async def declare_lost(
        self, producer: ProducerId, first: int, last: int, reason: str, at_ms: int
    ) -> SequenceNumber:
        """Store that these sequences will never come, and step over them."""
        return await self._writer.run(
            partial(
                jobs.lose, producer=producer, first=first, last=last, reason=reason, at_ms=at_ms
            ),
            after_batches=True,
        )

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Note that a producer lives; written with the next transaction."""
        with self._news:
            is_first = not self._heard and not self._reports
            self._heard[heartbeat.producer] = heartbeat
        if is_first:
            self._writer.note(self._write_news)

    def report(self, producer: ProducerId, report: bytes) -> None:
        """Keep a producer's newest report; written with the next transaction."""
        with self._news:
            is_first = not self._heard and not self._reports
            self._reports[producer] = report
        if is_first:
            self._writer.note(self._write_news)

    def _write_news(self, engine: Engine) -> None:
        """On the writer's thread: what was heard since the last time."""
        with self._news:
            heard, self._heard = self._heard, {}
            reports, self._reports = self._reports, {}
        for heartbeat in heard.values():
            engine.producers.heard(heartbeat)
        for producer, report in reports.items():
            engine.producers.reported(producer, report)

    async def goodbye(self, producer: ProducerId, last_sequence: int, at_ms: int) -> None:
        """A producer ends in good order, or was adopted to its end."""
        await self._writer.run(
            partial(jobs.goodbye, producer=producer, last_sequence=last_sequence, at_ms=at_ms),
            after_batches=True,
        )

    async def accept_late(self, client: str, at_ms: int) -> Accepted:
        """Roll up what of a client waits because it came more than 35 days late."""
        return await self._writer.run(partial(refold.accept_late, client=client), alone=True)

    async def forget(self, client: str) -> str:
        """Replace a client's name, and its projects', by what says nothing; sums stay."""
        return await self._writer.run(partial(jobs.forget, client=client), alone=True)

    # ── figures ──

    async def rollup(self, query: RollupQuery) -> list[RollupRow]:
        """Sums by the keys asked for."""
        agency = self._writer.agency
        return await self._readers.read(
            lambda connection: queries.rollup(connection, self._rates, agency, query)
        )

    async def used_tokens(
        self, client: str, period: PeriodIndex, *, project: str = "", model: str = ""
    ) -> int:
        """Tokens that count against a quota."""
        agency = self._writer.agency
        return await self._readers.read(
            lambda connection: queries.used_tokens(
                connection, agency, client, period, project, model
            )
        )

    async def used_by(
        self, client: str, period: PeriodIndex
    ) -> dict[tuple[str, str], tuple[int, int]]:
        """(project, model) → (tokens, of which estimated)."""
        agency = self._writer.agency
        return await self._readers.read(
            lambda connection: queries.used_by(connection, agency, client, period)
        )

    async def records(self, query: RecordsQuery) -> AsyncIterator[list[LedgerRecord]]:
        """Ledger rows in order of arrival, some hundred at a time.

        Raises:
            StorageFault: at the end, after all others: some rows can't be read.
        """
        unreadable: list[str] = []
        for part in await self._readers.read(lambda connection: records.parts(connection, query)):
            try:
                page = await self._readers.read(
                    partial(records.page, rates=self._rates, query=query, part=part)
                )
            except (StorageFault, ValueError) as fault:
                unreadable.append(f"{part.first_row} to {part.end_row - 1} ({fault})")
                continue
            if page:
                yield page
        if unreadable:
            raise StorageFault(
                f"ledger rows {', '.join(unreadable)} can't be read; all others were given"
            )

    async def status(self) -> StatusFigures:
        """The store's own figures."""
        with self._news:
            heard, reports = dict(self._heard), dict(self._reports)
        return await self._readers.read(
            lambda connection: status.figures(connection, self._path, heard, reports)
        )

    async def uncounted(self) -> Uncounted:
        """How many records no rollup has, by why."""
        return await self._readers.read(status.uncounted)

    async def unpriced(self, period: PeriodIndex | None) -> list[UnpricedModel]:
        """Models without a price, by tokens."""
        agency = self._writer.agency
        return await self._readers.read(
            lambda connection: queries.unpriced(connection, agency, RollupQuery(period=period))
        )

    async def period(self, client: str, at_ms: int) -> PeriodBounds:
        """The client's period that a moment lies in."""
        agency = self._writer.agency
        return await self._readers.read(
            lambda connection: queries.period(connection, agency, client, at_ms)
        )

    async def verify(self) -> AsyncIterator[VerifyStep]:
        """Check that ledger = rollups = watermarks = leases; tells its progress."""
        async for step in verify.steps(self._readers, self._writer.agency):
            yield step

    async def backup(self, target: Path) -> None:
        """Write a consistent copy of everything to a new file, while all goes on."""
        try:
            await asyncio.to_thread(backup.write, self._path, target)
        except sqlite3.Error as fault:
            raise StorageFault(f"the backup can't be written: {fault}") from fault

    # ── configuration ──

    async def apply_config(self, toml: bytes, source: str, at_ms: int) -> ConfigVersion:
        """Keep a configuration; it is the one in force from now on."""
        return await self._writer.run(
            partial(jobs.apply_config, toml=toml, source=source, at_ms=at_ms)
        )

    async def config_in_force(self) -> ConfigVersion | None:
        """The newest configuration."""
        versions = await self.config_versions()
        return versions[-1] if versions else None

    async def config_versions(self) -> list[ConfigVersion]:
        """All of them, oldest first."""
        return await self._readers.read(jobs.config_versions)

    async def use_agency(self, agency: Agency) -> None:
        """Place and price by this configuration from the next transaction on."""
        await self._writer.use(agency)

    # ── quotas ──

    async def lend(self, lease: Lease) -> None:
        """Commit a lease."""
        await self._writer.run(partial(jobs.lend, lease=lease), hurried=True)

    async def release_lease(self, lease: LeaseId, last_sequence: int, at_ms: int) -> None:
        """A producer won't use a lease any more."""
        await self._writer.run(partial(jobs.release, lease=lease, last_sequence=last_sequence))

    async def end_leases(self, leases: Sequence[LeaseId], at_ms: int) -> None:
        """Take back what is outstanding."""
        await self._writer.run(partial(jobs.end_leases, leases=tuple(leases)))

    async def outstanding_leases(self) -> list[Lease]:
        """All that have not ended, oldest first."""
        return await self._readers.read(jobs.outstanding_leases)

    async def grant(self, grant: Grant) -> None:
        """Record tokens added by hand to a client's quota."""
        await self._writer.run(partial(jobs.grant, grant=grant))

    async def grants(self, client: str, period: PeriodIndex) -> list[Grant]:
        """What was granted to a client in a period, oldest first."""
        return await self._readers.read(partial(jobs.grants, client=client, period=period))

    async def claim_event(
        self, client: str, period: PeriodIndex, quota_version: int, event: str, at_ms: int
    ) -> bool:
        """True for the first who claims this event."""
        key = (client, period, quota_version, event, at_ms)
        return await self._writer.run(partial(jobs.claim_event, key=key))

    # ── closing ──

    async def close_period(self, client: str, period: PeriodIndex, at_ms: int) -> None:
        """What arrives for the period from now on is posted in the client's next open one."""
        await self._writer.run(partial(jobs.close_period, client=client, period=period), alone=True)

    async def closed_periods(self, client: str | None = None) -> list[tuple[str, PeriodIndex]]:
        """The periods closed so far."""
        return await self._readers.read(
            lambda connection: queries.closed_periods(connection, client)
        )
