"""One table of `meterd.toml`, read field by field; what is wrong is noted, never raised.

A `Table` hands out values already checked. A field that is wrong is noted with its line and
answered with its default, so that reading goes on and every mistake of the file is found at
once. `done()` notes what nobody asked for: a key with a typing error is not a silent no-op.
"""

from __future__ import annotations

from decimal import Decimal
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from meterd.config import amounts
from meterd.config.agency import BEGINNING
from meterd.errors import Mistake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import date

    from meterd.config.lines import Path

Value = TypeVar("Value")
Choice = TypeVar("Choice", bound=StrEnum)

TEXT_CHARACTERS_MAX = 2_000

# Names are spelt with them: a non-joiner in Persian, joiners in Hindi and in emoji, marks of
# direction between Hebrew and Latin. What overrides a direction (U+202A to U+202E) isn't here.
_INVISIBLE_LETTERS = frozenset("\u200c\u200d\u200e\u200f")


class Notes:
    """What was found wrong, and what is only strange, each with its line."""

    def __init__(self, lines: Mapping[Path, int]) -> None:
        self._lines = lines
        self._broken: set[Path] = set()
        self.mistakes: list[Mistake] = []
        self.warnings: list[Mistake] = []

    def mistake(self, path: Path, message: str) -> None:
        """Something that must be put right before the file can be applied."""
        if not any(path[:length] in self._broken for length in range(1, len(path) + 1)):
            self.mistakes.append(Mistake(self.line(path), field_name(path), message))

    def broken(self, path: Path, message: str) -> None:
        """Something that isn't even what it should be: what is missing in it is not said too."""
        self.mistake(path, message)
        self._broken.add(path)

    def warning(self, path: Path, message: str) -> None:
        """Something that is applied, but that a careful reader would ask about."""
        self.warnings.append(Mistake(self.line(path), field_name(path), message))

    def has(self, path: Path) -> bool:
        """Whether a mistake was noted for exactly this field."""
        name = field_name(path)
        return any(mistake.field == name for mistake in self.mistakes)

    def line(self, path: Path) -> int:
        """The line of a path, or of the nearest table around it; 0 for the file."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 0)


class Table:
    """A table of the file, at its path, with the names that were asked of it."""

    def __init__(self, values: Mapping[str, object], path: Path, notes: Notes) -> None:
        self._values = values
        self.path = path
        self.notes = notes
        self._asked: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether the file sets this field."""
        self._asked.add(name)
        return name in self._values

    def is_list(self, name: str) -> bool:
        """Whether the field is an array."""
        return isinstance(self._values.get(name), list)

    def is_table(self, name: str) -> bool:
        """Whether the field is a table."""
        return isinstance(self._values.get(name), dict)

    def names(self) -> list[str]:
        """Every key, where keys are names that the agency gives."""
        return list(self._values)

    def mistake(self, name: str, message: str) -> None:
        """Note a mistake in one of the table's fields; in the table itself for ""."""
        self.notes.mistake((*self.path, name) if name else self.path, message)

    def warning(self, name: str, message: str) -> None:
        """Note something strange about one of the table's fields."""
        self.notes.warning((*self.path, name), message)

    def read(self, name: str, parse: Callable[[object], Value]) -> Value | None:
        """The field as `parse` reads it; None where it is not set, or wrong and noted."""
        if not self.has(name):
            return None
        try:
            return parse(self._values[name])
        except ValueError as error:
            self.mistake(name, str(error))
            return None

    def text(self, name: str) -> str:
        """A string on one or several lines, without control characters; empty by default."""
        return self.read(name, text) or ""

    def amount(self, name: str, currency: str) -> Decimal:
        """Money in the agency's currency; nothing by default."""
        return self.read(name, lambda value: amounts.amount(value, currency)) or Decimal(0)

    def rate(self, name: str) -> Decimal | None:
        """A price for a number of tokens or uses."""
        return self.read(name, amounts.rate)

    def tokens(self, name: str) -> int | None:
        """A number of tokens."""
        return self.read(name, amounts.tokens)

    def percent(self, name: str, least: int, most: int) -> Decimal | None:
        """A percentage, as a fraction."""
        return self.read(name, lambda value: amounts.percent(value, least, most))

    def day(self, name: str) -> date:
        """A local day; the beginning by default."""
        return self.read(name, amounts.day) or BEGINNING

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number within bounds."""
        found = self.read(name, lambda value: whole(value, least, most))
        return default if found is None else found

    def flag(self, name: str) -> bool:
        """True or false; false by default."""
        return self.read(name, flag) or False

    def choice(self, name: str, default: Choice) -> Choice:
        """One of a closed set of words; what isn't one is noted with the nearest."""
        return self.read(name, one_of(type(default))) or default

    def texts(self, name: str) -> tuple[str, ...]:
        """An array of strings; empty by default."""
        return self.read(name, texts) or ()

    def table(self, name: str) -> Table:
        """A table inside; empty where it is not set or is none."""
        self._asked.add(name)
        inner = self._values.get(name, {})
        if not isinstance(inner, dict):
            path = (*self.path, name)
            self.notes.broken(path, f"is no table; write it as [{field_name(path)}]")
            inner = {}
        return Table(inner, (*self.path, name), self.notes)

    def tables(self, name: str) -> list[Table]:
        """The tables of an array of tables."""
        self._asked.add(name)
        found = self._values.get(name, [])
        path = (*self.path, name)
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            self.mistake(name, f"is no list of tables; begin each with [[{field_name(path)}]]")
            return []
        return [Table(item, (*path, index), self.notes) for index, item in enumerate(found)]

    def done(self, hints: Mapping[str, str] | None = None) -> None:
        """Note every key that nobody asked for, with the name that was probably meant."""
        for name in self._values:
            if name not in self._asked:
                self.mistake(name, f"there is no such setting{self._hint(name, hints or {})}")

    def _hint(self, name: str, hints: Mapping[str, str]) -> str:
        if name in hints:
            return f": {hints[name]}"
        return nearest(name, self._asked)


def field_name(path: Path) -> str:
    """A path as people write it: clients.acme-corp.contracts[1].markup, counted from 1."""
    name = ""
    for step in path:
        name += f"[{step + 1}]" if isinstance(step, int) else f".{step}" if name else step
    return name


def nearest(word: str, known: Iterable[str]) -> str:
    """A clause that names the known word nearest to one mistyped; empty if none is near."""
    matches = get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def text(value: object) -> str:
    """A string without control characters."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text; write it in quotes")
    if len(value) > TEXT_CHARACTERS_MAX:
        raise ValueError(f"has {len(value)} characters, at most {TEXT_CHARACTERS_MAX} are allowed")
    allowed = _INVISIBLE_LETTERS | {"\n"}
    if any(not character.isprintable() and character not in allowed for character in value):
        raise ValueError("has control characters")
    return value


def texts(value: object) -> tuple[str, ...]:
    """A list of strings."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError('is no list of strings; write it as ["one", "two"]')
    return tuple(value)


def whole(value: object, least: int, most: int) -> int:
    """A whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is no whole number")
    if not least <= value <= most:
        raise ValueError(f"{value} is out of range; it lies between {least} and {most}")
    return value


def flag(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def one_of(kind: type[Choice]) -> Callable[[object], Choice]:
    """The reader of a closed set's words."""

    def parse(value: object) -> Choice:
        known = [str(choice) for choice in kind]
        if value not in known:
            listed = ", ".join(f'"{choice}"' for choice in known)
            raise ValueError(f"{value!r} is none of {listed}{nearest(str(value), known)}")
        return kind(str(value))

    return parse
