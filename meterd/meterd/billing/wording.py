"""How figures read in lines and letters: 12.3M tokens, $1,200, 30%, November 2025.

For eyes alone; whatever computes takes the values themselves. Prose money drops ".00", as
the agency's own texts do; lines and tables keep the cents.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING

from meterd.money import CURRENCIES, plain

if TYPE_CHECKING:
    from datetime import date

_SIGNS = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥"}
_STEPS = ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "K"))

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip


def tokens_text(tokens: int) -> str:
    """12,300,000 as 12.3M, 15,000,000 as 15M, 980 as 980: one decimal, none where it is zero."""
    for step, sign in _STEPS:
        if tokens >= step:
            scaled = (Decimal(tokens) / step).quantize(Decimal("0.1"), ROUND_HALF_UP)
            return f"{plain(scaled)}{sign}"
    return str(tokens)


def tokens_exact_text(tokens: int) -> str:
    """As short as it can be without losing a token: 7.3M, but 8,333."""
    for step, sign in _STEPS:
        if tokens >= step and tokens % (step // 10) == 0:
            return f"{plain(Decimal(tokens) / step)}{sign}"
    return f"{tokens:,}"


def money_text(amount: Decimal, currency: str) -> str:
    """$1,200.00, −$9.43, ¥19,792, CHF 40.85: a rounded amount with all its decimals."""
    digits = f"{abs(amount):,.{CURRENCIES[currency]}f}"
    sign = _SIGNS.get(currency)
    text = f"{sign}{digits}" if sign else f"{currency} {digits}"
    return f"−{text}" if amount < 0 else text


def prose_money(amount: Decimal, currency: str) -> str:
    """As a letter says it: $1,200 where there are no cents, else $42.50."""
    text = money_text(amount, currency)
    cents = "." + "0" * CURRENCIES[currency]
    return text.removesuffix(cents) if len(cents) > 1 else text


def percent_text(fraction: Decimal) -> str:
    """0.3 as 30%, 0.125 as 12.5%."""
    return f"{plain(fraction * 100)}%"


def month_text(day: date) -> str:
    """November 2025."""
    return f"{MONTHS[day.month - 1]} {day.year}"


def month_name(day: date) -> str:
    """November: a letter drops the year."""
    return MONTHS[day.month - 1]


def day_text(day: date) -> str:
    """January 1: a letter drops the year."""
    return f"{MONTHS[day.month - 1]} {day.day}"
