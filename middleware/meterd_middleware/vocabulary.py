"""Vocabularies of OpenAI's tokenizers, in our wheel: they can't be downloaded at run time.

    vocabularies/NAME.xz ──tokens()──▶ each token, in order of rank
    PATTERNS             cut a text into words, none of which a token crosses

A file is xz of the tokens in order of rank, each behind one byte of its length. o200k_base
takes 0.8 MB so, cl100k_base 0.4 MB. `pack` makes one of what OpenAI publishes; a test unpacks
them, and finds the checksums and patterns that tiktoken has.

Source: tiktoken 0.14 (MIT), `tiktoken_ext/openai_public.py`.
"""

from __future__ import annotations

import base64
import lzma
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NAMES = ("o200k_base", "cl100k_base")
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERNS = {
    "o200k_base": "|".join(
        (
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}",
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        )
    ),
    "cl100k_base": "|".join(
        (
            r"'(?i:[sdmt]|ll|ve|re)",
            r"[^\r\n\p{L}\p{N}]?+\p{L}++",
            r"\p{N}{1,3}+",
            r" ?[^\s\p{L}\p{N}]++[\r\n]*+",
            r"\s++$",
            r"\s*[\r\n]",
            r"\s+(?!\S)",
            r"\s",
        )
    ),
}
"""Of each vocabulary; the first alternative that fits makes the next word."""


def tokens(name: str) -> Iterator[bytes]:
    """Each token of this vocabulary (`NAMES`), in order of rank."""
    packed = (Path(__file__).parent / "vocabularies" / f"{name}.xz").read_bytes()
    data = lzma.decompress(packed)  # lets other threads in while it works
    at, size = 0, len(data)
    while at < size:
        end = at + 1 + data[at]
        yield data[at + 1 : end]
        at = end


def pack(published: bytes) -> bytes:
    """The file made of a vocabulary as published: a line for each token, base64 and rank."""
    lines = [line.split() for line in published.splitlines() if line]
    assert [int(rank) for _, rank in lines] == list(range(len(lines)))
    tokens = [base64.b64decode(token) for token, _ in lines]
    body = b"".join(bytes([len(token)]) + token for token in tokens)
    return lzma.compress(body, preset=9 | lzma.PRESET_EXTREME)


def published(tokens: Iterable[bytes]) -> bytes:
    """What `pack` was given: for comparing its checksum."""
    return b"".join(
        b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens)
    )
