"""Output for machines: csv for spreadsheets, json for programs. Both exact.

Rows are written as they come, so that a month of ledger rows needs no memory. A stream that
breaks off leaves a file that visibly has no end, and an exit code other than 0.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Cell = str | int | None

# A spreadsheet runs a cell that begins like this as a formula. Ids come from request
# headers, so a stranger could send one (OWASP, "CSV injection"; CVE-2021-41270). The wide
# forms are read as the narrow ones by spreadsheets with a Japanese input method.
_FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")
# Where a spreadsheet splits at semicolons (much of Europe) or tabs, quotes inside a line don't
# count, and what follows a separator begins a cell of its own.
_HIDDEN_FORMULA = re.compile(r"([;\t\r\n])(?=[\s\"']*[=+\-@＝＋－＠])")
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?(E[+-]?[0-9]+)?")
_QUOTED = frozenset('",\r\n')


def csv_line(cells: Iterable[Cell], figures: frozenset[int] = frozenset()) -> str:
    """One line of csv. `figures` are the positions of decimal strings, which stay bare."""
    return ",".join(
        str(cell)
        if isinstance(cell, int) or (index in figures and _DECIMAL.fullmatch(cell or ""))
        else _csv_text(cell or "")
        for index, cell in enumerate(cells)
    )


def _csv_text(text: str) -> str:
    text = _HIDDEN_FORMULA.sub(r"\1'", text)
    if text.startswith(_FORMULA_STARTS):
        return "\"'" + text.replace('"', '""') + '"'
    if not _QUOTED.isdisjoint(text):
        return '"' + text.replace('"', '""') + '"'
    return text


def write_csv(
    out: TextIO,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, object]],
    figures: Sequence[str] = (),
) -> None:
    """Write a line of column names, then one a row; `figures` name the decimal strings."""
    bare = frozenset(columns.index(name) for name in figures if name in columns)
    out.write(csv_line(columns) + "\n")
    for row in rows:
        out.write(csv_line([_cell(row.get(name)) for name in columns], bare) + "\n")


def _cell(value: object) -> Cell:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return value
    return json.dumps(value, ensure_ascii=False)


def write_json(out: TextIO, document: Mapping[str, object]) -> None:
    """Write one object, indented: small documents are read by people, too."""
    out.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")


def json_line(document: Mapping[str, object]) -> str:
    """One object on one line."""
    return json.dumps(document, ensure_ascii=False)


def write_json_rows(
    out: TextIO,
    head: Mapping[str, object],
    rows: Iterable[Mapping[str, object]],
    tail: Callable[[], Mapping[str, object]] = dict,
) -> None:
    """Write one object: the head's fields, `rows` with a line each, the tail's fields.

    The tail is asked for after the last row: a total comes at the end of its stream.
    """
    out.write("{" + "".join(f"{_field(name, value)}," for name, value in head.items()))
    out.write('\n"rows": [')
    separator = "\n"
    for row in rows:
        out.write(separator + json_line(row))
        separator = ",\n"
    out.write("\n]" if separator != "\n" else "]")
    out.write("".join(f",\n{_field(name, value)}" for name, value in tail().items()))
    out.write("}\n")


def _field(name: str, value: object) -> str:
    return f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"
