"""What the store is asked and what it answers: frozen values, known to every engine alike."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, NewType

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from meterd.ids import LeaseId, ProducerId, Sequence
    from meterd.store.batch import Kind, Rare

PeriodIndex = NewType("PeriodIndex", int)
"""A client's period: 12 × year + month − 1 of the month it begins in (`billing.period`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Producer:
    """One process that writes records; people see and type `service@host`."""

    id: ProducerId
    service: str = ""
    host: str = ""
    pid: int = 0
    version: str = ""
    schema: int = 1
    is_adopted: bool = False
    next_sequence: int = 1
    """One beyond the newest it ever appended, as far as its Hello knew."""

    @property
    def name(self) -> str:
        """What people see."""
        return f"{self.service}@{self.host}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What a producer says of itself between batches."""

    producer: ProducerId
    received_at_ms: int
    skew_ms: int
    highest_appended: int
    open_calls: int = 0
    oldest_open_at_ms: int = 0


class UsageKey(NamedTuple):
    """Where tokens count for quotas: in the period of the lease, else of the record."""

    client: str
    project: str
    model: str
    period: PeriodIndex


@dataclass(frozen=True, slots=True)
class Committed:
    """One transaction of the writer, told to all who subscribed once it is durable."""

    first_row: int
    """Its ledger rows are `[first_row, end_row)`; `Store.records` reads them."""
    end_row: int
    at_ms: int
    leases: Mapping[LeaseId, int]
    """Tokens that its records settled, by lease."""
    ended_leases: tuple[LeaseId, ...]
    """Leases whose rest returned: released, and the ledger has their last record."""
    producers: tuple[ProducerId, ...]
    client_tokens: Mapping[tuple[str, PeriodIndex], int]
    """Tokens by client and period, as `usage` has them in detail."""
    _usage: Mapping[UsageKey, int]

    def usage(self) -> Mapping[UsageKey, int]:
        """Tokens by client and period; by project and model too where a quota asks for that.

        Elsewhere both are empty: at full speed a transaction has tens of thousands of
        projects and models, and a quota on a client needs none of them.
        """
        detailed = {(key.client, key.period) for key in self._usage}
        return {
            **self._usage,
            **{
                UsageKey(client, "", "", period): tokens
                for (client, period), tokens in self.client_tokens.items()
                if (client, period) not in detailed
            },
        }


class Grouping(StrEnum):
    """What the rows of a rollup are by."""

    CLIENT = "client"
    PROJECT = "project"
    MODEL = "model"
    DAY = "day"


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupQuery:
    """A month's rollup: of each client the period that begins in it."""

    period: PeriodIndex | None
    """None: every period."""
    by: tuple[Grouping, ...] = (Grouping.CLIENT,)
    """Empty: the total alone."""
    client: str | None = None
    posted_in: PeriodIndex | None = None
    """Only what that period bills, of whatever period it was used in."""


class Sums(NamedTuple):
    """Added-up usage. `tokens` = input + output; parts are parts of those.

    A tuple, since a month by client makes a thousand of them: a fifth of a dataclass's time.
    """

    requests: int = 0
    failed_requests: int = 0
    refused_requests: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_long_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    estimated_tokens: int = 0
    unpriced_requests: int = 0
    unpriced_tokens: int = 0

    @property
    def tokens(self) -> int:
        """What quotas and tables count."""
        return self.input_tokens + self.output_tokens


class RollupRow(NamedTuple):
    """Sums under the keys that the query asked for; the others are empty."""

    sums: Sums
    cost: Decimal
    """US dollars: the exact, unrounded sum of what is priced."""
    client: str = ""
    project: str = ""
    model: str = ""
    day: str = ""
    """2026-11-25, in the billing time zone."""
    posted_in: PeriodIndex = PeriodIndex(0)
    rate: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsQuery:
    """Ledger rows: of a client and days, or `[first_row, end_row)`; a None asks for all."""

    client: str | None = None
    project: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    """Half-open, by `billed_at`."""
    first_row: int = 1
    end_row: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRecord:
    """One ledger row as it was received, with what it cost."""

    row: int
    producer: ProducerId
    producer_name: str
    sequence: Sequence
    billed_at_ms: int
    client: str
    project: str
    kind: Kind
    duration_ms: int
    input_tokens: int
    cache_read_tokens: int
    output_tokens: int
    reasoning_tokens: int
    input_bytes: int
    rare: Rare
    is_late: bool
    is_duplicate: bool
    """Its `dedupe_id` was counted before: kept, counted nowhere."""
    rate: int
    """0: unpriced."""
    cost: Decimal | None
    """US dollars, exact; None: unpriced."""
    priced_by: str
    """What the price rests on: provider, model, start, bracket, context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Tokens of a client's period lent to one producer; outstanding until it has ended."""

    id: LeaseId
    producer: ProducerId
    client: str
    project: str
    model: str
    period: PeriodIndex
    tokens: int
    lent_at_ms: int
    expires_at_ms: int
    used_tokens: int = 0
    last_sequence: int | None = None
    """Set by its release: the last record that names it; 0: none did."""
    ended_at_ms: int | None = None

    @property
    def outstanding_tokens(self) -> int:
        """What of it is neither in the ledger nor returned."""
        return 0 if self.ended_at_ms is not None else max(0, self.tokens - self.used_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Tokens added by hand to a client's quota of one period."""

    client: str
    period: PeriodIndex
    tokens: int
    why: str
    who: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigVersion:
    """One applied `meterd.toml`, byte for byte."""

    version: int
    toml: bytes
    source: str
    applied_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerStatus:
    """What is known of one producer."""

    producer: Producer
    watermark: int
    highest_appended: int
    last_seen_ms: int
    skew_ms: int
    open_calls: int
    oldest_open_at_ms: int
    is_finished: bool
    """It said goodbye, or was adopted to its end, and the ledger has all of it."""
    report: bytes
    """Its newest `meterd.v1.Report`, serialised; empty: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRow:
    """Sequences that a producer no longer had."""

    producer: ProducerId
    producer_name: str
    first_sequence: int
    last_sequence: int
    reason: str
    declared_at_ms: int

    @property
    def records(self) -> int:
        """How many."""
        return self.last_sequence - self.first_sequence + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineRow:
    """A record kept as bytes because it could not be read or believed."""

    producer: ProducerId
    producer_name: str
    sequence: int
    reason: str
    schema: int
    payload: bytes
    received_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LateClient:
    """Records of a client that wait for `meterctl accept --late`."""

    client: str
    records: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpricedModel:
    """A model whose usage has no price."""

    provider: str
    model: str
    requests: int
    tokens: int


class Uncounted(NamedTuple):
    """Records that no rollup has."""

    late_records: int
    """More than 35 days old: waiting for `meterctl accept --late`."""
    quarantined_records: int
    lost_records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusFigures:
    """What `meterctl status` shows of the store."""

    records: int
    database_bytes: int
    quarantined_records: int
    lost_records: int
    late_records: int
    producers: tuple[ProducerStatus, ...] = ()
    losses: tuple[LossRow, ...] = ()
    """The newest 100."""
    quarantine: tuple[QuarantineRow, ...] = ()
    """The newest 100."""
    late: tuple[LateClient, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyStep:
    """How far `verify` has come, and what it has found."""

    checked: int
    total: int
    differences: tuple[str, ...] = ()
    is_done: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """What `accept_late` moved into the rollups."""

    records: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodBounds:
    """A client's period as it was opened: bounds never move afterwards, whatever tzdata says."""

    client: str
    period: PeriodIndex
    start_ms: int
    end_ms: int
