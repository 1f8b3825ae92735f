"""Whoever runs meterd or an app finds every variable and option on a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from meterd import options

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("middleware/meterd_middleware", "meterd/meterd", "proto/meterd_client")
PAGES = "".join(
    page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
)


def test_every_variable_that_is_read_stands_on_a_page() -> None:
    read = {
        variable
        for source in SOURCES
        for path in (ROOT / source).rglob("*.py")
        for variable in re.findall(r"METERD_[A-Z_]+[A-Z]", path.read_text(encoding="utf-8"))
    }

    assert len(read) > 10
    assert {variable for variable in read if f"`{variable}" not in PAGES} == set()


def test_every_option_of_meterd_stands_in_its_table_with_its_variable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        options.parse(["--help"], {}, "0")
    told = capsys.readouterr().out
    named = set(re.findall(r"^  (--[a-z-]+)", told, re.MULTILINE)) - {"--version"}
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    table = page.partition("## Options of meterd")[2].partition("\n## ")[0]

    assert len(named) > 7
    assert {option for option in named if f"`{option}" not in table} == set()
    for variable in re.findall(r"`(METERD_[A-Z_]+)", table):
        assert variable in told
