"""Tables for eyes: columns three blanks apart, numbers to the right, nothing drawn.

Where a terminal is too narrow the gaps shrink first, then the names; a figure is never cut,
since half a figure is a wrong one.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_GAPS = (3, 2, 1)
_NAME_WIDTH_MIN = 8
_ELLIPSIS = "…"


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title and whether it holds figures, which stand to the right and whole."""

    title: str
    is_figure: bool = False


def render(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None
) -> list[str]:
    """The lines of a table, its titles first; at most `width` wide where names allow it."""
    lines = [[column.title for column in columns], *([*map(printable, row)] for row in rows)]
    widths = [max(display_width(line[index]) for line in lines) for index in range(len(columns))]
    gap = _GAPS[0]
    if width is not None:
        gap = next((gap for gap in _GAPS if _total(widths, gap) <= width), _GAPS[-1])
        _narrow(columns, widths, _total(widths, gap) - width)
    return [_line(columns, line, widths, " " * gap) for line in lines]


def printable(text: str) -> str:
    """The text with whatever could move a terminal's cursor written as an escape.

    Ids come from request headers, and a stranger's must not be able to rewrite the screen.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def display_width(text: str) -> int:
    """How many terminal cells a text takes: ideographs two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(_cells(letter) for letter in text)


def shortened(text: str, width: int) -> str:
    """The text cut to `width` cells, its cut marked."""
    if display_width(text) <= width:
        return text
    kept, cells = [], 0
    for letter in text:
        cells += _cells(letter)
        if cells > width - 1:
            break
        kept.append(letter)
    return "".join(kept) + _ELLIPSIS


def _cells(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _total(widths: Sequence[int], gap: int) -> int:
    return sum(widths) + gap * (len(widths) - 1)


def _narrow(columns: Sequence[Column], widths: list[int], excess: int) -> None:
    """Take `excess` cells from the widest names, one at a time, down to a legible rest."""
    names = [index for index, column in enumerate(columns) if not column.is_figure]
    while excess > 0 and names:
        widest = max(names, key=lambda index: widths[index])
        if widths[widest] <= _NAME_WIDTH_MIN:
            return
        widths[widest] -= 1
        excess -= 1


def _line(columns: Sequence[Column], cells: Sequence[str], widths: list[int], gap: str) -> str:
    padded = []
    for column, cell, width in zip(columns, cells, widths, strict=True):
        text = cell if column.is_figure else shortened(cell, width)
        blanks = " " * (width - display_width(text))
        padded.append(blanks + text if column.is_figure else text + blanks)
    return gap.join(padded).rstrip()
