"""Figures for eyes: rounded half up, in the currency's own decimals."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest

from meterd import money as daemon_money
from meterd.cli import figures


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1.0k"),
        (12_345, "12.3k"),
        (950_000, "950.0k"),
        (999_949, "999.9k"),
        (999_950, "1.0M"),
        (3_204_800, "3.2M"),
        (12_702_113, "12.7M"),
        (999_960_000, "1.0B"),
        (5_000_000_000_000, "5,000.0B"),
        (-1_250_000, "-1.3M"),
    ],
)
def test_tokens_read_as_agencies_write_them(count: int, shown: str) -> None:
    """One decimal, and never a thousand of a smaller unit."""
    assert figures.tokens(count) == shown


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        ("31.4203", "USD", "$31.42"),
        ("4.225", "USD", "$4.23"),
        ("-9.43", "USD", "-$9.43"),
        ("1234567.891", "EUR", "€1,234,567.89"),
        ("19792.4276", "JPY", "¥19,792"),
        ("39.133753", "KWD", "KWD 39.134"),
        ("0", "CHF", "CHF 0.00"),
        ("1E+3", "USD", "$1,000.00"),
        ("-0.001", "USD", "$0.00"),
    ],
)
def test_money_has_its_currencys_decimals(amount: str, currency: str, shown: str) -> None:
    """ISO 4217; half up, as invoices round."""
    assert figures.money(Decimal(amount), currency) == shown


def test_decimals_are_those_that_the_daemon_bills_in() -> None:
    """The command line has a table of its own, since it imports nothing of the daemon."""
    assert {code: figures.decimals(code) for code in daemon_money.CURRENCIES} == dict(
        daemon_money.CURRENCIES
    )


def test_times_for_machines_are_utc() -> None:
    """RFC 3339, whatever zone the terminal is in."""
    assert figures.timestamp(1_795_608_000_123_456_789) == "2026-11-25T12:00:00.123Z"
    assert figures.timestamp(0) == ""


def test_times_for_people_name_their_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The days beside them are the agency's, and the reader may sit elsewhere."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()

    shown = figures.moment(1_795_608_000_123_456_789)

    monkeypatch.undo()
    time.tzset()
    assert shown == "2026-11-25 07:00:00 EST"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(4, "4 s"), (180, "3 min"), (7_300, "2 h"), (432_000, "5 d"), (-1, "0 s")],
)
def test_a_length_of_time_is_told_in_its_largest_unit(seconds: int, shown: str) -> None:
    """Nobody wants to divide 7,300 seconds."""
    assert figures.duration(seconds * figures.NS_PER_S) == shown
