"""Characters by kind, counted a whole text at once, are those counted one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meterd_middleware.readers.text import characters_of

_SCRIPTS = (
    (0x0080, 0x024F, "accent"), (0x0300, 0x036F, "accent"), (0x0370, 0x03FF, "greek"),
    (0x0400, 0x052F, "cyrillic"), (0x0590, 0x05FF, "hebrew"), (0x0600, 0x08FF, "arabic"),
    (0x0900, 0x0DFF, "indic"), (0x0E00, 0x0EFF, "thai"), (0x1100, 0x11FF, "hangul"),
    (0x1E00, 0x1EFF, "accent"), (0x1F00, 0x1FFF, "greek"), (0x2000, 0x2BFF, "symbol"),
    (0x3000, 0x303F, "han"), (0x3040, 0x30FF, "kana"), (0x3400, 0x9FFF, "han"),
    (0xAC00, 0xD7AF, "hangul"), (0xF900, 0xFAFF, "han"), (0xFF00, 0xFFEF, "han"),
    (0x20000, 0x3FFFF, "han"),
)  # fmt: skip
_BLANKS = {" ": "space", "\t": "space", "\n": "line", "\r": "line"}

_texts = st.text(st.sampled_from('aZ 09\t\n\r"{é漢かπя א한ー\u2028€\ud800\U00020000')) | st.text()


def _kind_of(letter: str) -> str:
    if letter.isascii():
        if letter.isalpha():
            return "latin"
        return "digit" if letter.isdigit() else _BLANKS.get(letter, "mark")
    found = (kind for first, last, kind in _SCRIPTS if first <= ord(letter) <= last)
    return next(found, "other")


def _one_by_one(text: str) -> dict[str, int]:
    kinds: dict[str, int] = {}
    for letter in text:
        kind = _kind_of(letter)
        kinds[kind] = kinds.get(kind, 0) + 1
    if pairs := text.count("  "):
        kinds["run"] = pairs
        kinds["space"] -= 2 * pairs
    if kinds.pop("digit", 0):
        digits = "".join(letter if letter in "0123456789" else " " for letter in text)
        kinds["number"] = sum((len(run) + 2) // 3 for run in digits.split())
    return kinds


@given(_texts)
def test_a_text_counts_as_its_characters_do(text: str) -> None:
    """A stream of megabytes without usage is counted while the app waits."""
    counted = {kind: number for kind, number in characters_of(text).items() if number}

    assert counted == {kind: number for kind, number in _one_by_one(text).items() if number}
