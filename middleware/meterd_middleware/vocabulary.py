"""Vocabularies of OpenAI's tokenizers, in our wheel: they can't be downloaded at run time.

    vocabularies/NAME.xz ──read()──▶ pattern that cuts a text into words, tokens in order of rank
                         ──ranks()─▶ {token: rank}, in slices, so that no other thread waits

A file is xz of one line of JSON (`pattern`, and `sha256` of the vocabulary as it was
published) and each token behind one byte of its length, in order of rank. o200k_base takes
0.8 MB so, cl100k_base 0.4 MB. `pack` makes one of what OpenAI publishes; a test unpacks them,
and finds the checksums that tiktoken expects.

Source: tiktoken 0.14 (MIT), `tiktoken_ext/openai_public.py`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import lzma
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("o200k_base", "cl100k_base")
SLICE_TOKENS = 1024
"""After so many tokens the others get their turn: a quarter of a millisecond."""


class Vocabulary(NamedTuple):
    """One tokenizer's data."""

    pattern: str
    sha256: str
    """Of the published file."""
    tokens: bytes
    """Each behind a byte of its length, in order of rank."""


def read(name: str) -> Vocabulary:
    """The vocabulary of this name (`NAMES`), from our wheel."""
    packed = (Path(__file__).parent / "vocabularies" / f"{name}.xz").read_bytes()
    head, _, tokens = lzma.decompress(packed).partition(b"\n")
    described = json.loads(head)
    return Vocabulary(described["pattern"], described["sha256"], tokens)


def ranks(vocabulary: Vocabulary, pause: Callable[[], None]) -> dict[bytes, int]:
    """Each token and its rank.

    Args:
        pause: called every `SLICE_TOKENS` tokens.
    """
    tokens = vocabulary.tokens
    found: dict[bytes, int] = {}
    at, rank, size = 0, 0, len(tokens)
    while at < size:
        end = at + 1 + tokens[at]
        found[tokens[at + 1 : end]] = rank
        at = end
        rank += 1
        if rank % SLICE_TOKENS == 0:
            pause()
    return found


def pack(published: bytes, pattern: str) -> bytes:
    """The file made of a vocabulary as published: a line for each token, base64 and rank."""
    lines = [line.split() for line in published.splitlines() if line]
    assert [int(rank) for _, rank in lines] == list(range(len(lines)))
    tokens = [base64.b64decode(token) for token, _ in lines]
    head = {"pattern": pattern, "sha256": hashlib.sha256(published).hexdigest()}
    body = b"".join(bytes([len(token)]) + token for token in tokens)
    data = json.dumps(head).encode() + b"\n" + body
    return lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)


def published(vocabulary: Vocabulary) -> bytes:
    """What `pack` was given: for comparing its checksum."""
    lines = [
        b"%s %d\n" % (base64.b64encode(token), rank)
        for token, rank in ranks(vocabulary, lambda: None).items()
    ]
    return b"".join(lines)
