"""Tokens where the provider reported none: characters by kind, or exactly with tiktoken.

    request body ──rough_input_tokens()─▶ reserve        a few samples, 14 µs
                 ──input_tokens()───────▶ the input of a record without a count
    TextSeen     ──output_tokens()──────▶ the floor of what an unfinished stream is billed for

The rule gives each kind of character a share of a token, fitted to o200k and cl100k; its error
over prose, code, JSON and pictures is stated in docs/estimates.md. Of a text beyond 16 KiB
samples are taken, and a body beyond 64 KiB isn't searched for its texts, so that none of any
size holds the app up for a millisecond. Base64 is never counted as text: a picture counts
what pictures cost (pictures.py).

On the thread of `exact.py` the same questions are answered by counting.

Sources: OpenAI's cookbook, "How to count tokens" (3 a message, 3 for the reply); Anthropic
and Google, token counting.
"""

from __future__ import annotations

import re
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

from meterd_middleware import pictures
from meterd_middleware.readers.text import TextCounter, characters_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meterd_middleware.readers.counts import TextSeen
    from meterd_middleware.request import ProviderCall

SEARCHED_BYTES_MAX = 64 * 1024
"""Of a request's body, how much is searched for its texts; of a larger one samples are taken."""

COUNTED_BYTES_MAX = 16 * 1024
"""Of the texts found, how much is looked at whole."""

TOKENS_A_MESSAGE = 4
TOKENS_A_REPLY = 3
TOKENS_A_TOOL = 12


class Counter(Protocol):
    """Counts instead of reckoning; None: not this one."""

    def input_tokens(self, call: ProviderCall, body: bytes) -> int | None:
        """The tokens of a request."""
        ...

    def output_tokens(self, seen: TextSeen, call: ProviderCall) -> int | None:
        """The tokens of the text that passed."""
        ...


class _OnThisThread(threading.local):
    counter: Counter | None = None


on_this_thread = _OnThisThread()
"""Set by exact.py on its own thread alone, where there is time to count."""

Shares = dict[str, float]

_O200K: Shares = {
    "latin": 19.7,
    "space": 30.0,
    "run": 6.5,
    "line": 28.5,
    "number": 148.0,
    "mark": 55.0,
    "accent": 59.0,
    "cyrillic": 24.8,
    "greek": 34.7,
    "hebrew": 36.6,
    "arabic": 30.0,
    "indic": 32.5,
    "thai": 41.0,
    "hangul": 67.8,
    "han": 71.4,
    "kana": 76.1,
    "symbol": 70.0,
    "other": 60.0,
}
"""Tokens of o200k_base a hundred characters of each kind."""

_CL100K: Shares = {
    "latin": 19.4,
    "space": 37.0,
    "run": 8.5,
    "line": 26.5,
    "number": 150.0,
    "mark": 52.0,
    "accent": 166.0,
    "cyrillic": 43.6,
    "greek": 96.3,
    "hebrew": 110.7,
    "arabic": 80.5,
    "indic": 120.1,
    "thai": 95.8,
    "hangul": 115.1,
    "han": 105.6,
    "kana": 110.4,
    "symbol": 65.0,
    "other": 190.0,
}
"""The same of cl100k_base: GPT-4 and 3.5, and OpenAI's embeddings."""

_OLDER = re.compile(
    r"(?:.*/)?(?:ft:)?(?:gpt-4(?![o.])|gpt-3\.5|gpt-35|text-embedding|(?:davinci|babbage)-002)"
)
_FACTORS: Mapping[str, float] = {"anthropic": 1.2, "aws.bedrock": 1.15, "mistral_ai": 1.1}
"""How many more tokens a provider's own tokenizer makes of the same text."""

