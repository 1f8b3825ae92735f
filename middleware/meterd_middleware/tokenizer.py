"""Counting tokens as OpenAI's tokenizers do, in slices that hold nobody up.

    text ─ pattern ─▶ words ─ in the vocabulary? one ─▶ count
                            └ else merged pair by pair, lowest rank first

tiktoken itself is written in Rust, and holds the interpreter while it builds its tables: 200
to 500 ms in which no event loop turns. Counting needs no ids, most words are one token and the
others are remembered, so it can be done here, letting others in after every half millisecond.
The counts are the same: tests compare them.

Source: tiktoken 0.14, `_educational.py`.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TOKENS_A_SLICE = 512
WORDS_A_SLICE = 128
MERGES_A_SLICE = 64
WORDS_REMEMBERED_MAX = 50_000
WORD_BYTES_REMEMBERED_MAX = 64


def compiled(pattern: str) -> Any:
    """The pattern, compiled once. The first call imports `regex`, 7 ms that nothing can cut up."""
    import regex  # type: ignore[import-untyped]  # its stubs are a package of their own

    return regex.compile(pattern)  # it remembers what it compiled


def _tables(tokens: Iterable[bytes], pause: Callable[[], None]) -> tuple[dict[bytes, int], ...]:
    """Each token's rank, in a table for each last byte.

    One table of all would take 8 ms each time it grows, in which nobody is let in.
    """
    tables: tuple[dict[bytes, int], ...] = tuple({} for _ in range(256))
    for rank, token in enumerate(tokens):
        tables[token[-1]][token] = rank
        if rank % TOKENS_A_SLICE == 0:
            pause()
    return tables


class Tokenizer:
    """Counts the tokens of texts by one vocabulary.

    Args:
        pattern: cuts a text into words, none of which a token crosses.
        tokens: all of them, in order of rank.
        pause: called after every slice of work.
    """

    def __init__(self, pattern: str, tokens: Iterable[bytes], pause: Callable[[], None]) -> None:
        self._words = compiled(pattern)
        self._ranks = _tables(tokens, pause)
        self._pause = pause
        self._known: dict[bytes, int] = {}

    def count(self, text: str) -> int:
        """How many tokens the text is; special tokens in it are text."""
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, as tiktoken mends it
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ranks, known = self._ranks, self._known
        tokens = 0
        for words, found in enumerate(self._words.finditer(text), 1):
            word = found.group().encode()
            number = known.get(word)
            if number is None:
                number = 1 if word in ranks[word[-1]] else self._merged(word)
                if len(word) <= WORD_BYTES_REMEMBERED_MAX:
                    if len(known) >= WORDS_REMEMBERED_MAX:
                        known.clear()
                    known[word] = number
            tokens += number
            if words % WORDS_A_SLICE == 0:
                self._pause()
        return tokens

    def _merged(self, word: bytes) -> int:
        """How many tokens a word is that isn't one: pairs are merged, the lowest rank first."""
        size = len(word)
        ends = list(range(1, size + 1))  # of the part that begins here; 0: it begins none
        starts = list(range(-1, size))  # of the part before the one that begins here
        pairs: list[tuple[int, int, int, int]] = []
        for at in range(size - 1):
            self._offer(pairs, word, at, at + 1, at + 2)
            if at % MERGES_A_SLICE == MERGES_A_SLICE - 1:
                self._pause()
        parts, merges = size, 0
        while pairs:
            _, left, middle, end = heapq.heappop(pairs)
            merges += 1
            if merges % MERGES_A_SLICE == 0:
                self._pause()
            if ends[left] != middle or ends[middle] != end:
                continue  # one of the two has been merged since
            ends[left], ends[middle] = end, 0
            parts -= 1
            if end < size:
                starts[end] = left
                self._offer(pairs, word, left, end, ends[end])
            before = starts[left]
            if before >= 0:
                self._offer(pairs, word, before, left, end)
        return parts

    def _offer(
        self, pairs: list[tuple[int, int, int, int]], word: bytes, left: int, middle: int, end: int
    ) -> None:
        rank = self._ranks[word[end - 1]].get(word[left:end])
        if rank is not None:
            heapq.heappush(pairs, (rank, left, middle, end))
