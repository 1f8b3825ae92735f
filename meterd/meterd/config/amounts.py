"""How amounts are written in `meterd.toml`: money, tokens, percentages, days.

Each function takes what tomllib read and returns the exact value, or raises `ValueError`
with one sentence that says what to write instead.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal

from meterd.money import CURRENCIES, plain

TOKENS_MAX = 10**15
"""More than any agency uses: 3 × 10^15 tokens cost a billion dollars at the cheapest model."""

AMOUNT_MAX = Decimal(10**12)
NOTHING = Decimal(0)
ONE = Decimal(1)
RATE_DECIMALS_MAX = 12

_AMOUNT = re.compile(r"-?[0-9]{1,16}(?:\.([0-9]+))?")
_TOKENS = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,9})?)([kMB]?)")
_PERCENT = re.compile(r"(-?[0-9]{1,9}(?:\.[0-9]{1,6})?) ?%")
_MULTIPLES = {"": 1, "k": 1_000, "M": 1_000_000, "B": 1_000_000_000}


def amount(value: object, currency: str) -> Decimal:
    """Money, of at most the currency's decimals: "500", "499.50"; never negative."""
    found = _decimal(value)
    decimals = CURRENCIES.get(currency)
    if decimals is not None and _decimals(found) > decimals:
        raise ValueError(
            f"{plain(found)} has {_decimals(found)} decimals, {currency} has {decimals or 'none'}"
        )
    return found


def rate(value: object) -> Decimal:
    """A price per million, per thousand or per piece: as an amount, with finer decimals."""
    found = _decimal(value)
    if _decimals(found) > RATE_DECIMALS_MAX:
        raise ValueError(f"{plain(found)} has more than {RATE_DECIMALS_MAX} decimals")
    return found


def tokens(value: object) -> int:
    """A positive number of tokens: "2M", "500k", "1.5M", "1B", 2_000_000."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f'{value} is no number of tokens; write it as "2M", "500k" or 2_000_000')
    found = value if isinstance(value, int) else _tokens_written(value)
    if found < 0:
        raise ValueError(f"{found} tokens are less than none")
    if found == 0:
        raise ValueError("0 tokens would let nobody make a call; leave it out for no quota")
    if found > TOKENS_MAX:
        raise ValueError(f"{found} tokens are more than {TOKENS_MAX}; was a unit meant once less?")
    return found


def percent(value: object, least: int, most: int) -> Decimal:
    """A percentage as a fraction: "30%" is 0.30."""
    matched = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if matched is None:
        raise ValueError(f'{_shown(value)} is no percentage; write it as "30%"')
    found = Decimal(matched[1])
    if not least <= found <= most:
        raise ValueError(f"{plain(found)}% is out of range; it lies between {least}% and {most}%")
    return found.scaleb(-2)


def day(value: object) -> date:
    """A local day: 2026-01-01, with or without quotes."""
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} is no day; write it as 2026-01-01") from None
    if isinstance(value, datetime) or not isinstance(value, date):
        raise ValueError(f"{_shown(value)} is no day; write it as 2026-01-01, without a time")
    if not 2000 <= value.year <= 2199:
        raise ValueError(f"{value.isoformat()} lies outside of 2000 to 2199")
    return value


def _decimal(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | str) or not _is_number(value):
        raise ValueError(f'{_shown(value)} is no amount; write it in quotes, as "500" or "499.50"')
    found = Decimal(value)
    if found < 0:
        raise ValueError(f"{plain(found)} is less than nothing")
    if found > AMOUNT_MAX:
        raise ValueError(f"{plain(found)} is more than {plain(AMOUNT_MAX)}")
    return found


def _is_number(value: int | str) -> bool:
    return isinstance(value, int) or _AMOUNT.fullmatch(value) is not None


def _tokens_written(value: str) -> int:
    matched = _TOKENS.fullmatch(value)
    if matched is None:
        raise ValueError(
            f'{value!r} is no number of tokens; write "2M" for two million, "500k" for '
            "half a million"
        )
    found = Decimal(matched[1]) * _MULTIPLES[matched[2]]
    if found != int(found):
        raise ValueError(f"{value!r} is no whole number of tokens")
    return int(found)


def _decimals(value: Decimal) -> int:
    """How many decimals a value is written with; "500.00" counts none that are needed."""
    return max(0, -int(value.normalize().as_tuple().exponent)) if value else 0


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else str(value)
