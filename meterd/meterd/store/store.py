"""What the daemon asks of a database: the Store, one implementation per engine.

    service/usage ─ commit ─▶ ┐
    service/quota ─ lend ───▶ ├─ the one writer ─▶ ledger + rollups + watermark + leases
    service/admin ─ apply ──▶ ┘
    everyone ─ rollup, records, status … ─▶ readers of their own

Each method is one transaction. When it returns, its effect survives a power cut; when it
raises `Refused`, nothing of it happened; `Unavailable` means unknown, and asking again is
safe: by the watermark for records, by the id for leases. A caller who leaves does not undo
what the writer has begun. `tests/store/test_contract.py` runs the same tests on every engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from meterd.config.agency import Agency
    from meterd.ids import LeaseId, LedgerId, ProducerId
    from meterd.ids import Sequence as SequenceNumber
    from meterd.store.batch import UnreadBatch
    from meterd.store.books import Books
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
        RollupQuery,
        RollupRow,
        StatusFigures,
        Uncounted,
        UnpricedModel,
        VerifyStep,
    )


class Store(Protocol):
    """The ledger and all that rests on it."""

    @property
    def ledger_id(self) -> LedgerId:
        """16 random bytes, made with the ledger and kept by its backups."""
        ...

    @property
    def opening(self) -> int:
        """Rises whenever the database is opened anew: it may be another, or an older copy."""
        ...

    @property
    def storage_fault(self) -> str:
        """Why nothing can be committed now, one sentence; empty: all is well."""
        ...

    @property
    def books(self) -> Books:
        """Invoices and all that they rest on."""
        ...

    def subscribe(self, told: Callable[[Committed], None]) -> Callable[[], None]:
        """Have `told` called on the event loop after each transaction with records or leases.

        It must not raise or block. Returns what ends the subscription.
        """
        ...

    async def close(self) -> None:
        """Finish what the writer has begun and let go of the data directory."""
        ...

    # ── records ──

    async def hello(self, producer: Producer, at_ms: int) -> SequenceNumber:
        """Know a producer, and say its watermark: 0 where the ledger has none of it."""
        ...

    async def watermark(self, producer: ProducerId) -> SequenceNumber:
        """Up to where the ledger has a producer's records; 0 where it has none. Only reads."""
        ...

    async def commit(self, batch: UnreadBatch) -> SequenceNumber:
        """Store the records of `batch` that are new and move the watermark; returns it.

        Sequences at or below the watermark are skipped, so a resent batch changes nothing
        and gets the same answer. Batches that wait at the same time share a transaction.

        Raises:
            BatchBroken: the batch can't be read.
            SequenceGap: it begins beyond watermark + 1, undeclared.
            StorageFault: disk full or failing; nothing was acknowledged.
        """
        ...

    async def declare_lost(
        self, producer: ProducerId, first: int, last: int, reason: str, at_ms: int
    ) -> SequenceNumber:
        """Store that these sequences will never come, and step over them; returns the watermark.

        What the ledger already has is not lost: the range is cut to what is beyond the
        watermark.

        Raises:
            SequenceGap: `first` is beyond watermark + 1.
        """
        ...

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Note that a producer lives; no transaction: it rides on the next one, seconds later."""
        ...

    def report(self, producer: ProducerId, report: bytes) -> None:
        """Keep a producer's newest `Report`; rides on the next transaction like a heartbeat."""
        ...

    async def goodbye(self, producer: ProducerId, last_sequence: int, at_ms: int) -> None:
        """A producer ends in good order, or was adopted to its end: its leases return."""
        ...

    async def accept_late(self, client: str, at_ms: int) -> Accepted:
        """Roll up what of a client waits because it came more than 35 days late."""
        ...

    async def forget(self, client: str) -> str:
        """Replace a client's name, and its projects', by what says nothing; sums stay.

        Returns:
            The name it now has.

        Raises:
            NotFound: the ledger knows no such client.
        """
        ...

    # ── figures, read on connections of their own; never wait for the writer ──

    async def rollup(self, query: RollupQuery) -> list[RollupRow]:
        """Sums by the keys asked for; greatest cost first, by day in order of days."""
        ...

    async def used_tokens(
        self, client: str, period: PeriodIndex, *, project: str = "", model: str = ""
    ) -> int:
        """Tokens that count against a quota; an empty client, project or model: all of them.

        Tokens settled from a lease count in the lease's period, others in their record's.
        """
        ...

    async def used_by(
        self, client: str, period: PeriodIndex
    ) -> dict[tuple[str, str], tuple[int, int]]:
        """(project, model) → (tokens, of which estimated) of one client and period."""
        ...

    def records(self, query: RecordsQuery) -> AsyncIterator[list[LedgerRecord]]:
        """Ledger rows in order of arrival, some hundred at a time."""
        ...

    async def status(self) -> StatusFigures:
        """The store's own figures."""
        ...

    async def uncounted(self) -> Uncounted:
        """How many records no rollup has, by why; `status` has more, and takes longer."""
        ...

    async def unpriced(self, period: PeriodIndex | None) -> list[UnpricedModel]:
        """Models without a price, by tokens; of all periods where none is given."""
        ...

    async def period(self, client: str, at_ms: int) -> PeriodBounds:
        """The client's period that a moment lies in: as stored if it was opened, else computed."""
        ...

    def verify(self) -> AsyncIterator[VerifyStep]:
        """Check that ledger = rollups = watermarks = leases; tells its progress."""
        ...

    async def backup(self, target: Path) -> None:
        """Write a consistent copy of everything to a new file, while all goes on."""
        ...

    # ── configuration ──

    async def apply_config(self, toml: bytes, source: str, at_ms: int) -> ConfigVersion:
        """Keep a configuration; it is the one in force from now on."""
        ...

    async def config_in_force(self) -> ConfigVersion | None:
        """The newest configuration; None: none was ever applied."""
        ...

    async def config_versions(self) -> list[ConfigVersion]:
        """All of them, oldest first."""
        ...

    async def use_agency(self, agency: Agency) -> None:
        """Place and price by this configuration from the next transaction on.

        Called once after opening, and after each `apply_config`. Time zone, anchors, listed
        ids and price overrides are what the ledger needs of it.

        While no period is closed a change of time zone, anchors or prices reaches back: the
        rollups are rebuilt from the ledger, and this returns when they are.

        Raises:
            NotPossibleNow: a period is closed, and the time zone or an anchor would change.
        """
        ...

    # ── quotas ──

    async def lend(self, lease: Lease) -> None:
        """Commit a lease; only when this has returned may it be sent. The same id again: no-op."""
        ...

    async def release_lease(self, lease: LeaseId, last_sequence: int, at_ms: int) -> None:
        """A producer won't use a lease any more; its rest returns once the ledger has that record.

        An unknown or ended lease: no-op.
        """
        ...

    async def end_leases(self, leases: Sequence[LeaseId], at_ms: int) -> None:
        """Take back what is outstanding, whatever the producer may still do (`lease_hold_max`)."""
        ...

    async def outstanding_leases(self) -> list[Lease]:
        """All that have not ended, oldest first."""
        ...

    async def grant(self, grant: Grant) -> None:
        """Record tokens added by hand to a client's quota."""
        ...

    async def grants(self, client: str, period: PeriodIndex) -> list[Grant]:
        """What was granted to a client in a period, oldest first."""
        ...

    async def claim_event(
        self, client: str, period: PeriodIndex, quota_version: int, event: str, at_ms: int
    ) -> bool:
        """True for the first who claims this event, so that a threshold makes one each."""
        ...

    # ── closing ──

    async def close_period(self, client: str, period: PeriodIndex, at_ms: int) -> None:
        """What arrives for the period from now on is posted in the client's next open one."""
        ...

    async def closed_periods(self, client: str | None = None) -> list[tuple[str, PeriodIndex]]:
        """The periods closed so far."""
        ...
