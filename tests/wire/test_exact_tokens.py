"""Our tokenizer counts as tiktoken does, from vocabularies that are what OpenAI publishes."""

from __future__ import annotations

import hashlib
import lzma
import random
import sys
import unicodedata
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public  # type: ignore[import-untyped]  # it publishes no types

from meterd_middleware import exact, vocabulary
from meterd_middleware.tokenizer import Tokenizer
from tests.wire.texts import TEXTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = pytest.mark.parametrize("name", vocabulary.NAMES)

_PACKAGE = Path(vocabulary.__file__).parent
_OURS: dict[str, Tokenizer] = {}
_THEIRS: dict[str, tiktoken.Encoding] = {}
_EXPECTED: dict[str, tuple[str, str]] = {}


@pytest.fixture(scope="module", autouse=True)
def _both() -> Iterator[None]:
    """Each tokenizer twice: tiktoken's, made of our vocabulary as it can't download its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in vocabulary.NAMES:
            ranks = {token: rank for rank, token in enumerate(vocabulary.tokens(name))}
            asked: list[str] = []

            def load(
                url: str, expected_hash: str = "", ranks: Any = ranks, asked: list[str] = asked
            ) -> Any:
                asked.append(expected_hash)
                return ranks

            patch.setattr(openai_public, "load_tiktoken_bpe", load)
            described = getattr(openai_public, name)()
            _THEIRS[name] = tiktoken.Encoding(**described)
            _EXPECTED[name] = (asked[0], described["pat_str"])
            _OURS[name] = Tokenizer(vocabulary.PATTERNS[name], ranks, lambda: None)
    yield
    for kept in (_OURS, _THEIRS, _EXPECTED):
        kept.clear()


def same(name: str, text: str) -> None:
    theirs = _THEIRS[name].encode(text, disallowed_special=())
    assert _OURS[name].count(text) == len(theirs), text[:200]


# The vocabularies


@NAMES
def test_a_vocabulary_is_what_tiktoken_would_download(name: str) -> None:
    """By its checksum; a token more or less would count every text a little wrong."""
    published = vocabulary.published(vocabulary.tokens(name))

    assert hashlib.sha256(published).hexdigest() == _EXPECTED[name][0]


@NAMES
def test_words_are_cut_where_tiktoken_cuts_them(name: str) -> None:
    assert vocabulary.PATTERNS[name] == _EXPECTED[name][1]


def test_what_is_published_can_be_packed_again() -> None:
    """How a vocabulary got into the package, and how a newer one will."""
    published = vocabulary.published(b"x" * size for size in range(1, 200))

    assert published.startswith(b"eA== 0\neHg= 1\n")
    assert lzma.decompress(vocabulary.pack(published)) == b"".join(
        bytes([size]) + b"x" * size for size in range(1, 200)
    )


def test_the_vocabularies_are_in_the_wheel(tmp_path: Path) -> None:
    """They can't be downloaded where an app runs."""
    import zipfile

    from hatchling.builders.wheel import WheelBuilder

    [built] = WheelBuilder(str(_PACKAGE.parent)).build(directory=str(tmp_path))

    with zipfile.ZipFile(built) as wheel:
        names = set(wheel.namelist())
        for name in vocabulary.NAMES:
            inside = f"meterd_middleware/vocabularies/{name}.xz"
            assert inside in names
            assert wheel.read(inside) == (_PACKAGE / "vocabularies" / f"{name}.xz").read_bytes()
    assert "meterd_middleware/py.typed" in names


def test_the_extra_brings_all_that_counting_imports() -> None:
    """`regex` comes with tiktoken: the extra names one package."""
    assert exact.is_installed()
    needed = metadata.requires("tiktoken") or []
    assert any(line.startswith("regex") for line in needed)


# The counts


@NAMES
@pytest.mark.parametrize("kind", TEXTS)
def test_texts_count_as_tiktoken_counts_them(name: str, kind: str) -> None:
    """A dozen languages, code, JSON, Markdown."""
    same(name, TEXTS[kind])


@NAMES
@pytest.mark.parametrize("file", ["exact.py", "tokenizer.py", "readers/recognise.py"])
def test_source_code_counts_as_tiktoken_counts_it(name: str, file: str) -> None:
    same(name, (_PACKAGE / file).read_text(encoding="utf-8"))


# What the newest Unicode added (17: U+323B0 and on) is a letter to `regex` and unknown to the
# tables in tiktoken, so that a piece ends elsewhere; all 150,000 that Python knows are alike.
_ASSIGNED = st.characters(exclude_categories=("Cs", "Cn"))


@NAMES
@settings(max_examples=300, deadline=None)
@given(text=st.text(_ASSIGNED, max_size=300))
def test_any_text_counts_as_tiktoken_counts_it(name: str, text: str) -> None:
    same(name, text)