_INPUT_TEXT = re.compile(
    rb'"(?:content|text|input|prompt|system|instructions|message|query|arguments|name'
    rb'|description|output|thinking|input_text|suffix|preamble)"'
    rb'\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)',
    re.DOTALL,
)
_ROLE = re.compile(rb'"role"\s*:')
_PROPERTY = re.compile(rb'"type"\s*:\s*"(?:string|integer|number|boolean|array|object)"')
_FUNCTION = re.compile(rb'"(?:function|input_schema|parameters|functionDeclarations)"\s*:')
_IMAGE = re.compile(
    rb'"(?:image_url|inline_?[dD]ata|file_?[dD]ata)"\s*:|"type"\s*:\s*"(?:image|input_image)"'
)
_WHOLE_BODY = frozenset({"oa.embeddings", "vertex.predict"})


def is_older(model: str) -> bool:
    """Whether OpenAI's older tokenizer, cl100k, counts for this model."""
    return _OLDER.match(model) is not None


def rough_input_tokens(call: ProviderCall, body: bytes) -> int:
    """What a body will count as input, from a few samples: for a reservation."""
    if _says_nothing(call, body):
        return 0
    return round(_sampled(call, body, _samples_of(body, _ROUGH_SAMPLES)))


def input_tokens(call: ProviderCall, body: bytes | None) -> int:
    """What a request's body will count as input, about; 0 where there is no body to look at."""
    if not body or _says_nothing(call, body):
        return 0
    counter = on_this_thread.counter
    if counter is not None and (counted := counter.input_tokens(call, body)) is not None:
        return counted
    images = 0
    if len(body) > SEARCHED_BYTES_MAX:
        samples = _samples_of(body)
        if not samples.pictures:
            return round(_sampled(call, body, samples))
    body, images = without_base64(call, body)
    if len(body) > SEARCHED_BYTES_MAX:
        return images + round(_sampled(call, body, _samples_of(body)))
    shares, factor = _shares(call)
    if call.dialect in _WHOLE_BODY or call.operation == "embeddings":
        tokens = _text_tokens(body, shares)
    else:
        tokens = _chat_tokens(body, shares)
    return images + round(tokens * factor)


def output_tokens(seen: TextSeen, call: ProviderCall) -> int:
    """What the text that passed counts as output: the floor of what is billed.

    Hidden reasoning, and what was generated after the app left, is billed too and can't be
    seen.
    """
    if not seen.characters:
        return 0
    counter = on_this_thread.counter
    if counter is not None and (counted := counter.output_tokens(seen, call)) is not None:
        return max(1, counted)
    shares, factor = _shares(call)
    return max(1, round(_tokens_of(seen.characters, shares) * factor))


def _says_nothing(call: ProviderCall, body: bytes) -> bool:
    """A form, of which the audio is what counts."""
    return call.operation in ("transcription", "speech") and not body.startswith(b"{")


def _shares(call: ProviderCall) -> tuple[Shares, float]:
    shares = _CL100K if _OLDER.match(call.request_model) else _O200K
    return shares, _FACTORS.get(call.provider, 1.0)


def _chat_tokens(text: bytes, shares: Shares) -> float:
    tokens = _text_tokens(b" ".join(_INPUT_TEXT.findall(text)), shares) + TOKENS_A_REPLY
    tokens += len(_ROLE.findall(text)) * TOKENS_A_MESSAGE
    if b'"tools"' in text or b'"functions"' in text:
        tokens += len(_FUNCTION.findall(text)) * TOKENS_A_TOOL
        tokens += len(_PROPERTY.findall(text)) * TOKENS_A_MESSAGE
    return tokens


def _text_tokens(text: bytes, shares: Shares) -> float:
    """Tokens of a text as JSON spells it."""
    if len(text) <= COUNTED_BYTES_MAX:
        counter = TextCounter()
        counter.add_escaped(text)
        return _tokens_of(counter.characters, shares)
    samples = _samples_of(text)
    texts = samples.texts or samples.pictures  # a text like base64 is a text here
    return _tokens_like(texts, len(text), shares)


def _tokens_of(characters: Mapping[str, int], shares: Shares) -> float:
    return sum(number * shares.get(kind, 75.0) for kind, number in characters.items()) / 100


# Samples.

_SAMPLES, _ROUGH_SAMPLES = 67, 6
"""How many; a prime, so that they don't all fall on the same places of a text that repeats."""
_SAMPLE_BYTES = 256
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
_PICTURE_BYTES = 700_000
"""Of base64 in a row, how much is taken to be one picture where none is looked at."""


