"""Letters to clients, filled in with their own figures; an agency may bring its own texts.

A template is plain text with `{names}`; what each letter knows is its dataclass here. An
agency's file of the same name (`raise.txt`, `switch.txt`) in its letters directory goes
before ours.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib.resources import files
from string import Formatter
from typing import TYPE_CHECKING

from meterd.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class RaiseLetter:
    """Raise the tier: the current retainer is below what serving the client costs."""

    month: str
    tokens: str
    cost: str
    fee: str
    plan: str
    new_fee: str
    included: str
    extras: str
    date: str

    template = "raise.txt"


@dataclass(frozen=True, slots=True)
class SwitchLetter:
    """Switch to usage-based billing: actual cost plus a management fee."""

    markup: str

    template = "switch.txt"


def written(letter: RaiseLetter | SwitchLetter, directory: Path | None = None) -> str:
    """The letter's text.

    Raises:
        InvalidRequest: the agency's own template has a name that the letter doesn't know.
    """
    text = _template(letter.template, directory)
    known = {item.name: getattr(letter, item.name) for item in fields(letter)}
    for _, name, _, _ in Formatter().parse(text):
        if name is not None and name not in known:
            raise InvalidRequest(
                f"{letter.template} has {{{name}}}, expected one of {', '.join(sorted(known))}"
            )
    return text.format_map(known).strip()


def _template(name: str, directory: Path | None) -> str:
    if directory is not None and (directory / name).is_file():
        return (directory / name).read_text(encoding="utf-8")
    return (files(__package__) / name).read_text(encoding="utf-8")
