"""Who did something to the books, and why: both stand there for ever."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

from meterd.cli.console import WrongValue

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_CHARACTERS_MAX = 500


def add_reason(parser: argparse.ArgumentParser, *, is_required: bool = True) -> None:
    """Add `--why` and `--who`."""
    parser.add_argument(
        "--why", type=_text("--why"), required=is_required, metavar="TEXT",
        help="the reason, kept in the books",
    )  # fmt: skip
    parser.add_argument(
        "--who", type=_text("--who"), metavar="NAME", help="who does it (default: this user@host)"
    )


def _text(name: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not 0 < len(text.strip()) <= _CHARACTERS_MAX or not text.isprintable():
            raise WrongValue(name, text, f"1 to {_CHARACTERS_MAX} printable characters")
        return text.strip()

    return read


def this_user() -> str:
    """The user of this process as name@host."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        # A container's user often has no name.
        name = f"uid {os.getuid()}"
    return f"{name}@{os.uname().nodename}"
