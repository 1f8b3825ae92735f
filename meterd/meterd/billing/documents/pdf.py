"""The PDF of an invoice, by Typst, with fonts of our own: the same sheet gives the same bytes.

A name whose letters no shipped font has would be drawn without them and nobody told, so
coverage is checked first.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from meterd.errors import NotPossibleNow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meterd.billing.sheet import Json

_HERE = Path(str(files(__package__)))
FONTS = _HERE / "fonts"


def pdf_of(sheet: Mapping[str, Json], hash_hex: str = "") -> bytes:
    """Draw an invoice. The time in the file is the invoice's own, never the clock's.

    Args:
        hash_hex: of a closed invoice, printed at its foot.

    Raises:
        NotPossibleNow: the sheet has a letter that no shipped font can draw; names it.
    """
    import typst  # 20 ms, and only this file needs it

    missing = letters_without_glyph(sheet)
    if missing:
        raise NotPossibleNow(f"no shipped font can draw {missing}; the csv and html have it")
    drawn = {**sheet, "hash": hash_hex} if hash_hex else dict(sheet)
    compiler = typst.Compiler(
        str(_HERE / "invoice.typ"),
        root=str(_HERE),
        font_paths=[str(FONTS)],
        ignore_system_fonts=True,
        sys_inputs={"sheet": json.dumps(drawn, ensure_ascii=False)},
    )
    pdf = compiler.compile(format="pdf", timestamp=_timestamp(sheet))
    assert isinstance(pdf, bytes)
    return pdf


def letters_without_glyph(sheet: Mapping[str, Json]) -> str:
    """The letters of a sheet's texts that no shipped font has, each once, sorted."""
    return "".join(sorted(_letters(sheet) - _covered()))


def _letters(value: Json) -> set[str]:
    if isinstance(value, str):
        return {letter for letter in value if letter.isprintable() and not letter.isspace()}
    if isinstance(value, dict):
        return set().union(*(_letters(item) for item in value.values()))
    if isinstance(value, list | tuple):
        return set().union(*(_letters(item) for item in value))
    return set()


@lru_cache(maxsize=1)
def _covered() -> frozenset[str]:
    """What the shipped fonts can draw: ranges of code points, made from their character maps.

    `tests/billing/test_documents.py` holds the file against the fonts.
    """
    covered: set[str] = set()
    for line in (FONTS / "coverage.txt").read_text(encoding="ascii").split():
        first, _, last = line.partition("-")
        covered.update(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
    return frozenset(covered)


def _timestamp(sheet: Mapping[str, Json]) -> int:
    """Unix seconds of when it was issued; of a draft, the end of its period."""
    text = sheet["issued_at"] or sheet["end"]
    assert isinstance(text, str)
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp())
