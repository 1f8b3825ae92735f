"""What a person sees: acts with their time, quoted answers, a bar; plain where no terminal is."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 78
_BAR_CELLS = 40


def _styled(code: str, text: str) -> str:
    is_plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return text if is_plain else f"\033[{code}m{text}\033[0m"


def bold(text: str) -> str:
    """Stressed, where the terminal can."""
    return _styled("1", text)


def faint(text: str) -> str:
    """Beside the point, where the terminal can."""
    return _styled("2", text)


def good(text: str) -> str:
    """As it should be."""
    return _styled("32", text)


def bad(text: str) -> str:
    """As it should not be."""
    return _styled("31;1", text)


def say(text: str = "") -> None:
    """One line, at once."""
    print(text, flush=True)


@contextmanager
def act(title: str) -> Iterator[None]:
    """One act: its title before, its time after."""
    say()
    say(bold(f"▸ {title}"))
    began = time.monotonic()
    yield
    took = f"{time.monotonic() - began:.1f} s"
    say(faint(f"{took:>{WIDTH}}"))


def quote(text: str) -> None:
    """Output of another program, indented."""
    for line in text.rstrip().splitlines():
        say(f"    {line}")


def bar(part: int, whole: int) -> str:
    """How much of a quota is used."""
    cells = min(_BAR_CELLS, _BAR_CELLS * part // max(whole, 1))
    return f"{'█' * cells}{'░' * (_BAR_CELLS - cells)}  {part:>9,} of {whole:,}"
