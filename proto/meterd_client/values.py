"""What the daemon counted, as frozen values: usage, rollups, quotas, records.

Token counts follow OpenTelemetry's GenAI conventions: `input_tokens` and `output_tokens` are
wholes, the others parts of them; `tokens` is their sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date, datetime
    from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and their cost; `cost` is exact and unrounded, of what has a price."""

    requests: int
    failed_requests: int
    refused_requests: int
    tokens: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cache_write_long_tokens: int
    output_tokens: int
    reasoning_tokens: int
    audio_input_tokens: int
    audio_output_tokens: int
    cost: Decimal
    estimated_tokens: int
    unpriced_requests: int


@dataclass(frozen=True, slots=True)
class RollupRow:
    """A row; of its keys those are filled that were asked for with `by`."""

    client: str
    project: str
    model: str
    day: date | None
    """In the billing time zone."""
    usage: Usage


@dataclass(frozen=True, slots=True)
class Rollup:
    """Who used what in [start, end), greatest cost first; by day in order of days."""

    period: str
    start: datetime
    end: datetime
    timezone: str
    currency: str
    rows: tuple[RollupRow, ...]
    total: Usage
    late_records: int
    """More than 35 days late: not counted before `meterctl accept --late`."""
    quarantined_records: int
    lost_records: int


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that a part of a quota is lent to."""

    producer: str
    """service@host"""
    pid: int
    tokens: int
    until: datetime


@dataclass(frozen=True, slots=True)
class Quota:
    """What may be used in [start, end), by a client or a part of what it does."""

    client: str
    scope: str
    """agency, client, project or model"""
    project: str
    model: str
    plan: str
    period: str
    start: datetime
    end: datetime
    timezone: str
    mode: str
    """none, soft or hard"""
    limit: int | None
    """None: nothing limits it."""
    cap: int | None
    """Where a soft limit ends; None: nowhere."""
    used: int
    leased: int
    remaining: int
    estimated_tokens: int
    holders: tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """A row of the ledger: what one call used, and its charge."""

    ledger_row: int
    producer: str
    sequence: int
    billed_at: datetime
    occurred_at: datetime
    client: str
    project: str
    provider: str
    operation: str
    request_model: str
    response_model: str
    status: str
    """complete, abandoned, cut, timed_out, failed, refused or interrupted"""
    http_status: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cache_write_long_tokens: int
    output_tokens: int
    reasoning_tokens: int
    audio_input_tokens: int
    audio_output_tokens: int
    is_input_estimated: bool
    is_output_estimated: bool
    cost: Decimal | None
    """Exact; None: it has no price."""
    currency: str
    rate: str
    """What the price rests on."""
    provider_cost: Decimal | None
    """What the provider itself stated, in US dollars: a cross-check."""
    tool_calls: Mapping[str, int]
    duration_ms: int
    is_stream: bool
    attempt: int
    account: str
    note: str
