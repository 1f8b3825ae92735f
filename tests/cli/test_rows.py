"""The commands that show or copy rows: records, tail, verify, backup."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import grpc
import pytest

from meterd_proto.v1 import admin_pb2, usage_pb2
from tests.cli.running import NOW

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.answering import Answers
    from tests.cli.running import Meterctl

DAY = ("--client", "acme-corp", "--from", "2026-11-03")


def record_row(cost: str = "0.0012345", **more: object) -> admin_pb2.RecordRow:
    record = usage_pb2.UsageRecord(
        client="acme-corp", project="chat", provider="openai", operation="chat",
        request_model="gpt-5", response_model="gpt-5-2025-08-07", input_tokens=1_200,
        cache_read_tokens=1_000, output_tokens=56, status=usage_pb2.STATUS_COMPLETE,
        http_status=200, occurred_at_unix_ns=NOW, tool_calls={"web_search": 2},
    )  # fmt: skip
    for name, value in more.items():
        setattr(record, name, value)
    return admin_pb2.RecordRow(
        ledger_row=1, producer="web@host", sequence=9, billed_at_unix_ns=NOW, record=record,
        cost=cost, rate="gpt-5 2025-08-07", currency="USD",
    )  # fmt: skip


def test_records_are_a_table_with_their_sum(answers: Answers, meterctl: Meterctl) -> None:
    """A client who doubts the bill sees the rows and what they add up to."""
    answers.records = [record_row(), record_row("", estimated=2)]

    lines = meterctl("records", *DAY).lines

    assert lines[0].split() == [
        "TIME", "PROJECT", "MODEL", "STATUS", "INPUT", "CACHED", "OUTPUT", "COST",
    ]  # fmt: skip
    assert lines[1].endswith("1,200    1,000       56   $0.00123450")
    assert "complete ~" in lines[2]
    assert lines[2].endswith("unpriced")
    assert lines[3].split()[-4:] == ["2,400", "2,000", "112", "$0.00123450"]
    assert "1 record without a price, not in COST." in lines
    assert "~ estimated by meterd: the provider's count never came." in lines


def test_records_for_machines_are_whole(answers: Answers, meterctl: Meterctl) -> None:
    """Every field, exact; nothing where there is nothing."""
    answers.records = [record_row(), record_row("", estimated=2)]

    document = json.loads(meterctl("records", *DAY, "--format", "json").out)
    rows = list(csv.DictReader(io.StringIO(meterctl("records", *DAY, "--format", "csv").out)))

    assert document["schema"] == "meterd.records/1"
    assert document["from"] == document["to"] == "2026-11-03"
    assert document["rows"][0]["tool_calls"] == {"web_search": 2}
    assert [row["cost"] for row in document["rows"]] == ["0.0012345", None]
    assert [row["cost"] for row in rows] == ["0.0012345", ""]
    assert rows[1]["is_output_estimated"] == "true"
    assert rows[0]["billed_at"] == "2026-11-25T12:00:00.000Z"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--from", "2026-11-31"], "--from is '2026-11-31', expected a day as 2026-11-25"),
        (["--from", "20261103"], "--from is '20261103', expected a day"),
        (["--from", "2026-11-03", "--to", "2026-11-02"], "--to is 2026-11-02, before --from"),
    ],
)
def test_days_that_cant_be_are_wrong_usage(
    meterctl: Meterctl, arguments: list[str], sentence: str
) -> None:
    """The calendar is known here; the daemon needn't be asked."""
    result = meterctl("records", "--client", "acme-corp", *arguments)

    assert result.code == 2
    assert sentence in result.err


def test_a_stream_that_breaks_leaves_no_whole_document(
    answers: Answers, meterctl: Meterctl
) -> None:
    """Half a month must not look like a month: the json doesn't parse, the code is 3."""
    answers.records = [record_row()]
    answers.error = (grpc.StatusCode.UNAVAILABLE, "going down")

    result = meterctl("records", *DAY, "--format", "json")

    assert result.code == 3
    assert "unavailable: going down" in result.err
    with pytest.raises(json.JSONDecodeError):
        json.loads(result.out)


