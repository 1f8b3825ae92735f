"""docs/cli.md names every command, option, schema and exit code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from meterd.cli.commands import COMMANDS, load
from meterd.cli.options import Parser

DOCS = Path("docs/cli.md")
COMMON = {"--help", "--format", "--target"}


def section(command: str) -> str:
    found = re.search(rf"^## {command}\n(.*?)(?=^## |\Z)", DOCS.read_text(), re.M | re.S)
    assert found, f"docs/cli.md has no section {command}"
    return found[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_documented_with_its_options_and_an_example(command: str) -> None:
    """What `--help` lists, the page explains."""
    parser = Parser(command, "", "")
    load(command).arguments(parser)
    options = {name for action in parser._actions for name in action.option_strings if "--" in name}

    text = section(command)

    assert f"    meterctl {command}" in text or f"$ meterctl {command}" in text
    assert [name for name in sorted(options - COMMON) if name not in text] == []
    assert f"[`{command}`](#{command})" in DOCS.read_text()


def test_the_help_of_the_program_is_the_table_of_the_page() -> None:
    """One line for a command, the same in both."""
    text = DOCS.read_text()

    for name, entry in COMMANDS.items():
        assert f"| [`{name}`](#{name}) | {entry.summary} |" in text


def test_exit_codes_are_documented() -> None:
    """A script branches on them."""
    codes = re.findall(r"^\| (\d+) \|", DOCS.read_text(), re.M)

    assert codes == ["0", "1", "2", "3", "130", "141"]


def test_nothing_of_a_later_version_is_promised() -> None:
    """A command that the page names exists."""
    named = set(re.findall(r"meterctl ([a-z][a-z-]+)", DOCS.read_text()))

    assert named <= COMMANDS.keys()
