"""What the daemon counted, from messages to values: texts become `Decimal`, `date`, `datetime`."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, TypeVar

from meterd_client.errors import Unavailable
from meterd_client.values import Holder, Quota, Record, Rollup, RollupRow, Usage
from meterd_proto.v1 import quota_pb2, rollup_pb2, usage_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from meterd_proto.v1 import admin_pb2

Number = TypeVar("Number", bound=int)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INPUT_ESTIMATED, _OUTPUT_ESTIMATED = 1, 2


def rollup(answers: Iterable[rollup_pb2.RollupResponse]) -> Rollup:
    """A rollup whose stream has come to its end.

    Raises:
        Unavailable: it ended before the total came: what is there isn't all.
    """
    head: rollup_pb2.RollupHeader | None = None
    total: rollup_pb2.Usage | None = None
    rows: list[RollupRow] = []
    for answer in answers:
        if answer.HasField("header"):
            head = answer.header
        elif answer.HasField("total"):
            total = answer.total.usage
        rows.extend(rollup_rows(answer))
    if head is None or total is None:
        raise Unavailable("the rollup broke off before its total")
    return Rollup(
        period=head.period,
        start=datetime.fromisoformat(head.start),
        end=datetime.fromisoformat(head.end),
        timezone=head.timezone,
        currency=head.currency,
        rows=tuple(rows),
        total=usage(total),
        late_records=head.late_records,
        quarantined_records=head.quarantined_records,
        lost_records=head.lost_records,
    )


def rollup_rows(answer: rollup_pb2.RollupResponse) -> Iterator[RollupRow]:
    """The rows that came in one message."""
    for row in answer.rows.rows:
        yield RollupRow(
            client=row.client,
            project=row.project,
            model=row.model,
            day=date.fromisoformat(row.day) if row.day else None,
            usage=usage(row.usage),
        )


def usage(message: rollup_pb2.Usage) -> Usage:
    """Sums; a cost that isn't there is exactly zero."""
    return Usage(
        requests=message.requests,
        failed_requests=message.failed_requests,
        refused_requests=message.refused_requests,
        tokens=message.tokens,
        input_tokens=message.input_tokens,
        cache_read_tokens=message.cache_read_tokens,
        cache_write_tokens=message.cache_write_tokens,
        cache_write_long_tokens=message.cache_write_long_tokens,
        output_tokens=message.output_tokens,
        reasoning_tokens=message.reasoning_tokens,
        audio_input_tokens=message.audio_input_tokens,
        audio_output_tokens=message.audio_output_tokens,
        cost=Decimal(message.cost or 0),
        estimated_tokens=message.estimated_tokens,
        unpriced_requests=message.unpriced_requests,
    )


def quotas(answer: quota_pb2.QuotaStatusResponse) -> tuple[Quota, ...]:
    """Quotas, in the daemon's order."""
    return tuple(_quota(one) for one in answer.quotas)


def _quota(one: quota_pb2.QuotaStatus) -> Quota:
    return Quota(
        client=one.client,
        scope=one.scope,
        project=one.project,
        model=one.model,
        plan=one.plan,
        period=one.period,
        start=moment(one.period_start_unix_ns),
        end=moment(one.period_end_unix_ns),
        timezone=one.timezone,
        mode=_word(quota_pb2.LimitMode.Name, one.mode, "LIMIT_MODE_"),
        limit=None if one.is_unlimited else one.limit,
        cap=one.cap or None,
        used=one.used,
        leased=one.leased,
        remaining=one.remaining,
        estimated_tokens=one.estimated_tokens,
        holders=tuple(
            Holder(holder.producer, holder.pid, holder.tokens, moment(holder.until_unix_ns))
            for holder in one.holders
        ),
    )


def records(row: admin_pb2.RecordRow) -> Iterator[Record]:
    """A row of the ledger."""
    record = row.record
    yield Record(
        ledger_row=row.ledger_row,
        producer=row.producer,
        sequence=row.sequence,
        billed_at=moment(row.billed_at_unix_ns),
        occurred_at=moment(record.occurred_at_unix_ns),
        client=record.client,
        project=record.project,
        provider=record.provider,
        operation=record.operation,
        request_model=record.request_model,
        response_model=record.response_model,
        status=_word(usage_pb2.Status.Name, record.status, "STATUS_"),
        http_status=record.http_status,
        input_tokens=record.input_tokens,
        cache_read_tokens=record.cache_read_tokens,
        cache_write_tokens=record.cache_write_tokens,
        cache_write_long_tokens=record.cache_write_long_tokens,
        output_tokens=record.output_tokens,
        reasoning_tokens=record.reasoning_tokens,
        audio_input_tokens=record.audio_input_tokens,
        audio_output_tokens=record.audio_output_tokens,
        is_input_estimated=bool(record.estimated & _INPUT_ESTIMATED),
        is_output_estimated=bool(record.estimated & _OUTPUT_ESTIMATED),
        cost=decimal_or_none(row.cost),
        currency=row.currency,
        rate=row.rate,
        provider_cost=decimal_or_none(record.provider_cost),
        tool_calls=dict(record.tool_calls),
        duration_ms=record.duration_ms,
        is_stream=record.is_stream,
        attempt=record.attempt,
        account=record.account,
        note=record.note,
    )


def decimal_or_none(text: str) -> Decimal | None:
    """An exact decimal; None where the daemon says nothing."""
    return Decimal(text) if text else None


def moment(unix_ns: int) -> datetime:
    """A moment in UTC, to the microsecond; whole numbers all the way."""
    return _EPOCH + timedelta(microseconds=unix_ns // 1_000)


def _word(name_of: Callable[[Number], str], value: Number, prefix: str) -> str:
    """The word for a value of an enumeration; a newer daemon's as a number."""
    try:
        return name_of(value).removeprefix(prefix).lower()
    except ValueError:
        return str(int(value))