class _Samples(NamedTuple):
    """Pieces of a body at equal distances, those of base64 apart."""

    texts: list[bytes]
    pictures: list[bytes]
    runs: int
    """How often base64 begins, from piece to piece."""


def _samples_of(body: bytes, samples: int = _SAMPLES) -> _Samples:
    step = max(len(body) // samples, 1)
    texts: list[bytes] = []
    pictured: list[bytes] = []
    runs, was_picture = 0, False
    for at in range(step // 2, len(body), step):
        piece = body[max(at - _SAMPLE_BYTES // 2, 0) : at + _SAMPLE_BYTES // 2]
        is_picture = len(piece) > 64 and len(piece.translate(None, _BASE64)) * 50 < len(piece)
        (pictured if is_picture else texts).append(piece)
        runs += is_picture and not was_picture
        was_picture = is_picture
    return _Samples(texts, pictured, runs)


def _sampled(call: ProviderCall, body: bytes, samples: _Samples) -> float:
    """Tokens of a body, from pieces of it."""
    shares, factor = _shares(call)
    texts, pictured, runs = samples
    text_bytes = len(body) * len(texts) / (len(texts) + len(pictured))
    tokens = _tokens_like(texts, text_bytes, shares) * factor if texts else 0.0
    images = max(runs, round((len(body) - text_bytes) / _PICTURE_BYTES)) if runs else 0
    return tokens + images * pictures.UNSEEN_TOKENS


def _tokens_like(pieces: list[bytes], size: float, shares: Shares) -> float:
    """Tokens of so many bytes of which these are pieces."""
    tokens = _tokens_of(characters_of(_plain(b"".join(pieces))), shares)
    return tokens * size / sum(map(len, pieces))


def _plain(piece: bytes) -> str:
    """A piece of JSON with what its escapes stand for, where those are letters or line ends."""
    text = piece.decode("utf-8", "ignore")
    if "\\" not in text:
        return text
    if "\\u" in text:
        parts = _ESCAPED.split(text)
        parts[1::2] = map(_letter_of, parts[1::2])
        text = "".join(parts)
    return text.replace("\\n", "\n").replace('\\"', '"')


@lru_cache(maxsize=8192)
def _letter_of(digits: str) -> str:
    return chr(int(digits, 16))


# Pictures.

_BASE64_BYTES_MIN = 512
_BASE64_MARKS = (b"base64,", b'"data":"', b'"data": "')
_PICTURE_WITHIN = 256 * 1024
"""A body whose first picture comes later than this is sampled."""
_PICTURES_MAX = 64
_LOW_DETAIL = re.compile(rb'"detail"\s*:\s*"low"')


def without_base64(call: ProviderCall, body: bytes) -> tuple[bytes, int]:
    """The body without its base64, and how many tokens its pictures count."""
    kept: list[bytes] = []
    found: list[tuple[int, int] | None] = []
    start = 0
    for mark in _BASE64_MARKS:
        at = body.find(mark, 0, _PICTURE_WITHIN)
        while at >= 0 and len(found) < _PICTURES_MAX:
            first = at + len(mark)
            last = body.find(b'"', first)
            if last < 0:
                break
            if last - first >= _BASE64_BYTES_MIN:
                kept.append(body[start:first])
                found.append(pictures.size_of(body[first : first + pictures.HEAD_CHARACTERS]))
                start = last
            at = body.find(mark, last, last + _PICTURE_WITHIN)
        if found:
            break
    text = b"".join((*kept, body[start:])) if kept else body
    looked_at = text[: 4 * SEARCHED_BYTES_MAX]
    linked = len(_IMAGE.findall(looked_at)) if b"ima" in looked_at else 0
    found += [None] * (min(linked, _PICTURES_MAX) - len(found))
    if not found:
        return text, 0
    is_low = _LOW_DETAIL.search(looked_at) is not None
    model, provider = call.request_model, call.provider
    return text, sum(pictures.tokens_of(model, provider, size, is_low=is_low) for size in found)
