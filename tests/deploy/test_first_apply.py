"""The first `apply` after an hour of use: everything may be set from the beginning."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from meterd_proto.v1 import quota_pb2, quota_pb2_grpc, rollup_pb2
from tests.deploy.asking import WITHIN_S, apply, channel, rollup, ship, status, used
from tests.support.daemon import start_daemon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon

TOKYO = """\
[agency]
name = "Northwind Studio"
currency = "JPY"
timezone = "Asia/Tokyo"
[plans.starter]
type = "retainer"
fee = "80000"
included_tokens = "2M"
overage = "none"
[clients.acme-corp]
plan = "starter"
from = {last_month}
"""


def last_utc_evening() -> datetime:
    """A moment of yesterday's evening in UTC, which is today's morning in Tokyo."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    return yesterday.replace(hour=20, minute=0, second=0, microsecond=0)


def configured() -> str:
    """A zone far away, a currency without decimals, a plan that began last month."""
    last_month = datetime.now(UTC).date().replace(day=1) - timedelta(days=1)
    return TOKYO.format(last_month=last_month.replace(day=1).isoformat())


def days(daemon: Daemon, period: str) -> set[str]:
    """The local days that a month's usage is rolled up under."""
    return set(rollup(daemon, period, rollup_pb2.DIMENSION_DAY)) - {""}


def quota(daemon: Daemon, client: str) -> quota_pb2.QuotaStatus:
    """What `meterctl quota CLIENT` shows."""
    with channel(daemon) as opened:
        stub = quota_pb2_grpc.QuotaServiceStub(opened)
        request = quota_pb2.QuotaStatusRequest(client=client)
        return stub.Status(request, timeout=WITHIN_S).quotas[0]


def test_what_was_recorded_before_is_rolled_up_by_the_new_calendar(place: Path) -> None:
    """20:00 UTC is tomorrow in Tokyo: the day and perhaps the month change."""
    moment = last_utc_evening()
    in_tokyo = moment.astimezone(ZoneInfo("Asia/Tokyo"))
    with start_daemon(place) as daemon:
        ship(daemon, used("acme-corp", moment))
        assert days(daemon, f"{moment:%Y-%m}") == {f"{moment:%Y-%m-%d}"}

        answer = apply(daemon, configured())

        assert answer.applied
        assert answer.config_version == 1
        assert days(daemon, f"{in_tokyo:%Y-%m}") == {f"{in_tokyo:%Y-%m-%d}"}
        found = status(daemon)
        assert (found.timezone, found.currency) == ("Asia/Tokyo", "JPY")


def test_a_plan_that_began_last_month_holds_for_what_was_used_since(place: Path) -> None:
    """The quota counts the hour before the plan was written down."""
    now = datetime.now(UTC)
    with start_daemon(place) as daemon:
        ship(daemon, used("acme-corp", now, 700_000))

        apply(daemon, configured())

        found = quota(daemon, "acme-corp")
        assert (found.limit, found.used, found.remaining) == (2_000_000, 700_000, 1_300_000)


def test_a_dry_run_shows_everything_and_does_nothing(place: Path) -> None:
    """`meterctl apply` shows the difference first."""
    with start_daemon(place) as daemon:
        answer = apply(daemon, configured(), dry_run=True)

        assert not answer.applied
        assert ("agency.timezone", "UTC", "Asia/Tokyo") in {
            (one.field, one.before, one.after) for one in answer.differences
        }
        assert status(daemon).config_version == 0


def test_mistakes_are_an_answer_and_nothing_is_applied(place: Path) -> None:
    """All of them, with lines, so that the file is mended in one go."""
    with start_daemon(place) as daemon:
        answer = apply(daemon, '[agency]\ncurrency = "usd"\ntimezone = "Mars"\n')

        assert not answer.applied
        assert [(one.line, one.field) for one in answer.mistakes] == [
            (2, "agency.currency"),
            (3, "agency.timezone"),
        ]
        assert status(daemon).config_version == 0


def test_an_alias_that_the_book_does_not_know_is_a_mistake(place: Path) -> None:
    """A price that rests on nothing would leave everything unpriced, silently."""
    price = '[[prices]]\nmodel = "mine"\nsame_as = "openai/{}"\n'
    with start_daemon(place) as daemon:
        wrong = apply(daemon, price.format("gpt-99-imaginary"))
        right = apply(daemon, price.format("gpt-4o"))

        assert [(one.line, one.message) for one in wrong.mistakes] == [
            (3, "the price book has no 'openai/gpt-99-imaginary'")
        ]
        assert right.applied


def test_it_is_in_force_again_after_a_kill(place: Path) -> None:
    """The database keeps it; the file may be gone."""
    with start_daemon(place) as daemon:
        apply(daemon, configured())
        daemon.kill()
        daemon.start()

        found = status(daemon)
        assert (found.timezone, found.config_version, found.config_source) == (
            "Asia/Tokyo",
            1,
            "m.toml",
        )


def test_a_plan_raised_at_noon_acts_at_once(place: Path) -> None:
    """The number that a refused client waits for."""
    with start_daemon(place, config=configured()) as daemon:
        apply(daemon, configured().replace('"2M"', '"5M"'))

        assert quota(daemon, "acme-corp").limit == 5_000_000
