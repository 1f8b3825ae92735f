"""Characters by script: how much generated text passed, never what it said.

    raw events ──TextCounter.take()──▶ {"latin": 1_204, "han": 80, …}

The texts are found in the raw JSON by the names of the fields that hold generated text, so
that no event is parsed for them. Counted at the end, and only where the provider's own
count is missing.
"""

from __future__ import annotations

import json
import re
from collections import Counter

from meterd_middleware.readers.counts import TextSeen

TEXT_KEPT_CHARACTERS_MAX = 256 * 1024
"""Of the text itself, kept only where an exact counter asked for it (`keep_text`)."""

_TEXT = re.compile(
    rb'"(?:content|text|reasoning_content|reasoning|thinking|partial_json|arguments|delta|refusal'
    rb'|name|response|transcript|generated_text|tool_plan|output_text|code|query)"'
    rb'\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*)"',
    re.DOTALL,
)

keep_text = False
"""Set by estimate.py where tiktoken is installed: the text is then counted exactly."""

_RANGES: tuple[tuple[int, int, str], ...] = (
    (0x0080, 0x024F, "latin"),
    (0x0250, 0x036F, "other"),
    (0x0370, 0x03FF, "greek"),
    (0x0400, 0x052F, "cyrillic"),
    (0x0530, 0x058F, "other"),
    (0x0590, 0x05FF, "hebrew"),
    (0x0600, 0x08FF, "arabic"),
    (0x0900, 0x0DFF, "indic"),
    (0x0E00, 0x0EFF, "thai"),
    (0x1100, 0x11FF, "hangul"),
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
    """How many characters of each script a text has; digits and marks by themselves."""
    if text.isascii():
        marks = len(text.encode("ascii").translate(None, _LETTERS_AND_SPACE))
        return {"latin": len(text) - marks, "mark": marks} if marks else {"latin": len(text)}
    by_script: dict[str, int] = {}
    for letter, number in Counter(text).items():
        script = _script_of(letter)
        by_script[script] = by_script.get(script, 0) + number
    return by_script


_LETTERS_AND_SPACE = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ \t\r\n"


def _script_of(letter: str) -> str:
    code = ord(letter)
    if code < 0x80:
        return "latin" if letter.isalpha() or letter.isspace() else "mark"
    for first, last, script in _RANGES:
        if first <= code <= last:
            return script
    return "other"


def _unescaped(raw: bytes) -> str:
    """The text of a JSON string's inside; as it stands where its escapes are broken."""
    try:
        text = json.loads(b'"' + raw + b'"', strict=False)
    except ValueError:
        return raw.decode("utf-8", "replace")
    return text if isinstance(text, str) else ""
