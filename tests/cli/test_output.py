"""csv that no spreadsheet runs, json that every parser reads."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.cli.output import csv_line, write_csv, write_json_rows


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_a_text_that_begins_like_a_formula_gets_an_apostrophe(start: str) -> None:
    """OWASP's list and its full-width forms; quoted, so that nothing trims the apostrophe."""
    assert csv_line([start + "1+1"]) == f'"\'{start}1+1"'


@pytest.mark.parametrize("text", ["a;=1+1", 'a;"=1+1"', "a; =1+1", "a\t=1+1", "a\n=1+1", "a;＝1"])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_formula_can_not_hide_behind_another_separator(text: str, separator: str) -> None:
    """Spreadsheets of much of Europe split at semicolons, whatever commas and quotes say."""
    line = csv_line(["x", text])

    cells = [cell for row in csv.reader(io.StringIO(line), delimiter=separator) for cell in row]
    assert not [cell for cell in cells if cell.strip(' "').startswith(("=", "＝"))]


def test_figures_stay_bare() -> None:
    """A credit is a number and not a text."""
    out = io.StringIO()

    write_csv(out, ["client", "cost", "tokens"], [{"client": "-x", "cost": "-9.43", "tokens": -1}],
              ["cost"])  # fmt: skip

    assert out.getvalue().splitlines()[1] == '"\'-x",-9.43,-1'


def test_what_only_claims_to_be_a_figure_is_a_text() -> None:
    """A provider states its cost as a string, and may state anything."""
    assert csv_line(["=1+1", "-1.5E-7", "", None], frozenset(range(4))) == '"\'=1+1",-1.5E-7,,'


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=2))
def test_any_text_comes_back_out_of_csv(cells: list[str]) -> None:
    """Commas, quotes and line ends included; only apostrophes are added."""
    read = next(csv.reader(io.StringIO(csv_line(cells) + "\n", newline="")))

    assert [cell.replace("'", "") for cell in read] == [cell.replace("'", "") for cell in cells]


@given(
    st.lists(st.dictionaries(st.text(min_size=1), st.integers() | st.text() | st.none())),
)
def test_rows_written_one_by_one_are_one_object(rows: list[dict[str, int | str | None]]) -> None:
    """Streamed, so that a month of rows needs no memory."""
    out = io.StringIO()

    write_json_rows(out, {"schema": "x/1", "n": 1}, rows, lambda: {"total": {"cost": "1.50"}})

    document = json.loads(out.getvalue(), parse_float=Decimal)
    assert document == {"schema": "x/1", "n": 1, "rows": rows, "total": {"cost": "1.50"}}