@NAMES
def test_every_letter_counts_as_tiktoken_counts_it(name: str) -> None:
    """Beside others, since what it is decides where pieces end; a hundred of them at once."""
    letters = [
        letter for code in range(sys.maxunicode + 1)
        if unicodedata.category(letter := chr(code)) not in ("Cs", "Cn", "Co")
    ]  # fmt: skip
    for start in range(0, len(letters), 100):
        some = letters[start : start + 100]
        same(name, "".join(f"{letter}/A {letter}b1" for letter in some))


_PIECES = st.sampled_from(
    ["don't", "I'LL", "'s", "ſ", "K", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u2028", "123",
     "1234567", "٣٤٥", "²", "...", "--", "/", "//\n", "==", "<|endoftext|>", "Ａ", "é", "e\u0301",
     "한국어", "日本語", "中文字", "ไทย", "हिन्दी", "🙂", "👩‍👩‍👧", "\ufeff", "\x00", "ǅ", "ʰ",
     "Xy", "xY", "XML", "HTTPServer", "snake_case", "\ud800", "aaaaaaaaaaaaaaaaaaaaaaaa"]
)  # fmt: skip


@NAMES
@settings(max_examples=300, deadline=None)
@given(pieces=st.lists(_PIECES, max_size=40))
def test_odd_words_and_blanks_count_as_tiktoken_counts_them(name: str, pieces: list[str]) -> None:
    """Contractions, blanks before line ends, halves of surrogate pairs, special tokens as text."""
    same(name, "".join(pieces))


@NAMES
def test_a_very_long_word_counts_as_tiktoken_counts_it(name: str) -> None:
    """Merging is done pair by pair: a long word has many, some of them equal."""
    chance = random.Random(5)
    for letters in ("a", "ab", "abcdefghijklmnopqrstuvwxyz", "абв", "的一是"):
        same(name, "".join(chance.choice(letters) for _ in range(3_000)))


# Others get their turn


def test_loading_and_counting_offer_the_interpreter_again_and_again() -> None:
    """An event loop waits for it; who takes it then is the system's to say, and no test's."""
    offered = 0

    def offer() -> None:
        nonlocal offered
        offered += 1

    tokenizer = Tokenizer(
        vocabulary.PATTERNS["cl100k_base"], vocabulary.tokens("cl100k_base"), offer
    )
    loading = offered
    tokenizer.count(TEXTS["English"] * 50 + "x" * 20_000)

    assert loading > 20
    assert offered - loading > 20


def test_no_slice_of_work_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two turns of the others stands a bounded number of steps, whatever the text."""
    steps, longest = 0, 0

    def pause() -> None:
        nonlocal steps, longest
        longest, steps = max(longest, steps), 0

    class Counted(dict[bytes, int]):
        def get(self, *arguments: Any) -> Any:
            nonlocal steps
            steps += 1
            return super().get(*arguments)

    tokens = vocabulary.tokens("cl100k_base")
    tokenizer = Tokenizer(vocabulary.PATTERNS["cl100k_base"], tokens, pause)
    tokenizer._ranks = tuple(Counted(table) for table in tokenizer._ranks)

    for text in ("x" * 50_000, "ไทย" * 9_000, "word " * 9_000, " \n" * 9_000):
        tokenizer.count(text)

    assert 0 < longest < 2_000


@pytest.mark.parametrize(
    ("model", "is_counted", "is_older"),
    [
        ("gpt-4o-mini", True, False),
        ("openai/gpt-5.1", True, False),
        ("gpt-4-turbo", True, True),
        ("gpt-4.1", True, False),
        ("ft:gpt-3.5-turbo:acme::abc", True, True),
        ("ft:gpt-4o:acme::abc", True, False),
        ("o3", True, False),
        ("o4-mini", True, False),
        ("codex-mini-latest", True, False),
        ("text-embedding-3-small", True, True),
        ("davinci-002", True, True),
        ("claude-sonnet-5", False, False),
        ("gemini-3-pro", False, False),
        ("olmo-2", False, False),
    ],
)
def test_each_model_has_its_vocabulary(
    model: str, is_counted: bool, is_older: bool, call_of: Callable[[str], Any]
) -> None:
    """As tiktoken's own table of models says."""
    from meterd_middleware import estimate

    assert exact.takes(call_of(model)) is is_counted
    assert estimate.is_older(model) is is_older


@pytest.fixture
def call_of() -> Callable[[str], Any]:
    from meterd_middleware.request import read_request

    def made(model: str) -> Any:
        body = f'{{"model":"{model}","messages":[]}}'.encode()
        return read_request("POST", "api.openai.com", "/v1/chat/completions", "", {}, body)

    return made
