"""Ledger rows as they were received, with what each cost: what stands behind a figure.

Runs say which rows can lie in a range of times; the ledger has no index. A page of the
database that can't be read is stepped over, and named, run by run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from meterd.ids import ProducerId, Sequence
from meterd.pricing.naming import book_tools
from meterd.pricing.price import cost_of
from meterd.store.interning import BY_TOKENS, REQUEST, counts_as, kind_from
from meterd.store.ledger_row import unpack
from meterd.store.rate_column import Counted
from meterd.store.refold import CURRENT_RATE
from meterd.store.values import LedgerRecord

if TYPE_CHECKING:
    import sqlite3

    from meterd.store.batch import Kind
    from meterd.store.sums import Rates
    from meterd.store.values import RecordsQuery

PAGE_ROWS = 512


class RunPart(NamedTuple):
    """The rows of one run that a query can want."""

    first_row: int
    end_row: int
    run_first_row: int
    first_sequence: int
    producer: bytes
    producer_name: str


def parts(connection: sqlite3.Connection, query: RecordsQuery) -> list[RunPart]:
    """The runs that can hold what is asked for, in order of arrival, in pages."""
    rows = connection.execute(
        "SELECT r.first_row, r.end_row, r.first_sequence, p.producer, p.service, p.host "
        "FROM runs r JOIN producers p ON p.number = r.producer "
        "WHERE r.end_row > ? AND r.first_row < ? AND r.greatest_ms >= ? AND r.least_ms < ? "
        "ORDER BY r.first_row",
        (
            query.first_row,
            query.end_row if query.end_row is not None else 1 << 62,
            query.from_ms if query.from_ms is not None else -(1 << 62),
            query.to_ms if query.to_ms is not None else 1 << 62,
        ),
    )
    found: list[RunPart] = []
    for first, end, sequence, producer, service, host in rows:
        low = max(first, query.first_row)
        high = min(end, query.end_row if query.end_row is not None else end)
        found += [
            RunPart(at, min(at + PAGE_ROWS, high), first, sequence, producer, f"{service}@{host}")
            for at in range(low, high, PAGE_ROWS)
        ]
    return found


def page(
    connection: sqlite3.Connection, rates: Rates, query: RecordsQuery, part: RunPart
) -> list[LedgerRecord]:
    """The records of one part that match."""
    where = ["l.id >= ?", "l.id < ?"]
    values: list[object] = [part.first_row, part.end_row]
    for condition, value in (
        ("c.name = ?", query.client),
        ("t.project = ?", query.project),
        ("l.billed_at_ms >= ?", query.from_ms),
        ("l.billed_at_ms < ?", query.to_ms),
    ):
        if value is not None:
            where.append(condition)
            values.append(value)
    rows = connection.execute(
        "SELECT l.id, l.billed_at_ms, l.duration_ms, l.input_tokens, l.cache_read_tokens, "
        "l.output_tokens, l.reasoning_tokens, l.input_bytes, l.rest, "
        f"{CURRENT_RATE}, c.name, t.project, k.fields, u.why FROM ledger l "
        "JOIN tags t ON t.id = l.tag JOIN clients c ON c.id = t.client "
        "JOIN kinds k ON k.id = l.kind "
        "LEFT JOIN uncounted u ON u.client = t.client AND u.row = l.id "
        f"WHERE {' AND '.join(where)} ORDER BY l.id",
        values,
    ).fetchall()
    return [_record(connection, rates, part, row) for row in rows]


def _record(
    connection: sqlite3.Connection, rates: Rates, part: RunPart, row: tuple[object, ...]
) -> LedgerRecord:
    (
        number, billed_at, duration, took, read, gave, thought, size, rest, rate,
        client, project, fields, why,
    ) = row  # fmt: skip
    assert isinstance(number, int)
    assert isinstance(billed_at, int)
    kind = kind_from(str(fields))
    rare = unpack(rest if isinstance(rest, bytes) else None, billed_at)
    counts = Counted(
        _int(took), _int(read), _int(gave), _int(thought), rare.cache_write_tokens,
        rare.cache_write_long_tokens, rare.audio_input_tokens, rare.audio_output_tokens,
    )  # fmt: skip
    priced = rates.get(connection, rate) if isinstance(rate, int) else None
    return LedgerRecord(
        row=number,
        producer=ProducerId(part.producer),
        producer_name=part.producer_name,
        sequence=Sequence(part.first_sequence + number - part.run_first_row),
        billed_at_ms=billed_at,
        client=str(client),
        project=str(project),
        kind=kind,
        duration_ms=_int(duration),
        input_tokens=counts.input_tokens,
        cache_read_tokens=counts.cache_read_tokens,
        output_tokens=counts.output_tokens,
        reasoning_tokens=counts.reasoning_tokens,
        input_bytes=_int(size),
        rare=rare,
        is_late=why == "late",
        is_duplicate=why == "duplicate",
        rate=_int(rate or 0),
        cost=None
        if priced is None
        else cost_of(priced, counts, book_tools(rare.tool_calls), requests_of(kind, counts)),
        priced_by=f"{priced.provider}/{priced.model}: {priced.basis}" if priced is not None else "",
    )


def requests_of(kind: Kind, counts: Counted) -> int:
    """1 where the record counts as a request, else 0."""
    how = counts_as(kind)
    has_tokens = bool(counts.input_tokens or counts.output_tokens)
    return int(how == REQUEST or (how == BY_TOKENS and has_tokens))


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
