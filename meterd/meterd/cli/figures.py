"""Figures as a person reads them: 12.7M tokens, 45,890 requests, $31.42, 3 min ago.

Money is `Decimal` and rounded half up, for show alone: what is billed was rounded by the
daemon, and csv and json carry the exact strings.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal, localcontext

_UNITS = ((1_000, "k"), (1_000_000, "M"), (1_000_000_000, "B"))

# ISO 4217: how many decimals an amount is paid in; 2 for all that aren't listed.
_NO_DECIMALS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_THREE_DECIMALS = "BHD IQD JOD KWD LYD OMR TND"
_DECIMALS = {
    **dict.fromkeys(_NO_DECIMALS.split(), 0),
    **dict.fromkeys(_THREE_DECIMALS.split(), 3),
}
_SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹", "KRW": "₩", "ILS": "₪"}

NS_PER_S = 1_000_000_000


def tokens(count: int) -> str:
    """Tokens for a column: 950, 12.3k, 3.2M, 1.4B; rounded half up to one decimal."""
    sign, size = ("-", -count) if count < 0 else ("", count)
    if size < 1_000:
        return f"{sign}{size}"
    for unit, letter in _UNITS:
        tenths = (size * 10 + unit // 2) // unit
        # Judged after rounding: 999,960 is 1.0M, never 1,000.0k.
        if tenths < 10_000 or letter == "B":
            break
    return f"{sign}{tenths // 10:,}.{tenths % 10}{letter}"


def short_tokens(count: int) -> str:
    """Tokens inside a sentence: 2M rather than 2.0M."""
    return tokens(count).replace(".0", "")


def count(number: int) -> str:
    """A whole number with separators: 45,890."""
    return f"{number:,}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 record, 1,200 records."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def decimals(currency: str) -> int:
    """How many decimals amounts of this currency have (ISO 4217)."""
    return _DECIMALS.get(currency, 2)


def rounded(amount: Decimal, currency: str, further: int = 0) -> Decimal:
    """An amount in whole minor units of its currency, half up; `further` digits finer."""
    with localcontext() as context:
        context.prec = 60
        return amount.quantize(
            Decimal(1).scaleb(-decimals(currency) - further), rounding=ROUND_HALF_UP
        )


def money(amount: Decimal, currency: str, further: int = 0) -> str:
    """An amount for a column: $31.42, -$9.43, ¥19,792, CHF 12.00."""
    shown = rounded(amount, currency, further)
    sign = "-" if shown < 0 else ""
    symbol = _SYMBOLS.get(currency, f"{currency} ")
    return f"{sign}{symbol}{abs(shown):,f}"


def size(number_of_bytes: int) -> str:
    """Bytes: 512 B, 4.0 KiB, 1.2 MiB, 3.4 GiB."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if number_of_bytes >= unit:
            tenths = number_of_bytes * 10 // unit
            return f"{tenths // 10:,}.{tenths % 10} {name}"
    return f"{number_of_bytes} B"


def duration(nanoseconds: int) -> str:
    """A length of time in its largest unit: 4 s, 3 min, 2 h, 5 d."""
    seconds = max(0, nanoseconds // NS_PER_S)
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def moment(unix_ns: int) -> str:
    """A moment in the reader's own time zone and with its name; a dash where there is none.

    Named, since the days and periods around it are those of the agency's zone.
    """
    if not unix_ns:
        return "-"
    return _utc(unix_ns).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def timestamp(unix_ns: int) -> str:
    """A moment for a machine: RFC 3339, UTC, to the millisecond; empty where there is none."""
    if not unix_ns:
        return ""
    milliseconds = unix_ns // 1_000_000 % 1_000
    return f"{_utc(unix_ns):%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"


def _utc(unix_ns: int) -> datetime:
    return datetime.fromtimestamp(unix_ns // NS_PER_S, tz=UTC)
