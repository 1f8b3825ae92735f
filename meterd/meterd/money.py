"""Money: exact until it is written down, rounded in one function.

An amount is a `Decimal` made from a string or an integer. Rules compute inside `exact()`,
whose context traps what would lose a digit; `round_line` alone rounds, to the minor unit of
the currency, and an invoice's total is the sum of rounded lines.

Source: ISO 4217 for minor units.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from decimal import (
    ROUND_HALF_EVEN,
    ROUND_HALF_UP,
    Context,
    Decimal,
    DivisionByZero,
    FloatOperation,
    Inexact,
    InvalidOperation,
    Overflow,
    localcontext,
)
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Rounding = Literal["half_up", "half_even"]

DIGITS_MAX = 50
"""Significant digits in a computation: 10^15 tokens at a rate of 20 digits fit with room."""

MILLION = 1_000_000

_NEVER_SILENT = [InvalidOperation, DivisionByZero, Overflow, FloatOperation]
_EXACT = Context(prec=DIGITS_MAX, rounding=ROUND_HALF_UP, traps=[*_NEVER_SILENT, Inexact])
_MODES = {"half_up": ROUND_HALF_UP, "half_even": ROUND_HALF_EVEN}

_NO_MINOR_UNIT = (
    "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"  # amounts are whole
)
_THREE_DECIMALS = "BHD IQD JOD KWD LYD OMR TND"
_TWO_DECIMALS = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD "
    "CDF CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD "
    "GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL "
    "MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN "
    "PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP "
    "SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VES WST XCD XCG YER ZAR ZMW ZWG"
)

CURRENCIES: dict[str, int] = {
    **dict.fromkeys(_NO_MINOR_UNIT.split(), 0),
    **dict.fromkeys(_TWO_DECIMALS.split(), 2),
    **dict.fromkeys(_THREE_DECIMALS.split(), 3),
}
"""Each currency's number of decimals."""


@dataclass(frozen=True, slots=True)
class Money:
    """An amount and what it is an amount of; only equal currencies are added."""

    amount: Decimal
    currency: str

    def __add__(self, other: Money) -> Money:
        self._must_match(other)
        with exact():
            return Money(self.amount + other.amount, self.currency)

    def __sub__(self, other: Money) -> Money:
        self._must_match(other)
        with exact():
            return Money(self.amount - other.amount, self.currency)

    def rounded(self, mode: Rounding = "half_up") -> Money:
        """As it stands on an invoice: in whole minor units."""
        return Money(round_line(self.amount, self.currency, mode), self.currency)

    def _must_match(self, other: Money) -> None:
        if self.currency != other.currency:
            raise ValueError(f"{self.currency} and {other.currency} can't be added")


@contextmanager
def exact() -> Iterator[Context]:
    """A decimal context in which losing a digit, or touching a float, raises.

    Each function of the money path enters it, since a new thread or task starts with
    Python's default, which rounds to 28 digits in silence.
    """
    with localcontext(_EXACT) as context:
        yield context


def round_line(amount: Decimal, currency: str, mode: Rounding = "half_up") -> Decimal:
    """Round one invoice line to the currency's minor unit; the only place where money rounds.

    Half-up is decimal's, away from zero, so that a credit mirrors its invoice: −4.225
    becomes −4.23 as 4.225 becomes 4.23.
    """
    with localcontext(Context(prec=DIGITS_MAX, traps=_NEVER_SILENT)):
        rounded = amount.quantize(minor_unit(currency), rounding=_MODES[mode])
    return rounded if rounded else abs(rounded)  # −0.00 is no amount


def round_share(
    amount: Decimal, part: int, whole: int, currency: str, mode: Rounding = "half_up"
) -> Decimal:
    """`amount` × `part` ÷ `whole`, rounded as a line is; the division loses nothing before it.

    Args:
        amount: not negative; `part` and `whole` as days of a period are.
    """
    unit = minor_unit(currency)
    with exact():
        share = amount * part
        cut = share // (whole * unit)
        rest = share - cut * whole * unit
        # Whole units, and a half, more, less or nothing: that alone decides the rounding.
        twice = 2 * rest - whole * unit
        half = Decimal("0.5") if not twice else Decimal("0.7") if twice > 0 else Decimal("0.2")
        return round_line((cut + (half if rest else 0)) * unit, currency, mode)


def minor_unit(currency: str) -> Decimal:
    """The smallest amount of a currency: 0.01 of USD, 1 of JPY, 0.001 of KWD."""
    return Decimal(1).scaleb(-CURRENCIES[currency])


def per_million(tokens: int, rate: Decimal) -> Decimal:
    """What `tokens` cost at a rate per 1,000,000, exactly."""
    with exact():
        return (tokens * rate).scaleb(-6)


def allot(amount: Decimal, shares: Sequence[Decimal | int], currency: str) -> list[Decimal]:
    """Split a rounded amount by shares so that the parts sum to it: largest remainder.

    Ties go to the earlier share. Where every share is zero the first takes all.

    Args:
        amount: in whole minor units; negative for a credit, which mirrors its invoice.
        shares: none negative.
    """
    if not shares:
        raise ValueError("an amount can't be allotted to nobody")
    unit = minor_unit(currency)
    with exact():
        units = int(abs(amount) / unit)
    weights = _whole_numbers(shares)
    if not any(weights):
        weights = [1, *[0] * (len(weights) - 1)]
    whole = sum(weights)
    parts = [units * weight // whole for weight in weights]
    remainders = [units * weight % whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda index: (-remainders[index], index))
    for index in by_remainder[: units - sum(parts)]:
        parts[index] += 1
    sign = -1 if amount < 0 else 1
    with exact():
        return [sign * part * unit for part in parts]


def plain(amount: Decimal) -> str:
    """A decimal as an exact string without exponent and without trailing zeros; zero is "0"."""
    if not amount:
        return "0"
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _whole_numbers(shares: Sequence[Decimal | int]) -> list[int]:
    """The shares, scaled by one power of ten until all are integers."""
    decimals = [Decimal(share) for share in shares]
    places = max(max(0, -int(value.as_tuple().exponent)) for value in decimals)
    with exact():
        return [int(value.scaleb(places)) for value in decimals]
