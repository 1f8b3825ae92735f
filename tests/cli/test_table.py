"""Tables: figures are never cut, names give way, nothing rewrites the screen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meterd.cli.table import Column, display_width, printable, render, shortened

COLUMNS = [Column("CLIENT"), Column("MODEL"), Column("TOKENS", is_figure=True)]
ROW = ["a-client-with-a-rather-long-name", "gpt-5-mini-2025-08-07", "12,345,678"]


def test_a_narrow_terminal_takes_gaps_first_then_names() -> None:
    """Half a figure would be a wrong one."""
    wide = render(COLUMNS, [ROW])
    snug = render(COLUMNS, [ROW], len(wide[0]) - 2)
    narrow = render(COLUMNS, [ROW], 40)

    assert "   " in wide[1]
    assert ROW[0] in snug[1]
    assert max(map(len, narrow)) <= 40
    assert narrow[1].endswith("12,345,678")
    assert "…" in narrow[1]


def test_where_nothing_fits_figures_are_still_whole() -> None:
    """A terminal ten wide gets long lines rather than wrong figures."""
    assert render(COLUMNS, [ROW], 10)[1].endswith("12,345,678")


def test_control_characters_are_shown_as_escapes() -> None:
    """An id from a stranger's header can't move the cursor or change the colour."""
    line = render([Column("CLIENT")], [["evil\x1b[2J\r\nacme"]])[1]

    assert line == r"evil\x1b[2J\r\nacme"
    assert "\x1b" not in printable("\x1b]0;title\x07")


def test_wide_letters_take_two_cells() -> None:
    """Columns stay aligned beside Chinese names."""
    lines = render([Column("CLIENT"), Column("N", is_figure=True)], [["客户", "1"], ["acme", "2"]])

    assert display_width("客户") == 4
    assert {display_width(line) for line in lines} == {display_width(lines[0])}


@given(st.text(), st.integers(min_value=1, max_value=30))
def test_what_is_shortened_fits(text: str, width: int) -> None:
    """Whatever letters there are."""
    assert display_width(shortened(text, width)) <= max(width, 1)
