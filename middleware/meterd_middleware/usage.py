"""The usage record: what one LLM call used: tokens by kind, model, who, when; never its text.

    readers ──TokenCounts──▶ exchange ──UsageRecord──▶ spool, on_record

Field names follow OpenTelemetry's GenAI conventions. `input_tokens` and `output_tokens` are
wholes; cached, audio and reasoning tokens are parts of them, never additions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from decimal import Decimal
from enum import IntFlag, StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from meterd_proto.v1 import usage_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = 1
"""Raised only where a new field changes a count or a price (docs/architecture.md, "Schema")."""

TOKENS_MAX = 2**53
"""A count above this is nonsense: no JSON number beyond it is exact."""

NOTHING: Mapping[str, int] = MappingProxyType({})
NO_CONTEXT: Mapping[str, str] = MappingProxyType({})


class Status(StrEnum):
    """How a call ended."""

    COMPLETE = "complete"
    """The terminal event, or the whole body, was seen."""
    ABANDONED = "abandoned"
    """The app left the stream; the provider bills it all the same."""
    CUT = "cut"
    """The connection died, before or after the headers."""
    TIMED_OUT = "timed_out"
    """The app's own time limit struck."""
    FAILED = "failed"
    """The provider refused or failed: `http_status` says how, or an error inside a 200."""
    REFUSED = "refused"
    """Refused by meterd; nothing was sent."""
    INTERRUPTED = "interrupted"
    """Sent, and the process died before the answer was settled."""


class Estimated(IntFlag):
    """Which sides of a record we counted ourselves because the provider didn't say."""

    NOTHING = 0
    INPUT = 1
    OUTPUT = 2


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of one model in one call. Whole numbers; parts never exceed their whole."""

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_long_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """What one LLM call used, finished. `on_record` gets this value; the spool stores it.

    Times are Unix nanoseconds (UTC) of the request's start. `response_id` goes to
    `on_record` alone: no ledger keeps an id of a call, except `dedupe_id`.
    """

    client: str
    project: str = ""
    provider: str = ""
    operation: str = "chat"
    request_model: str = ""
    response_model: str = ""
    status: Status = Status.COMPLETE
    http_status: int = 0
    occurred_at_unix_ns: int = 0
    duration_ms: int = 0

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_long_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0

    estimated: Estimated = Estimated.NOTHING
    price_context: Mapping[str, str] = field(default_factory=lambda: NO_CONTEXT)
    tool_calls: Mapping[str, int] = field(default_factory=lambda: NOTHING)
    provider_cost: Decimal | None = None
    account: str = ""
    server_address: str = ""
    input_bytes: int = 0
    history_bytes: int | None = None
    dedupe_id: str = ""
    note: str = ""
    attempt: int = 0
    is_continuation: bool = False
    is_stream: bool = False
    lease_id: int = 0
    response_id: str = ""

    @property
    def tokens(self) -> int:
        """Input and output together: what quotas and tables count."""
        return self.input_tokens + self.output_tokens

    @property
    def is_estimated(self) -> bool:
        """Whether any of its counts is ours and not the provider's."""
        return self.estimated is not Estimated.NOTHING

    @property
    def is_partial(self) -> bool:
        """Whether the answer ended before it was whole."""
        return self.status in _PARTIAL


class _Draft:
    """A usage record that can still be written to: the same slots, so it can become one."""

    __slots__ = tuple(one.name for one in fields(UsageRecord))


def made_record(
    client: str,
    project: str,
    provider: str,
    operation: str,
    request_model: str,
    response_model: str,
    status: Status,
    http_status: int,
    occurred_at_unix_ns: int,
    duration_ms: int,
    input_tokens: int,
    cache_read_tokens: int,
    cache_write_tokens: int,
    cache_write_long_tokens: int,
    output_tokens: int,
    reasoning_tokens: int,
    audio_input_tokens: int,
    audio_output_tokens: int,
    estimated: Estimated,
    price_context: Mapping[str, str],
    tool_calls: Mapping[str, int],
    provider_cost: Decimal | None,
    account: str,
    server_address: str,
    input_bytes: int,
    history_bytes: int | None,
    note: str,
    attempt: int,
    is_continuation: bool,
    is_stream: bool,
    lease_id: int,
    response_id: str,
) -> UsageRecord:
    """A usage record, as `UsageRecord(...)` makes it, but in a quarter of the time.

    A frozen dataclass sets each of its 35 fields through `object.__setattr__`, 4 µs a record;
    every call of the app pays for it, so here the fields are set while it is still a draft.
    """
    draft: Any = _Draft()
    draft.client = client
    draft.project = project
    draft.provider = provider
    draft.operation = operation
    draft.request_model = request_model
    draft.response_model = response_model
    draft.status = status
    draft.http_status = http_status
    draft.occurred_at_unix_ns = occurred_at_unix_ns
    draft.duration_ms = duration_ms
    draft.input_tokens = input_tokens
    draft.cache_read_tokens = cache_read_tokens
    draft.cache_write_tokens = cache_write_tokens
    draft.cache_write_long_tokens = cache_write_long_tokens
    draft.output_tokens = output_tokens
    draft.reasoning_tokens = reasoning_tokens
    draft.audio_input_tokens = audio_input_tokens
    draft.audio_output_tokens = audio_output_tokens
    draft.estimated = estimated
    draft.price_context = price_context
    draft.tool_calls = tool_calls
    draft.provider_cost = provider_cost
    draft.account = account
    draft.server_address = server_address
    draft.input_bytes = input_bytes
    draft.history_bytes = history_bytes
    draft.dedupe_id = ""
    draft.note = note
    draft.attempt = attempt
    draft.is_continuation = is_continuation
    draft.is_stream = is_stream
    draft.lease_id = lease_id
    draft.response_id = response_id
    draft.__class__ = UsageRecord
    return cast("UsageRecord", draft)