def test_tail_writes_a_line_a_call(answers: Answers, meterctl: Meterctl) -> None:
    """And what the daemon has to say meanwhile, and what it had to leave out."""
    answers.tail = [
        admin_pb2.TailEvent(
            client="acme-corp", project="chat", model="gpt-5", status=usage_pb2.STATUS_COMPLETE,
            input_tokens=1_200, output_tokens=56, cost="0.0012", currency="USD",
            billed_at_unix_ns=NOW,
        ),
        admin_pb2.TailEvent(
            client="bad\x1b[2J", model="m", status=usage_pb2.STATUS_REFUSED, note="quota"
        ),
        admin_pb2.TailEvent(event="acme-corp has used 80 % of 2M tokens"),
        admin_pb2.TailEvent(skipped=12),
    ]  # fmt: skip

    result = meterctl("tail")

    assert "acme-corp/chat" in result.lines[0]
    assert "1,200 in" in result.lines[0]
    assert "$0.001200" in result.lines[0]
    assert "complete" not in result.lines[0]
    assert r"bad\x1b[2J" in result.lines[1]
    assert result.lines[1].endswith("refused, quota")
    assert result.lines[2] == "* acme-corp has used 80 % of 2M tokens"
    assert result.lines[3].startswith("… 12 calls not shown")
    assert result.code == 3
    assert "ended the stream" in result.err


def test_tail_as_json_is_an_object_a_line(answers: Answers, meterctl: Meterctl) -> None:
    """So that `jq` shows each at once."""
    answers.tail = [admin_pb2.TailEvent(client="a", status=usage_pb2.STATUS_CUT, cost="0.1")]

    documents = [json.loads(line) for line in meterctl("tail", "--format", "json").lines]

    assert documents[0]["schema"] == "meterd.tail/1"
    assert documents[0]["status"] == "cut"
    assert documents[0]["cost"] == "0.1"


def test_verify_proves_or_ends_with_1(answers: Answers, meterctl: Meterctl) -> None:
    """A difference that is told twice on the way is one difference."""
    answers.verify = [admin_pb2.VerifyProgress(checked=10, total=10, is_done=True)]

    good = meterctl("verify")
    answers.verify = [
        admin_pb2.VerifyProgress(checked=5, total=10, differences=["row 3"]),
        admin_pb2.VerifyProgress(checked=10, total=10, differences=["row 3"], is_done=True),
    ]
    bad = meterctl("verify", "2026-11")

    assert (good.code, good.lines) == (0, ["Ledger and rollups agree: 10 records checked."])
    assert (bad.code, bad.lines) == (1, ["row 3"])
    assert "1 difference among 10 records" in bad.err
    assert admin_pb2.VerifyRequest(period="2026-11") in answers.asked


def test_a_proof_that_was_cut_proves_nothing(answers: Answers, meterctl: Meterctl) -> None:
    """No differences so far is not "agrees"."""
    answers.verify = [admin_pb2.VerifyProgress(checked=5, total=10)]

    result = meterctl("verify")

    assert result.code == 3
    assert result.out == ""


def test_a_backup_takes_its_place_when_it_is_complete(
    answers: Answers, meterctl: Meterctl, tmp_path: Path
) -> None:
    """The old one stays until then, and only the owner can read the new one."""
    target = tmp_path / "ledger.db"
    target.write_bytes(b"old")
    answers.backup = [
        admin_pb2.BackupChunk(data=b"SQLite ", total_bytes=16),
        admin_pb2.BackupChunk(data=b"format 3\0", total_bytes=16),
    ]

    result = meterctl("backup", str(target))

    assert result.lines == [f"{target}: 16 B, complete."]
    assert target.read_bytes() == b"SQLite format 3\0"
    assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("error", [None, (grpc.StatusCode.UNAVAILABLE, "going down")])
def test_a_backup_that_breaks_off_leaves_the_old_one(
    answers: Answers, meterctl: Meterctl, tmp_path: Path, error: tuple[grpc.StatusCode, str] | None
) -> None:
    """Half a database is worse than yesterday's."""
    target = tmp_path / "ledger.db"
    target.write_bytes(b"old")
    answers.backup = [admin_pb2.BackupChunk(data=b"half", total_bytes=8)]
    answers.error = error

    result = meterctl("backup", str(target))

    assert result.code == 3
    assert target.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.db"]


def test_a_backup_into_no_directory_is_wrong_usage(
    answers: Answers, meterctl: Meterctl, tmp_path: Path
) -> None:
    """Told in our words, not the system's."""
    result = meterctl("backup", str(tmp_path / "none" / "x.db"))

    assert result.code == 2
    assert "expected a file in a directory that exists" in result.err
