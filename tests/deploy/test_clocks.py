"""Producers whose clocks are wrong, and records that were away: placed, flagged, never lost.

Real producers with a clock of their own, a real meterd with the right one.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from meterd.clock import unix_ns_of
from meterd_middleware.settings import Settings
from meterd_middleware.shipper import Shipper
from meterd_middleware.usage import UsageRecord
from meterd_proto.v1 import admin_pb2, admin_pb2_grpc, rollup_pb2
from tests.cli.running import Meterctl
from tests.deploy.asking import WITHIN_S, channel, rollup, status, until
from tests.support.daemon import Daemon, start_daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DAY_NS = 86_400 * 10**9
HOUR_NS = 3_600 * 10**9
NOW = datetime.now(UTC)
CLOCKS = {
    "a day ahead": DAY_NS,
    "a day behind": -DAY_NS,
    "in 1970": 5 * HOUR_NS - unix_ns_of(NOW),
    "in 2100": unix_ns_of(datetime(2100, 1, 1, tzinfo=UTC)) - unix_ns_of(NOW),
}


@pytest.fixture
def daemon(place: Path) -> Iterator[Daemon]:
    """A daemon with the right time."""
    with start_daemon(place) as daemon:
        yield daemon


def shipper_of(daemon: Daemon, offset_ns: int = 0, *, target: str = "") -> Shipper:
    """A producer whose clock is off by so much."""
    settings = Settings(
        spool_root=daemon.spool_root,
        target=target or daemon.target,
        service="web",
        host="h",
        free_bytes_min=0,
    )
    return Shipper(settings, now_ns=lambda: time.time_ns() + offset_ns)


def record_at(client: str, occurred_at_unix_ns: int) -> UsageRecord:
    """A call of 1,000 tokens."""
    return UsageRecord(
        client=client, provider="openai", request_model="gpt-4o", http_status=200,
        input_tokens=900, output_tokens=100, occurred_at_unix_ns=occurred_at_unix_ns,
    )  # fmt: skip


def leave_behind(daemon: Daemon, *records: UsageRecord) -> None:
    """Records of a process that is gone: only the sweep can bring them in."""
    shipper = shipper_of(daemon, target=f"unix:{daemon.directory}/nobody.sock")
    for record in records:
        assert shipper.append(record) > 0
    shipper.close(0)


def rows_of(daemon: Daemon, client: str) -> list[admin_pb2.RecordRow]:
    """What `meterctl records` lists."""
    with channel(daemon) as opened:
        request = admin_pb2.RecordsRequest(
            client=client, from_day="1970-01-01", to_day="2199-12-31"
        )
        return list(admin_pb2_grpc.AdminServiceStub(opened).Records(request, timeout=WITHIN_S))


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_wrong_clock_is_corrected_by_what_the_batch_says_of_it(
    daemon: Daemon, clock: str
) -> None:
    """A call of an hour ago counts an hour ago; what its producer's clock said stays beside it."""
    offset_ns = CLOCKS[clock]
    shipper = shipper_of(daemon, offset_ns)
    an_hour_ago = time.time_ns() - HOUR_NS
    shipper.append(record_at("acme-corp", an_hour_ago + offset_ns))

    assert shipper.flush(WITHIN_S)
    (row,) = rows_of(daemon, "acme-corp")
    (producer,) = status(daemon).producers
    shipper.close(5)

    assert abs(row.billed_at_unix_ns - an_hour_ago) < 60 * 10**9
    said = row.record.occurred_at_unix_ns
    assert abs(said - (an_hour_ago + offset_ns)) < 10**9
    assert abs(producer.skew_ms + offset_ns // 10**6) < 60_000
    assert status(daemon).late_records == 0


@pytest.mark.parametrize("days", [1, 31, 34])
def test_what_was_away_for_a_month_lands_in_the_day_it_occurred(daemon: Daemon, days: int) -> None:
    """A spool that nobody could reach: its records are as old as they say."""
    then = NOW - timedelta(days=days)

    leave_behind(daemon, record_at("acme-corp", unix_ns_of(then)))

    assert until(lambda: status(daemon).records == 1)
    by_day = rollup(daemon, f"{then:%Y-%m}", rollup_pb2.DIMENSION_DAY)
    assert by_day[f"{then:%Y-%m-%d}"].tokens == 1_000
    assert status(daemon).late_records == 0


@pytest.mark.parametrize(
    ("then", "month"),
    [
        (NOW - timedelta(days=40), f"{NOW - timedelta(days=40):%Y-%m}"),
        (datetime(1970, 1, 2, tzinfo=UTC), "1970-01"),
    ],
)
def test_what_is_too_old_waits_until_an_operator_accepts_it(
    daemon: Daemon, then: datetime, month: str
) -> None:
    """Of a dead process nobody knows how wrong its clock was: a person has to say so."""
    leave_behind(daemon, record_at("acme-corp", unix_ns_of(then)))
    assert until(lambda: status(daemon).late_records == 1)
    assert rollup(daemon, month)[""].tokens == 0
    meterctl = Meterctl({"METERD_TARGET": daemon.target})

    accepted = meterctl("accept", "--late", "acme-corp")

    assert accepted.code == 0, accepted.err
    assert rollup(daemon, month)[""].tokens == 1_000
    assert status(daemon).late_records == 0
    assert meterctl("verify").code == 0


def test_what_a_dead_process_dates_into_the_future_counts_when_it_came(
    daemon: Daemon, soon: Callable[[int], bool]
) -> None:
    """No record counts after its receipt."""
    leave_behind(daemon, record_at("acme-corp", unix_ns_of(datetime(2100, 1, 1, tzinfo=UTC))))

    assert until(lambda: status(daemon).records == 1)
    (row,) = rows_of(daemon, "acme-corp")
    assert soon(row.billed_at_unix_ns)
    assert datetime(2100, 1, 1, tzinfo=UTC).timestamp() * 1e9 == row.record.occurred_at_unix_ns


@pytest.fixture
def soon() -> Callable[[int], bool]:
    """Whether a moment lies between the test's beginning and now."""
    began = time.time_ns() // 10**6 * 10**6
    return lambda moment: began <= moment <= time.time_ns()