_PARTIAL = frozenset({Status.ABANDONED, Status.CUT, Status.TIMED_OUT, Status.INTERRUPTED})

_STATUS_NUMBERS: dict[Status, usage_pb2.Status.ValueType] = {
    status: usage_pb2.Status.Value(f"STATUS_{status.name}") for status in Status
}
_STATUSES = {number: status for status, number in _STATUS_NUMBERS.items()}


def to_proto(record: UsageRecord, closes: int = 0) -> usage_pb2.UsageRecord:
    """The record as it stands in a spool frame; `closes` is the open call it ends, or 0."""
    message = usage_pb2.UsageRecord(
        client=record.client,
        project=record.project,
        provider=record.provider,
        operation=record.operation,
        request_model=record.request_model,
        response_model=record.response_model,
        status=_STATUS_NUMBERS[record.status],
        http_status=record.http_status,
        occurred_at_unix_ns=record.occurred_at_unix_ns,
        duration_ms=record.duration_ms,
        input_tokens=record.input_tokens,
        cache_read_tokens=record.cache_read_tokens,
        output_tokens=record.output_tokens,
        reasoning_tokens=record.reasoning_tokens,
        server_address=record.server_address,
        input_bytes=record.input_bytes,
        is_stream=record.is_stream,
        lease_id=record.lease_id,
        closes=closes,
        schema=SCHEMA,
    )
    _fill_rare(message, record)
    return message


def _fill_rare(message: usage_pb2.UsageRecord, record: UsageRecord) -> None:
    """What few records have; set one by one, which costs nothing where it is absent."""
    if record.cache_write_tokens:
        message.cache_write_tokens = record.cache_write_tokens
        message.cache_write_long_tokens = record.cache_write_long_tokens
    if record.audio_input_tokens:
        message.audio_input_tokens = record.audio_input_tokens
    if record.audio_output_tokens:
        message.audio_output_tokens = record.audio_output_tokens
    if record.estimated:
        message.estimated = int(record.estimated)
    if record.price_context:
        context = message.price_context
        for name in PRICE_CONTEXT_FIELDS:
            setattr(context, name, record.price_context.get(name, ""))
    if record.tool_calls:
        message.tool_calls.update(record.tool_calls)
    if record.provider_cost is not None:
        message.provider_cost = str(record.provider_cost)
    if record.history_bytes is not None:
        message.history_bytes = record.history_bytes
    if record.account:
        message.account = record.account
    if record.dedupe_id:
        message.dedupe_id = record.dedupe_id
    if record.note:
        message.note = record.note
    if record.attempt:
        message.attempt = record.attempt
    if record.is_continuation:
        message.is_continuation = True


def from_proto(message: usage_pb2.UsageRecord) -> UsageRecord:
    """The value of a spool frame. `response_id` was never stored and is empty."""
    return UsageRecord(
        client=message.client,
        project=message.project,
        provider=message.provider,
        operation=message.operation,
        request_model=message.request_model,
        response_model=message.response_model,
        status=_STATUSES.get(message.status, Status.COMPLETE),
        http_status=message.http_status,
        occurred_at_unix_ns=message.occurred_at_unix_ns,
        duration_ms=message.duration_ms,
        input_tokens=message.input_tokens,
        cache_read_tokens=message.cache_read_tokens,
        cache_write_tokens=message.cache_write_tokens,
        cache_write_long_tokens=message.cache_write_long_tokens,
        output_tokens=message.output_tokens,
        reasoning_tokens=message.reasoning_tokens,
        audio_input_tokens=message.audio_input_tokens,
        audio_output_tokens=message.audio_output_tokens,
        estimated=Estimated(message.estimated),
        price_context={
            name: value
            for name in PRICE_CONTEXT_FIELDS
            if (value := getattr(message.price_context, name))
        },
        tool_calls=dict(message.tool_calls),
        provider_cost=Decimal(message.provider_cost) if message.provider_cost else None,
        account=message.account,
        server_address=message.server_address,
        input_bytes=message.input_bytes,
        history_bytes=message.history_bytes if message.HasField("history_bytes") else None,
        dedupe_id=message.dedupe_id,
        note=message.note,
        attempt=message.attempt,
        is_continuation=message.is_continuation,
        is_stream=message.is_stream,
        lease_id=message.lease_id,
    )


PRICE_CONTEXT_FIELDS = ("service_tier", "speed", "processing", "inference_geo")
"""What a response may state beside tokens that decides the price."""
