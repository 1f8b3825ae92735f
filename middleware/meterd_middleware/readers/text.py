"""Characters by script: how much generated text passed, never what it said.

    raw events ──TextCounter.take()──▶ {"latin": 1_204, "han": 80, …}

The texts are found in the raw JSON by the names of the fields that hold generated text, so
that no event is parsed for them. Counted at the end, and only where the provider's own
count is missing.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import Counter
from functools import lru_cache

from meterd_middleware.readers.counts import TextSeen

TEXT_KEPT_CHARACTERS_MAX = 256 * 1024
"""Of the text itself, kept only where an exact counter asked for it (`keep_text`)."""

_TEXT = re.compile(
    rb'"(?:content|text|reasoning_content|reasoning|thinking|partial_json|arguments|delta|refusal'
    rb'|name|response|transcript|generated_text|tool_plan|output_text|code|query)"'
    rb'\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"',
    re.DOTALL,
)

keep_text = False
"""Set by estimate.py where tiktoken is installed: the text is then counted exactly."""

_RANGES: tuple[tuple[int, int, str], ...] = (
    (0x0080, 0x024F, "accent"),
    (0x0250, 0x02FF, "other"),
    (0x0300, 0x036F, "accent"),
    (0x0370, 0x03FF, "greek"),
    (0x0400, 0x052F, "cyrillic"),
    (0x0530, 0x058F, "other"),
    (0x0590, 0x05FF, "hebrew"),
    (0x0600, 0x08FF, "arabic"),
    (0x0900, 0x0DFF, "indic"),
    (0x0E00, 0x0EFF, "thai"),
    (0x1100, 0x11FF, "hangul"),
    (0x1E00, 0x1EFF, "accent"),
    (0x1F00, 0x1FFF, "greek"),
    (0x2000, 0x2BFF, "symbol"),
    (0x3000, 0x303F, "han"),
    (0x3040, 0x30FF, "kana"),
    (0x3400, 0x9FFF, "han"),
    (0xAC00, 0xD7AF, "hangul"),
    (0xF900, 0xFAFF, "han"),
    (0xFF00, 0xFFEF, "han"),
    (0x20000, 0x3FFFF, "han"),
)


class TextCounter:
    """Counts characters by script; see the module's docstring."""

    __slots__ = ("characters", "kept")

    def __init__(self) -> None:
        self.characters: dict[str, int] = {}
        self.kept = ""

    def take(self, raw: bytes) -> None:
        """Count the generated texts in raw JSON."""
        found = _TEXT.findall(raw)
        if found:
            self.add_escaped(b"".join(found))

    def add_escaped(self, raw: bytes) -> None:
        """Count the inside of a JSON string."""
        self.add(_unescaped(raw))

    def add(self, text: str) -> None:
        """Count a text."""
        for script, number in characters_of(text).items():
            self.characters[script] = self.characters.get(script, 0) + number
        if keep_text and len(self.kept) < TEXT_KEPT_CHARACTERS_MAX:
            self.kept += text[: TEXT_KEPT_CHARACTERS_MAX - len(self.kept)]

    def assume(self, characters: int) -> None:
        """Count characters that were not looked at as if they were prose."""
        if characters > 0:
            self.characters["latin"] = self.characters.get("latin", 0) + characters

    def seen(self) -> TextSeen:
        """What was counted."""
        return TextSeen(characters=self.characters, text=self.kept)


def characters_of(text: str) -> dict[str, int]:
    """How many characters of each kind a text has: letters by script, blanks, line ends, marks.

    Digits count by groups of at most three, which is how tokenizers cut them; blanks in a row
    by pairs, since an indentation is one token however deep it is.
    """
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) == len(text):
        return _ascii_characters_of(raw, raw)
    kinds = _ascii_characters_of(raw.translate(None, _WIDE), raw)
    if not kinds["latin"]:
        del kinds["latin"]
    wide = raw.translate(None, _ASCII).decode("utf-8", "surrogatepass")
    for letter, number in Counter(wide).items():
        kind = _kind_of(letter)
        kinds[kind] = kinds.get(kind, 0) + number
    return kinds


_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ONLY_DIGITS = bytes(code if 0x30 <= code <= 0x39 else 0x20 for code in range(256))
_ASCII, _WIDE = bytes(range(128)), bytes(range(128, 256))


def _ascii_characters_of(text: bytes, whole: bytes) -> dict[str, int]:
    """The ASCII of a text; what stands beside what is told from the whole of it."""
    rest = text.translate(None, _LETTERS)
    blanks, lines = rest.count(b" ") + rest.count(b"\t"), rest.count(b"\n") + rest.count(b"\r")
    marks = len(rest.translate(None, b" \t\n\r0123456789"))
    kinds = {"latin": len(text) - len(rest)}
    if blanks:
        kinds["space"] = blanks
        _take_runs(kinds, whole.count(b"  "))
    if lines:
        kinds["line"] = lines
    if marks:
        kinds["mark"] = marks
    if len(rest) > blanks + lines + marks:
        kinds["number"] = _groups_of_digits(whole)
    return kinds


def _take_runs(kinds: dict[str, int], pairs: int) -> None:
    """Count pairs of blanks apart."""
    if pairs:
        kinds["run"] = pairs
        kinds["space"] -= 2 * pairs


def _groups_of_digits(text: bytes) -> int:
    return sum((len(run) + 2) // 3 for run in text.translate(_ONLY_DIGITS).split())


_STARTS = [first for first, _, _ in _RANGES]


@lru_cache(maxsize=8192)
def _kind_of(letter: str) -> str:
    """The script of a letter beyond ASCII."""
    code = ord(letter)
    _, last, kind = _RANGES[bisect_right(_STARTS, code) - 1]
    return kind if code <= last else "other"


def _unescaped(raw: bytes) -> str:
    """The text of a JSON string's inside; as it stands where its escapes are broken."""
    try:
        text = json.loads(b'"' + raw + b'"', strict=False)
    except ValueError:
        return raw.decode("utf-8", "replace")
    return text if isinstance(text, str) else ""
