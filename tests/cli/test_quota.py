"""`meterctl quota`: limit, used, leased, remaining, and where it is heading."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import grpc
import pytest

from meterd.cli.forecast import exhausted_on
from meterd_proto.v1 import quota_pb2
from tests.cli.running import NOW

if TYPE_CHECKING:
    from tests.cli.answering import Answers
    from tests.cli.running import Meterctl

DAY_NS = 86_400 * 10**9
START = NOW - 24 * DAY_NS - DAY_NS // 2
END = START + 30 * DAY_NS


def quota(
    client: str = "acme-corp", used: int = 1_900_000, limit: int = 2_000_000, **more: object
) -> quota_pb2.QuotaStatus:
    found = quota_pb2.QuotaStatus(
        client=client, period="2026-11", limit=limit, used=used, leased=50_000,
        remaining=limit - used - 50_000, mode=quota_pb2.LIMIT_MODE_HARD, plan="starter",
        period_start_unix_ns=START, period_end_unix_ns=END, timezone="America/New_York",
        scope="client",
    )  # fmt: skip
    for name, value in more.items():
        setattr(found, name, value)
    return found


def test_the_table_says_what_is_left_and_who_holds_what(
    answers: Answers, meterctl: Meterctl
) -> None:
    """An operator sees why a client with tokens left is refused."""
    held = quota()
    held.holders.add(producer="web@host-1", tokens=50_000, until_unix_ns=NOW, pid=41)
    answers.quotas = [held]

    result = meterctl("quota")

    assert result.lines[0].split() == [
        "CLIENT", "PERIOD", "MODE", "LIMIT", "USED", "LEASED", "REMAINING",
    ]  # fmt: skip
    assert result.lines[1].split() == [
        "acme-corp", "2026-11", "hard", "2.0M", "1.9M", "50.0k", "50.0k",
    ]  # fmt: skip
    assert "acme-corp: 50k lent to web@host-1 (pid 41) until" in result.out
    assert "acme-corp: exhausted on the 26th at this pace." in result.out


def test_who_vanished_is_named_first_and_of_many_the_largest(
    answers: Answers, meterctl: Meterctl
) -> None:
    """Forty processes would hide the one host to look for; JSON has them all."""
    held = quota()
    for pid in range(1, 41):
        held.holders.add(producer="web@host-1", tokens=1_000 + pid, until_unix_ns=NOW, pid=pid)
    held.holders.add(producer="web@host-2", tokens=9, until_unix_ns=NOW, pid=7, is_gone=True)
    answers.quotas = [held]

    remarks = [line for line in meterctl("quota").lines if " lent to " in line]
    found = json.loads(meterctl("quota", "--format", "json").out)["quotas"][0]["holders"]

    assert remarks[0].startswith("acme-corp: 9 lent to web@host-2 (pid 7, not connected) until")
    assert "(pid 40) until" in remarks[1]
    assert remarks[3:] == ["acme-corp: 38.7k lent to 38 more."]
    assert len(found) == 41
    assert [holder["connected"] for holder in found[-2:]] == [True, False]


@pytest.mark.parametrize(
    ("status", "outlook"),
    [
        (quota(used=2_140_000), "exhausted, and 140k over"),
        (quota(used=2_000_000), "exhausted"),
        (quota(used=2_140_000, mode=quota_pb2.LIMIT_MODE_SOFT), "140k in overage"),
        (quota(used=2_140_000, mode=quota_pb2.LIMIT_MODE_SOFT, cap=2_500_000),
         "140k in overage, of a cap of 2.5M: reached on the 29th at this pace"),
        (quota(used=2_140_000, mode=quota_pb2.LIMIT_MODE_SOFT, cap=4_000_000),
         "140k in overage, of a cap of 4M"),
        (quota(used=4_000_000, mode=quota_pb2.LIMIT_MODE_SOFT, cap=4_000_000),
         "2M in overage, of a cap of 4M: reached"),
        (quota(is_unlimited=True), "nothing limits it (plan starter)"),
        (quota(is_unlimited=True, plan=""), "no plan limits it"),
    ],
)  # fmt: skip
def test_what_is_to_be_expected_is_one_clause(
    answers: Answers, meterctl: Meterctl, status: quota_pb2.QuotaStatus, outlook: str
) -> None:
    """Overage is what a soft quota is for: "exhausted" would alarm."""
    answers.quotas = [status]

    assert meterctl("quota").lines[-1] == f"acme-corp: {outlook}."


def test_json_is_exact(answers: Answers, meterctl: Meterctl) -> None:
    """The names that the design gives."""
    answers.quotas = [quota(used=1_234_567)]

    found = json.loads(meterctl("quota", "--format", "json").out)

    assert found["schema"] == "meterd.quota/1"
    row = found["quotas"][0]
    assert row["used"] == 1_234_567
    assert row["mode"] == "hard"
    assert {"client", "period", "limit", "used", "leased", "remaining", "mode"} <= row.keys()


def test_csv_has_a_line_a_quota(answers: Answers, meterctl: Meterctl) -> None:
    """No limit is an empty cell, not a zero."""
    answers.quotas = [quota(), quota("free", is_unlimited=True)]

    rows = list(csv.DictReader(io.StringIO(meterctl("quota", "--format", "csv").out)))

    assert [row["limit"] for row in rows] == ["2000000", ""]
    assert [row["mode"] for row in rows] == ["hard", "none"]


def test_levels_beside_the_client_are_told_apart(answers: Answers, meterctl: Meterctl) -> None:
    """A quota may stand on the agency, a project or a model."""
    answers.quotas = [
        quota("", scope="agency"), quota(project="chat", scope="project"),
        quota(model="gpt-5*", scope="model"),
    ]  # fmt: skip

    lines = meterctl("quota").lines

    assert lines[0].split()[:2] == ["CLIENT", "OF"]
    assert lines[1].startswith("(agency)")
    assert "project chat" in lines[2]
    assert "model gpt-5*" in lines[3]


def test_a_client_without_a_quota_is_refused_with_a_sentence(
    answers: Answers, meterctl: Meterctl
) -> None:
    """Silence would read as "nothing left"."""
    result = meterctl("quota", "nobody")

    assert result.code == 1
    assert "nobody has no quota" in result.err


@pytest.mark.parametrize(
    ("used", "days", "forecast"),
    [
        (0, 10.0, ""),
        (1_000_000, 10.0, "exhausted on the 20th at this pace"),
        (500_000, 10.0, ""),
        (2_000_000, 10.0, "exhausted"),
        (1_999_999, 0.1, ""),
    ],
)
def test_the_forecast_spreads_what_was_used_evenly(used: int, days: float, forecast: str) -> None:
    """On the 20th at 23:00, as the 1st had 25 hours; nothing is said in the first hours."""
    start = 1_793_505_600_000_000_000  # 2026-11-01 00:00 in New York
    found = quota(used=used)
    found.period_start_unix_ns, found.period_end_unix_ns = start, start + 30 * DAY_NS

    assert exhausted_on(found, start + int(days * DAY_NS)) == forecast


def test_watch_asks_again_until_it_is_interrupted(answers: Answers, meterctl: Meterctl) -> None:
    """Ctrl-C is how one leaves: quietly, with 130."""
    answers.quotas = [quota()]
    seen = 0

    def interrupted_at_the_third() -> None:
        nonlocal seen
        seen += 1
        answers.quotas = [quota(used=1_900_000 + seen)]

    answers.until = interrupted_at_the_third
    meterctl.waits = 2

    result = meterctl("quota", "--watch", "--format", "json")

    assert result.code == 130
    used = [json.loads(line)["quotas"][0]["used"] for line in result.lines]
    assert used == [1_900_001, 1_900_002, 1_900_003]
    assert result.err == ""


def test_watching_survives_a_restart_of_the_daemon(answers: Answers, meterctl: Meterctl) -> None:
    """Whoever watches wants to see the time after it, too."""
    answers.quotas = [quota()]

    def away_at_the_second() -> None:
        is_away = len(answers.asked) == 2
        answers.error = (grpc.StatusCode.UNAVAILABLE, "restarting") if is_away else None

    answers.until = away_at_the_second
    meterctl.waits = 2

    result = meterctl("quota", "--watch", "--format", "json")

    assert len(result.lines) == 2
    assert result.err.count("unavailable: restarting; trying again") == 1
