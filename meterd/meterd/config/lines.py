"""Where each key of a TOML file stands, for messages that name the line.

`tomllib` gives values without places, so this walks a text that `tomllib` has accepted and
notes the line on which every key, table and array element begins. Since the text is known
to be valid TOML, it only steps over what it needs not understand and checks nothing.
"""

from __future__ import annotations

import tomllib

Path = tuple[str | int, ...]

_BLANK = " \t\r\n,"
_ENDS_BARE_KEY = " \t.=]"
_ENDS_SCALAR = ",]}\n#"


def lines_of(text: str) -> dict[Path, int]:
    """The line, from 1, on which each path of a valid TOML text first stands.

    A path is as in the parsed value: table keys as strings, array positions as integers.
    """
    scanner = _Scanner(text)
    scanner.scan()
    return scanner.lines


class _Scanner:
    """A cursor over the text; every method leaves it behind what it stepped over."""

    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n") + "\n"
        self.at = 0
        self.line = 1
        self.lines: dict[Path, int] = {}
        self.tables_seen: dict[Path, int] = {}

    def scan(self) -> None:
        table: Path = ()
        while self._skip_blanks():
            if self._peek("[["):
                table = self._header(2)
            elif self._peek("["):
                table = self._header(1)
            else:
                self._pair(table)

    def _header(self, brackets: int) -> Path:
        line = self.line
        self._advance(brackets)
        keys = self._dotted_key("]")
        self._advance(brackets)
        path = self._resolved(keys if brackets == 1 else keys[:-1])
        if brackets == 2:
            path = (*path, keys[-1])
            self._note(path, line)
            position = self.tables_seen.get(path, 0)
            self.tables_seen[path] = position + 1
            path = (*path, position)
        self._note(path, line)
        return path

    def _resolved(self, keys: list[str]) -> Path:
        """A header's keys as a path: where one names an array of tables, its last is meant."""
        path: Path = ()
        for key in keys:
            path = (*path, key)
            if path in self.tables_seen:
                path = (*path, self.tables_seen[path] - 1)
        return path

    def _pair(self, table: Path) -> None:
        line = self.line
        path = table
        for key in self._dotted_key("="):
            path = (*path, key)
            self._note(path, line)
        self._advance(1)
        self._value(path)

    def _value(self, path: Path) -> None:
        self._skip_spaces()
        self._note(path, self.line)
        if self.text[self.at] in "\"'":
            self._string()
        elif self._peek("["):
            self._array(path)
        elif self._peek("{"):
            self._inline_table(path)
        else:
            while self.text[self.at] not in _ENDS_SCALAR:
                self._advance(1)

    def _array(self, path: Path) -> None:
        self._advance(1)
        position = 0
        while self._skip_blanks() and not self._peek("]"):
            self._value((*path, position))
            position += 1
        self._advance(1)

    def _inline_table(self, path: Path) -> None:
        self._advance(1)
        while self._skip_blanks() and not self._peek("}"):
            self._pair(path)
        self._advance(1)

    def _dotted_key(self, end: str) -> list[str]:
        keys: list[str] = []
        while True:
            self._skip_spaces()
            if self._peek(end):
                return keys
            if self._peek("."):
                self._advance(1)
            elif self.text[self.at] in "\"'":
                keys.append(self._string())
            else:
                start = self.at
                while self.text[self.at] not in _ENDS_BARE_KEY:
                    self._advance(1)
                keys.append(self.text[start : self.at])

    def _string(self) -> str:
        """Step over a string of any of the four kinds; its value is read by tomllib."""
        start = self.at
        quote = self.text[self.at]
        fence = quote * 3 if self._peek(quote * 3) else quote
        self._advance(len(fence))
        while not self._peek(fence):
            self._advance(2 if quote == '"' and self._peek("\\") else 1)
        self._advance(len(fence))
        while len(fence) == 3 and self._peek(quote):  # up to two quotes may end the contents
            self._advance(1)
        literal = self.text[start : self.at]
        return str(tomllib.loads(f"value = {literal}")["value"])

    def _skip_blanks(self) -> bool:
        """Step over blanks, commas and comments; False at the end of the text."""
        while self.at < len(self.text):
            if self._peek("#"):
                while not self._peek("\n"):
                    self._advance(1)
            elif self.text[self.at] in _BLANK:
                self._advance(1)
            else:
                return True
        return False

    def _skip_spaces(self) -> None:
        while self.text[self.at] in " \t":
            self._advance(1)

    def _peek(self, expected: str) -> bool:
        return self.text.startswith(expected, self.at)

    def _advance(self, count: int) -> None:
        self.line += self.text.count("\n", self.at, self.at + count)
        self.at += count

    def _note(self, path: Path, line: int) -> None:
        self.lines.setdefault(path, line)
