"""What the daemon billed, from messages to values."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from meterd_client.errors import CloseRefused, Unavailable
from meterd_client.invoices import (
    Closing,
    Document,
    ExchangeRate,
    Invoice,
    InvoiceLine,
    PriceRow,
    ProfitRow,
    ProjectAmount,
    Remedy,
    RepriceRow,
    TrendPoint,
)
from meterd_client.reading import decimal_or_none

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from meterd_proto.v1 import admin_pb2, billing_pb2


def invoice(one: billing_pb2.Invoice) -> Invoice:
    """An invoice, a draft or a credit note."""
    return Invoice(
        number=one.number,
        kind=one.kind or "invoice",
        status=one.status,
        client=one.client,
        client_name=one.client_name,
        agency=one.agency,
        period=one.period,
        start=datetime.fromisoformat(one.start),
        end=datetime.fromisoformat(one.end),
        timezone=one.timezone,
        currency=one.currency,
        plan=one.plan,
        lines=tuple(
            InvoiceLine(line.kind, line.description, Decimal(line.amount), line.tokens, line.period)
            for line in one.lines
        ),
        subtotal=Decimal(one.subtotal or one.total),
        total=Decimal(one.total),
        projects=tuple(
            ProjectAmount(part.project, part.requests, part.tokens, Decimal(part.amount))
            for part in one.projects
        ),
        requests=one.requests,
        tokens=one.tokens,
        estimated_tokens=one.estimated_tokens,
        unpriced_requests=one.unpriced_requests,
        exchange_rate=_exchange_rate(one.exchange_rate),
        notes=tuple(one.notes),
        issued_at=datetime.fromisoformat(one.issued_at) if one.issued_at else None,
        hash=one.hash,
        previous_hash=one.previous_hash,
        credits=one.credits,
        why=one.why,
        credited=Decimal(one.credited or 0),
        config_version=one.config_version,
        price_book=one.price_book,
        canonical_json=one.canonical_json,
    )


def invoices(one: billing_pb2.Invoice) -> Iterator[Invoice]:
    """One of a list."""
    yield invoice(one)


def _exchange_rate(one: billing_pb2.ExchangeRate) -> ExchangeRate | None:
    if not one.rate:
        return None
    return ExchangeRate(
        getattr(one, "from"), one.to, Decimal(one.rate), date.fromisoformat(one.date), one.source
    )


def document(chunks: Iterable[billing_pb2.DocumentChunk]) -> Document:
    """A file whose pieces have all come."""
    name, pieces = "", []
    for chunk in chunks:
        name = name or chunk.file_name
        pieces.append(chunk.data)
    return Document(name, b"".join(pieces))


def closing(month: str, is_dry_run: bool, steps: Iterable[billing_pb2.CloseProgress]) -> Closing:
    """What a closing came to.

    Raises:
        CloseRefused: something stands in the way, and it was no dry run.
        Unavailable: it broke off; asking again shows what was done.
    """
    obstacles: list[str] = []
    remarks: list[str] = []
    found: list[Invoice] = []
    is_done = is_closed = False
    for step in steps:
        month = step.period or month
        obstacles.extend(step.obstacles)
        remarks.extend(step.remarks)
        found.extend(map(invoice, step.invoices))
        is_done, is_closed = is_done or step.is_done, is_closed or step.is_closed
    if not is_done:
        raise Unavailable(f"closing {month} broke off; ask again to see what was done")
    if obstacles and not is_dry_run:
        raise CloseRefused(month, obstacles)
    return Closing(month, is_closed, tuple(obstacles), tuple(remarks), tuple(found))


def profits(row: billing_pb2.ProfitRow) -> Iterator[ProfitRow]:
    """A row of profit."""
    yield ProfitRow(
        client=row.client,
        project=row.project,
        period=row.period,
        plan=row.plan,
        currency=row.currency,
        is_total=row.is_total,
        revenue=Decimal(row.revenue or 0),
        ai_cost=Decimal(row.ai_cost or 0),
        service_cost=Decimal(row.service_cost or 0),
        profit=Decimal(row.profit or 0),
        margin=decimal_or_none(row.margin),
        ai_cost_share=decimal_or_none(row.ai_cost_share),
        requests=row.requests,
        unpriced_requests=row.unpriced_requests,
        tokens=row.tokens,
        estimated_tokens=row.estimated_tokens,
        mean_input_tokens=row.mean_input_tokens,
        p95_input_tokens=row.p95_input_tokens,
        output_ratio=decimal_or_none(row.output_ratio),
        cache_read_share=decimal_or_none(row.cache_read_share),
        history_share=decimal_or_none(row.history_share),
        flags=tuple(row.flags),
        trend=tuple(
            TrendPoint(
                point.period, point.requests, point.mean_input_tokens, point.p95_input_tokens
            )
            for point in row.trend
        ),
        remedies=tuple(
            Remedy(
                one.kind,
                one.summary,
                decimal_or_none(one.revenue),
                decimal_or_none(one.profit),
                one.letter,
            )
            for one in row.remedies
        ),
    )


def reprices(row: billing_pb2.RepriceRow) -> Iterator[RepriceRow]:
    """What a price changes; nothing for a message that tells progress alone."""
    if row.client:
        yield RepriceRow(
            client=row.client,
            period=row.period,
            provider=row.provider,
            model=row.model,
            records=row.records,
            requests_priced=row.requests_priced,
            before=Decimal(row.before or 0),
            after=Decimal(row.after or 0),
            difference=Decimal(row.difference or 0),
            currency=row.currency,
            is_closed_period=row.is_closed_period,
        )


def prices(row: billing_pb2.PriceRow) -> Iterator[PriceRow]:
    """A price; nothing for a remark."""
    if row.model:
        yield PriceRow(
            provider=row.provider,
            model=row.model,
            kind=row.kind,
            price=decimal_or_none(row.price),
            before=decimal_or_none(row.before),
            unit=row.unit,
            source=row.source,
            condition=row.condition,
        )


def differences(
    steps: Iterable[admin_pb2.VerifyProgress | billing_pb2.VerifyInvoicesProgress],
) -> tuple[str, ...]:
    """What doesn't agree, each once.

    Raises:
        Unavailable: the proof broke off, so that nothing is proved.
    """
    found: dict[str, None] = {}
    is_done = False
    for step in steps:
        found.update(dict.fromkeys(step.differences))
        is_done = is_done or step.is_done
    if not is_done:
        raise Unavailable("the proof broke off: nothing is proved")
    return tuple(found)
