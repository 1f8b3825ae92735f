"""Rounding, exactness and splitting: BILLING.md A2 and B, and what holds for every amount."""

from __future__ import annotations

import threading
from decimal import Decimal, FloatOperation, Inexact, InvalidOperation

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.money import CURRENCIES, Money, allot, exact, minor_unit, per_million, plain, round_line

an_amount = st.decimals(-(10**9), 10**9, allow_nan=False, allow_infinity=False, places=6)
a_currency = st.sampled_from(sorted(CURRENCIES))


def d(text: str) -> Decimal:
    """A decimal from its text."""
    return Decimal(text)


@pytest.mark.parametrize(
    ("amount", "half_up", "half_even"),
    [
        ("2.5410", "2.54", "2.54"),
        ("1.5690", "1.57", "1.57"),
        ("9.4260", "9.43", "9.43"),
        ("38.2290", "38.23", "38.23"),
        ("7.5930", "7.59", "7.59"),
        ("4.225", "4.23", "4.22"),
        ("-4.225", "-4.23", "-4.22"),
        ("0.005", "0.01", "0.00"),
        ("-0.004", "0.00", "0.00"),
        ("0.49998", "0.50", "0.50"),
        ("1E+3", "1000.00", "1000.00"),
    ],
)
def test_a_line_is_rounded_half_up_and_a_credit_mirrors_its_invoice(
    amount: str, half_up: str, half_even: str
) -> None:
    """Ties alone tell the modes apart; minus zero is no amount."""
    assert str(round_line(d(amount), "USD")) == half_up
    assert str(round_line(d(amount), "USD", "half_even")) == half_even


@pytest.mark.parametrize(
    ("cost", "rate", "currency", "shown"),
    [
        ("127.43", "155.32", "JPY", "19792"),
        ("127.43", "0.3071", "KWD", "39.134"),
        ("127.43", "0.9215", "EUR", "117.43"),
    ],
)
def test_each_currency_has_its_own_decimals(
    cost: str, rate: str, currency: str, shown: str
) -> None:
    """Yen have none, dinars three; the exact cost is converted, then rounded once."""
    with exact():
        converted = d(cost) * d(rate)

    assert str(round_line(converted, currency)) == shown


@pytest.mark.parametrize(
    ("tokens", "rate", "cost"),
    [
        (1, "60", "0.00006"),
        (8_333, "60", "0.49998"),
        (10_300_000, "60", "618"),
        (10**15, "0.000000000001", "0.001"),
    ],
)
def test_tokens_times_a_rate_a_million_lose_no_digit(tokens: int, rate: str, cost: str) -> None:
    """Overage pro rata by token: BILLING.md A3."""
    assert per_million(tokens, d(rate)) == d(cost)


def test_losing_a_digit_or_touching_a_float_raises() -> None:
    """The traps that find a mistake in a rule before an agency does."""
    with exact(), pytest.raises(Inexact):
        Decimal(1) / 3
    with exact(), pytest.raises(FloatOperation):
        Decimal(0.1)  # noqa: RUF032 - the float is what is tested
    with exact(), pytest.raises(FloatOperation):
        assert Decimal("0.1") < 0.2
    with exact(), pytest.raises(InvalidOperation):
        Decimal("one")


def test_the_traps_hold_in_a_new_thread_too() -> None:
    """A thread begins with Python's default context, which rounds to 28 digits in silence."""
    caught: list[bool] = []

    def divide() -> None:
        with exact():
            try:
                Decimal(1) / 3
            except Inexact:
                caught.append(True)

    thread = threading.Thread(target=divide)
    thread.start()
    thread.join()

    assert caught == [True]


@pytest.mark.parametrize(
    ("amount", "shares", "parts"),
    [
        ("100.00", [1, 1, 1], ["33.34", "33.33", "33.33"]),
        ("0.05", [1, 1, 1, 1], ["0.02", "0.01", "0.01", "0.01"]),
        ("847.00", ["3.2", "1.9", "12.7"], ["152.27", "90.41", "604.32"]),
        ("25.31", ["12.336", "8.764", "4.214"], ["12.34", "8.76", "4.21"]),
        ("3.02", ["1.005", "1.005", "1.005"], ["1.01", "1.01", "1.00"]),
        ("618.00", ["7.1", "3", "2.2"], ["356.73", "150.73", "110.54"]),
        ("-100.00", [1, 1, 1], ["-33.34", "-33.33", "-33.33"]),
        ("5.00", [0, 0], ["5.00", "0.00"]),
        ("0.00", [1, 2], ["0.00", "0.00"]),
    ],
)
def test_an_amount_is_split_by_largest_remainder(
    amount: str, shares: list[int | str], parts: list[str]
) -> None:
    """Ties in the caller's order; a credit mirrors its invoice."""
    weights = [Decimal(share) for share in shares]

    assert allot(d(amount), weights, "USD") == [d(part) for part in parts]


@given(
    st.integers(-(10**9), 10**9),
    st.lists(st.decimals(0, 10**6, places=6), min_size=1, max_size=12),
    a_currency,
)
def test_the_parts_of_an_amount_sum_to_it(units: int, shares: list[Decimal], currency: str) -> None:
    """Whatever is split, by whatever, in any currency; no part is off by a whole unit."""
    amount = units * minor_unit(currency)

    parts = allot(amount, shares, currency)

    assert sum(parts) == amount
    whole = sum(shares)
    for part, share in zip(parts, shares, strict=True):
        if whole:
            assert abs(part * whole - amount * share) < minor_unit(currency) * whole


@given(an_amount, a_currency)
def test_rounding_moves_an_amount_by_half_a_unit_at_most(amount: Decimal, currency: str) -> None:
    """And once rounded it stays; a credit is the mirror of its invoice."""
    rounded = round_line(amount, currency)

    assert abs(rounded - amount) * 2 <= minor_unit(currency)
    assert round_line(rounded, currency) == rounded
    assert round_line(-amount, currency) == -rounded


@given(an_amount)
def test_an_amount_in_plain_digits_is_the_same_amount(amount: Decimal) -> None:
    """What goes into JSON and csv: no exponent, no trailing zeros, exact."""
    text = plain(amount)

    assert Decimal(text) == amount
    assert "E" not in text
    assert not ("." in text and text.endswith("0"))


def test_only_equal_currencies_are_added() -> None:
    """127.43 of what?"""
    assert Money(d("1.10"), "USD") + Money(d("2.20"), "USD") == Money(d("3.30"), "USD")
    assert Money(d("1"), "USD") - Money(d("2"), "USD") == Money(d("-1"), "USD")
    assert Money(d("4.225"), "USD").rounded() == Money(d("4.23"), "USD")
    with pytest.raises(ValueError, match="USD and EUR can't be added"):
        Money(d("1"), "USD") + Money(d("1"), "EUR")


def test_nobody_to_split_among_is_a_bug() -> None:
    """There is no part that could sum to the amount."""
    with pytest.raises(ValueError, match="to nobody"):
        allot(d("1.00"), [], "USD")
