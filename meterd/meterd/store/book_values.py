"""What the books are asked and what they answer: frozen values, known to every engine alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meterd.store.values import PeriodIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """Where ledger and books stood when something was computed from them."""

    end_row: int
    """Ledger rows below it were in."""
    changes: int
    """Reprices, late records accepted, grants, configurations, names changed so far."""
    last_reprice: int
    last_accepted: int
    last_document: int
    """The chain's newest document; 0: it has none."""
    last_hash: str
    """That document's; empty: it has none."""


@dataclass(frozen=True, slots=True)
class DocumentLine:
    """A line as the books add it up; `amount` in whole minor units."""

    period: PeriodIndex
    """An adjustment's own period, else the document's."""
    kind: str
    description: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDocument:
    """A document to be put at the end of the chain."""

    client: str
    period: PeriodIndex
    kind: str
    """invoice, credit_note or void."""
    number: str
    canonical: str
    previous_hash: str
    hash: str
    total: int
    issued_at_ms: int
    lines: tuple[DocumentLine, ...] = ()
    targets: tuple[str, ...] = ()
    """Accounting programs that have to be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDocument:
    """A document as it is stored; nothing of it ever changes."""

    id: int
    client: str
    """The name that the client has now; its sheet has the one it had then."""
    period: PeriodIndex
    kind: str
    number: str
    canonical: str
    previous_hash: str
    hash: str
    issued_at_ms: int
    closing: int
    """The closing that made it; 0: it was made by itself."""
    is_void: bool
    credited: int
    """What credit notes took back of it so far, in minor units."""
    credited_tax: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedClient:
    """A client's period that a closing closed, and the bounds it had."""

    client: str
    period: PeriodIndex
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """A committed closing and what it rests on."""

    id: int
    period: PeriodIndex
    config_version: int
    end_row: int
    last_reprice: int
    last_accepted: int
    last_document: int
    """The chain's newest document before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerCut:
    """What of the ledger counted at some moment, so that it can be added up again as it was."""

    end_row: int
    last_reprice: int
    last_accepted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A counter of document numbers, moved from one value to another in one transaction."""

    name: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class BilledLine:
    """Lines of a client's invoices added up by period and kind, credits by description too."""

    client: str
    period: PeriodIndex
    kind: str
    description: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """What an accounting program has to be told."""

    number: str
    client: str
    target: str
    step: str
    key: str
    canonical: str
    request_hash: str
    state: str
    remote_id: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LastSeen:
    """How far a producer's records in the ledger reach."""

    name: str
    newest_ms: int
    """The latest `billed_at` of its records; 0: the ledger has none."""
