"""The daemon's status as an object for programs: every field, exact, times in RFC 3339."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.cli.figures import timestamp

if TYPE_CHECKING:
    from meterd_proto.v1 import admin_pb2, usage_pb2


def status_document(status: admin_pb2.StatusResponse) -> dict[str, object]:
    """The whole status: schema "meterd.status/1"."""
    return {
        "schema": "meterd.status/1",
        "version": status.version,
        "started_at": timestamp(status.started_at_unix_ns),
        "now": timestamp(status.now_unix_ns),
        "listening": list(status.listening),
        "data_directory": status.data_directory,
        "spool_roots": [root for root in status.spool_roots.split(", ") if root],
        "storage_fault": status.storage_fault,
        "ledger_id": status.ledger_id.hex(),
        "records": status.records,
        "database_bytes": status.database_bytes,
        "agency": status.agency,
        "timezone": status.timezone,
        "currency": status.currency,
        "period": status.period,
        "config": {
            "version": status.config_version,
            "source": status.config_source,
            "from": timestamp(status.config_from_unix_ns),
            "refused": [
                {"line": mistake.line, "field": mistake.field, "message": mistake.message}
                for mistake in status.config_refused
            ],
        },
        "producers": [producer_document(producer) for producer in status.producers],
        "unpriced_requests": status.unpriced_requests,
        "unpriced_models": [
            {
                "provider": model.provider,
                "model": model.model,
                "requests": model.requests,
                "tokens": model.tokens,
            }
            for model in status.unpriced_models
        ],
        "late_records": status.late_records,
        "late_clients": [
            {"client": late.client, "records": late.records, "tokens": late.tokens}
            for late in status.late_clients
        ],
        "quarantined_records": status.quarantined_records,
        "quarantine": [
            {
                "producer": row.producer,
                "sequence": row.sequence,
                "reason": row.reason,
                "received_at": timestamp(row.received_at_unix_ns),
            }
            for row in status.quarantine
        ],
        "lost_records": status.lost_records,
        "losses": [
            {
                "producer": loss.producer,
                "first_sequence": loss.first_sequence,
                "last_sequence": loss.last_sequence,
                "reason": loss.reason,
                "declared_at": timestamp(loss.declared_at_unix_ns),
            }
            for loss in status.losses
        ],
        "refused_segments": list(status.refused_segments),
    }


def producer_document(producer: admin_pb2.ProducerStatus) -> dict[str, object]:
    """A producer and what it last reported."""
    return {
        "name": producer.name,
        "pid": producer.pid,
        "producer": producer.producer,
        "is_connected": producer.is_connected,
        "is_finished": producer.is_finished,
        "watermark": producer.watermark,
        "highest_appended_sequence": producer.highest_appended_sequence,
        "waiting": max(0, producer.highest_appended_sequence - producer.watermark),
        "open_calls": producer.open_calls,
        "last_seen": timestamp(producer.last_seen_unix_ns),
        "skew_ms": producer.skew_ms,
        **_report(producer.report),
    }


def _report(report: usage_pb2.Report) -> dict[str, object]:
    return {
        "refused_records": report.refused_records,
        "refused_tokens": report.refused_tokens,
        "torn_bytes": report.torn_bytes,
        "dropped_open_frames": report.dropped_open_frames,
        "spool_bytes": report.spool_bytes,
        "spool_directory": report.spool_directory,
        "untagged": [{"place": place.place, "calls": place.calls} for place in report.untagged],
        "faults": [
            {"kind": fault.kind, "count": fault.count, "last_message": fault.last_message}
            for fault in report.faults
        ],
    }
