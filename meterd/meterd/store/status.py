"""The store's own figures, as `status` and `doctor` show them; and the records behind a figure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from meterd.ids import ProducerId
from meterd.store.values import (
    LateClient,
    LossRow,
    Producer,
    ProducerStatus,
    QuarantineRow,
    StatusFigures,
    Uncounted,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping
    from pathlib import Path

    from meterd.store.values import Heartbeat

SHOWN_MAX = 100
"""Losses and quarantined records that are listed; all are counted."""
PRODUCERS_MAX = 1_000
"""Producers that are listed, those heard of last first."""


def uncounted(connection: sqlite3.Connection) -> Uncounted:
    """How many records no rollup has, by why."""
    (late,) = connection.execute("SELECT count(*) FROM uncounted WHERE why = 'late'").fetchone()
    (quarantined,) = connection.execute("SELECT count(*) FROM quarantine").fetchone()
    # A floating-point sum: a producer may declare what it likes, and 64 bits would be an error.
    (lost,) = connection.execute(
        "SELECT total(last_sequence - first_sequence + 1) FROM losses"
    ).fetchone()
    return Uncounted(late, quarantined, int(lost))


def figures(
    connection: sqlite3.Connection,
    path: Path,
    heard: Mapping[ProducerId, Heartbeat],
    reports: Mapping[ProducerId, bytes],
) -> StatusFigures:
    """What `meterctl status` shows; `heard` and `reports` are what no transaction holds yet."""
    # Runs follow one another without a gap, and there may be a million of them.
    (first,) = connection.execute("SELECT min(first_row) FROM runs").fetchone()
    newest = connection.execute(
        "SELECT end_row FROM runs ORDER BY first_row DESC LIMIT 1"
    ).fetchone()
    aside = uncounted(connection)
    return StatusFigures(
        records=newest[0] - first if newest else 0,
        database_bytes=_bytes_of(path),
        quarantined_records=aside.quarantined_records,
        lost_records=aside.lost_records,
        late_records=aside.late_records,
        producers=_producers(connection, heard, reports),
        losses=_losses(connection),
        quarantine=_quarantine(connection),
        late=_late(connection),
    )


def _bytes_of(path: Path) -> int:
    files = (path, path.with_name(path.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def _late(connection: sqlite3.Connection) -> tuple[LateClient, ...]:
    return tuple(
        LateClient(client=name, records=records, tokens=tokens)
        for name, records, tokens in connection.execute(
            "SELECT c.name, count(*), sum(u.tokens) FROM uncounted u "
            "JOIN clients c ON c.id = u.client WHERE u.why = 'late' GROUP BY u.client ORDER BY 1"
        )
    )


def _producers(
    connection: sqlite3.Connection,
    heard: Mapping[ProducerId, Heartbeat],
    reports: Mapping[ProducerId, bytes],
) -> tuple[ProducerStatus, ...]:
    return tuple(
        _with_news(_producer(row), heard, reports)
        for row in connection.execute(
            "SELECT producer, service, host, pid, version, schema, watermark, highest_appended, "
            "last_seen_ms, skew_ms, open_calls, oldest_open_at_ms, ends_at, report "
            "FROM producers ORDER BY last_seen_ms DESC LIMIT ?",
            (PRODUCERS_MAX,),
        )
    )


def _producer(row: tuple[object, ...]) -> ProducerStatus:
    (
        producer, service, host, pid, version, schema, watermark, highest, last_seen, skew,
        open_calls, oldest_open, ends_at, report,
    ) = row  # fmt: skip
    assert isinstance(watermark, int)
    return ProducerStatus(
        producer=Producer(
            id=ProducerId(bytes(producer)),  # type: ignore[call-overload]  # STRICT: a BLOB
            service=str(service),
            host=str(host),
            pid=int(str(pid)),
            version=str(version),
            schema=int(str(schema)),
        ),
        watermark=watermark,
        highest_appended=int(str(highest)),
        last_seen_ms=int(str(last_seen)),
        skew_ms=int(str(skew)),
        open_calls=int(str(open_calls)),
        oldest_open_at_ms=int(str(oldest_open)),
        is_finished=isinstance(ends_at, int) and watermark >= ends_at,
        report=bytes(report),  # type: ignore[call-overload]  # STRICT: a BLOB
    )


def _with_news(
    status: ProducerStatus,
    heard: Mapping[ProducerId, Heartbeat],
    reports: Mapping[ProducerId, bytes],
) -> ProducerStatus:

    news = heard.get(status.producer.id)
    report = reports.get(status.producer.id)
    if report is not None:
        status = replace(status, report=report)
    if news is None:
        return status
    return replace(
        status,
        highest_appended=max(status.highest_appended, news.highest_appended),
        last_seen_ms=max(status.last_seen_ms, news.received_at_ms),
        skew_ms=news.skew_ms,
        open_calls=news.open_calls,
        oldest_open_at_ms=news.oldest_open_at_ms,
    )


def _losses(connection: sqlite3.Connection) -> tuple[LossRow, ...]:
    return tuple(
        LossRow(
            producer=ProducerId(producer),
            producer_name=f"{service}@{host}",
            first_sequence=first,
            last_sequence=last,
            reason=reason,
            declared_at_ms=at_ms,
        )
        for producer, first, last, reason, at_ms, service, host in connection.execute(
            "SELECT l.*, coalesce(p.service, ''), coalesce(p.host, '') FROM losses l "
            "LEFT JOIN producers p ON p.producer = l.producer "
            "ORDER BY l.declared_at_ms DESC LIMIT ?",
            (SHOWN_MAX,),
        )
    )


def _quarantine(connection: sqlite3.Connection) -> tuple[QuarantineRow, ...]:
    return tuple(
        QuarantineRow(
            producer=ProducerId(producer),
            producer_name=f"{service}@{host}",
            sequence=sequence,
            reason=reason,
            schema=schema,
            payload=payload,
            received_at_ms=at_ms,
        )
        for producer, sequence, reason, schema, payload, at_ms, service, host in connection.execute(
            "SELECT q.*, coalesce(p.service, ''), coalesce(p.host, '') FROM quarantine q "
            "LEFT JOIN producers p ON p.producer = q.producer "
            "ORDER BY q.received_at_ms DESC LIMIT ?",
            (SHOWN_MAX,),
        )
    )
