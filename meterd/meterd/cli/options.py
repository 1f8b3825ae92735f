"""What may stand on the command line: the parser and the values it accepts.

Each value is read by a function that names what it expected, so that a wrong one gets one
sentence instead of a page of usage.
"""

from __future__ import annotations

import argparse
import re
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, NoReturn

from meterd.cli.console import FORMATS, WrongUsage, WrongValue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meterd.cli.console import Console

ID_CHARACTERS_MAX = 128
TOKENS_MAX = 2**62
LAST_MONTH = "last-month"
"""Which one that is the daemon knows: it has the agency's time zone."""
_MONTH = re.compile(r"[1-9][0-9]{3}-(0[1-9]|1[0-2])")
_DAY = re.compile(r"[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}")
_TOKENS = re.compile(r"([0-9][0-9,_]*(?:\.[0-9]+)?)([kMB]?)")
_AMOUNT = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")
_MULTIPLES = {"": 1, "k": 1_000, "M": 1_000_000, "B": 1_000_000_000}


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `WrongUsage` and takes no abbreviations."""

    def __init__(self, prog: str, description: str, example: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.add_argument("-h", "--help", action="store_true", help="show this and do nothing")

    def parse(self, arguments: Sequence[str], console: Console) -> argparse.Namespace | None:
        """The options; None where help was asked for, which is printed.

        Help wins over whatever else is wrong or missing, as people ask for it then.
        """
        if not {"-h", "--help"}.isdisjoint(arguments):
            console.out.write(self.format_help())
            return None
        return self.parse_args(arguments)

    def error(self, message: str) -> NoReturn:
        raise WrongUsage(message.removeprefix("argument "))


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add `--target`, for each command that asks the daemon."""
    parser.add_argument(
        "--target",
        metavar="TARGET",
        help="the daemon: unix:PATH or HOST:PORT (default: METERD_TARGET, else the first of "
        "this user's and the system's sockets that answers)",
    )


def add_format(parser: argparse.ArgumentParser) -> None:
    """Add `--format`, for each command that answers with figures."""
    parser.add_argument(
        "--format",
        type=output_format,
        default="table",
        metavar="|".join(FORMATS),
        help="a table for eyes (default), or csv or json with exact figures",
    )


def output_format(text: str) -> str:
    """One of `FORMATS`."""
    if text not in FORMATS:
        raise WrongValue("--format", text, "table, csv or json")
    return text


def month(text: str) -> str:
    """A month as 2026-11, or `last-month`: the period that begins in it."""
    if text != LAST_MONTH and not _MONTH.fullmatch(text):
        raise WrongValue("MONTH", text, "a month as 2026-11, or last-month")
    return text


def day(name: str) -> Callable[[str], str]:
    """The reader of a day as 2026-11-25, for the option `name`."""

    def read(text: str) -> str:
        try:
            if not _DAY.fullmatch(text):
                raise ValueError
            return date.fromisoformat(text).isoformat()
        except ValueError:
            raise WrongValue(name, text, "a day as 2026-11-25") from None

    return read


def identifier(name: str) -> Callable[[str], str]:
    """The reader of a client's or project's id, for the argument `name`."""

    def read(text: str) -> str:
        is_valid = (
            0 < len(text) <= ID_CHARACTERS_MAX
            and text.isascii()
            and text.isprintable()
            and text == text.strip()
        )
        if not is_valid:
            raise WrongValue(
                name, text, f"1 to {ID_CHARACTERS_MAX} printable ASCII characters, no blank at ends"
            )
        return text

    return read


def token_count(text: str) -> int:
    """A number of tokens as 500000, 500,000, 500k or 1.5M; whole and positive."""
    found = _TOKENS.fullmatch(text)
    if found:
        tokens = Decimal(found[1].replace(",", "").replace("_", "")) * _MULTIPLES[found[2]]
        if tokens == tokens.to_integral_value() and 0 < tokens <= TOKENS_MAX:
            return int(tokens)
    raise WrongValue("TOKENS", text, "a whole number of tokens as 500000, 500k or 1.5M")


def amount(name: str) -> Callable[[str], Decimal]:
    """The reader of an amount of money as 847.00, for the option `name`."""

    def read(text: str) -> Decimal:
        if not _AMOUNT.fullmatch(text):
            raise WrongValue(name, text, "an amount of money as 847.00")
        return Decimal(text)

    return read
