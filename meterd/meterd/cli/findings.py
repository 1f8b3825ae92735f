"""What a look at the installation found: a sentence each, and what to do about it."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from meterd.cli.table import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Level(StrEnum):
    """How bad it is: only a problem makes `doctor` end with 1."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `check` names what was looked at; `advice` is empty where all is well."""

    level: Level
    check: str
    message: str
    advice: str = ""


def ok(check: str, message: str) -> Finding:
    """All is well here."""
    return Finding(Level.OK, check, message)


def warning(check: str, message: str, advice: str) -> Finding:
    """Nothing is lost yet, or nothing can be done about what was."""
    return Finding(Level.WARNING, check, message, advice)


def problem(check: str, message: str, advice: str) -> Finding:
    """Something doesn't arrive, isn't counted or isn't billed."""
    return Finding(Level.PROBLEM, check, message, advice)


def finding_lines(findings: Iterable[Finding], width: int | None) -> Iterator[str]:
    """The findings for eyes, as they came; long ones are folded where a terminal limits them."""
    for finding in findings:
        mark = finding.level.value
        mark = mark if finding.level is Level.OK else mark.upper()
        yield from _folded(printable(finding.message), f"{mark:<9}", width)
        if finding.advice:
            yield from _folded(printable(finding.advice), " " * 9 + "→ ", width)


def _folded(text: str, start: str, width: int | None) -> list[str]:
    if width is None or width < 40:
        return [start + text]
    return textwrap.wrap(
        text,
        width=width,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )
