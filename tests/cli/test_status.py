"""`meterctl status`: everything at a glance, and nothing hidden."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

from meterd_proto.v1 import admin_pb2, usage_pb2
from tests.cli.running import NOW

if TYPE_CHECKING:
    from tests.cli.answering import Answers
    from tests.cli.running import Meterctl

MINUTE_NS = 60 * 10**9


def a_status() -> admin_pb2.StatusResponse:
    return admin_pb2.StatusResponse(
        version="0.1.0", ledger_id=bytes(range(16)), data_directory="/var/lib/meterd",
        spool_roots="/var/spool/meterd", listening=["unix:/run/meterd/meterd.sock"],
        started_at_unix_ns=NOW - 180 * MINUTE_NS, now_unix_ns=NOW, config_source="/etc/meterd.toml",
        config_version=3, config_from_unix_ns=NOW - 60 * MINUTE_NS, agency="Northwind Studio",
        timezone="America/New_York", currency="USD", period="2026-11", records=1_234_567,
        database_bytes=5 << 20,
        producers=[
            admin_pb2.ProducerStatus(
                name="web@host-1", pid=41, producer="ab" * 16, watermark=1_000,
                highest_appended_sequence=1_012, is_connected=True,
                last_seen_unix_ns=NOW - 2 * 10**9, open_calls=4,
                report=usage_pb2.Report(spool_bytes=4096, spool_directory="/var/spool/meterd/ab"),
            ),
        ],
    )  # fmt: skip


def test_the_table_has_the_daemon_its_ledger_and_its_producers(
    answers: Answers, meterctl: Meterctl
) -> None:
    """One look tells whether all is well."""
    answers.status = a_status()

    result = meterctl("status")

    assert "meterd          0.1.0, up 3 h" in result.lines
    assert "ledger          1,234,567 records, 5.0 MiB, id 000102030405060708090a0b0c0d0e0f" in (
        result.lines
    )
    assert result.lines[-1].split() == [
        "web@host-1", "41", "connected", "1,000", "12", "4", "2", "s", "ago",
    ]  # fmt: skip


def test_what_is_wrong_is_in_the_table(answers: Answers, meterctl: Meterctl) -> None:
    """Each kind of thing that doesn't count has a section."""
    status = a_status()
    status.storage_fault = "no space left on device"
    status.config_refused.add(line=4, field="plans.x", message="is no plan")
    status.unpriced_models.add(provider="openai", model="gpt-9", requests=3, tokens=1_500)
    status.losses.add(producer="web@host", first_sequence=3, last_sequence=5, reason="corrupt")
    status.quarantine.add(producer="web@host", sequence=9, reason="schema 7")
    status.late_clients.add(client="acme-corp", records=12, tokens=48_000)
    status.refused_segments.append("/var/spool/meterd/ab/1.segment.refused")
    answers.status = status

    out = meterctl("status").out

    for text in (
        "NOT STORING     no space left on device",
        "refused file    line 4: plans.x: is no plan",
        "set aside       /var/spool/meterd/ab/1.segment.refused",
        "Models without a price:",
        "gpt-9",
        "3-5",
        "schema 7",
        "acme-corp",
    ):
        assert text in out


def test_json_has_every_field(answers: Answers, meterctl: Meterctl) -> None:
    """A monitor reads it."""
    answers.status = a_status()

    document = json.loads(meterctl("status", "--format", "json").out)

    assert document["schema"] == "meterd.status/1"
    assert document["config"]["version"] == 3
    assert document["spool_roots"] == ["/var/spool/meterd"]
    assert document["producers"][0]["waiting"] == 12
    named = {"started_at_unix_ns": "started_at", "now_unix_ns": "now"}
    gathered = {"config_source", "config_version", "config_from_unix_ns", "config_refused"}
    for field in admin_pb2.StatusResponse.DESCRIPTOR.fields:
        assert named.get(field.name, field.name) in document or field.name in gathered


def test_csv_has_a_line_a_producer(answers: Answers, meterctl: Meterctl) -> None:
    """The one table in it that a spreadsheet is of use for."""
    answers.status = a_status()

    row = next(csv.DictReader(io.StringIO(meterctl("status", "--format", "csv").out)))

    assert (row["name"], row["watermark"], row["is_connected"]) == ("web@host-1", "1000", "true")


def test_finished_producers_dont_bury_the_living(answers: Answers, meterctl: Meterctl) -> None:
    """A cron job leaves one a minute."""
    status = a_status()
    for number in range(100):
        status.producers.add(
            name="job@host", pid=number, is_finished=True, last_seen_unix_ns=NOW - number
        )
    answers.status = status

    short, long = meterctl("status").out, meterctl("status", "--all").out

    assert short.count("job@host") == 5
    assert "95 producers more that finished" in short
    assert long.count("job@host") == 100
