"""Tokens where the provider reported none: characters by script, or exactly with tiktoken.

    request body ──input_tokens()──▶ reserve, and the input of a record without a count
    TextSeen     ──output_tokens()─▶ the floor of what an unfinished stream is billed for

The rule divides the characters of each script by what o200k makes of a token of it; its error
against tiktoken over prose, code, JSON and a dozen languages is stated in
docs/estimates.md. Base64 is never counted as text: a picture counts what pictures cost.

Sources: OpenAI's cookbook, "How to count tokens" (3 a message, 3 for the reply); Anthropic
and Google, token counting.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meterd_middleware.readers.text import TextCounter, characters_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from meterd_middleware.readers.counts import TextSeen
    from meterd_middleware.request import ProviderCall

COUNTED_BYTES_MAX = 64 * 1024
"""Of a request's text, how much is looked at; the rest is taken to be alike (0.3 ms)."""

IMAGE_TOKENS = 1_100
"""A picture of about a megapixel, as GPT, Claude and Gemini bill it within 35 %."""

TOKENS_A_MESSAGE = 4
TOKENS_A_REPLY = 3
TOKENS_A_TOOL = 12

_HUNDRED_CHARACTERS: Mapping[str, float] = {
    "latin": 20.2,
    "mark": 63.0,
    "cyrillic": 26.8,
    "greek": 38.5,
    "hebrew": 42.0,
    "arabic": 40.5,
    "indic": 30.7,
    "thai": 48.5,
    "hangul": 69.5,
    "han": 87.0,
    "kana": 83.0,
    "symbol": 60.0,
    "other": 75.0,
}
"""Tokens of o200k_base a hundred characters of each script; spaces are latin's."""

_FACTORS: Mapping[str, float] = {"anthropic": 1.2, "aws.bedrock": 1.15, "mistral_ai": 1.1}
"""How many more tokens a provider's own tokenizer makes of the same text."""

_INPUT_TEXT = re.compile(
    rb'"(?:content|text|input|prompt|system|instructions|message|query|arguments|name'
    rb'|description|output|thinking|input_text|suffix|preamble)"'
    rb'\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*)"',
    re.DOTALL,
)
_ROLE = re.compile(rb'"role"\s*:')
_PROPERTY = re.compile(rb'"type"\s*:\s*"(?:string|integer|number|boolean|array|object)"')
_FUNCTION = re.compile(rb'"(?:function|input_schema|parameters|functionDeclarations)"\s*:')
_IMAGE = re.compile(
    rb'"(?:image_url|inline_?[dD]ata|file_?[dD]ata)"\s*:|"type"\s*:\s*"(?:image|input_image)"'
)
_WHOLE_BODY = frozenset({"oa.embeddings", "vertex.predict"})


def input_tokens(call: ProviderCall, body: bytes | None) -> int:
    """What a request's body will count as input, about; 0 where there is no body to look at."""
    if not body or (call.operation in ("transcription", "speech") and not body.startswith(b"{")):
        return 0
    text, images = _without_base64(body)
    factor = _FACTORS.get(call.provider, 1.0)
    looked_at = text
    if len(text) > COUNTED_BYTES_MAX:
        # The cut may fall into a string, often the only one: it is closed to be found.
        looked_at = text[:COUNTED_BYTES_MAX].rstrip(b"\\") + b'"'
    if call.dialect in _WHOLE_BODY or call.operation == "embeddings":
        tokens = _tokens_of(characters_of(looked_at.decode("utf-8", "replace")))
    else:
        tokens = _chat_tokens(looked_at)
    if len(text) > len(looked_at):
        tokens = tokens * len(text) / len(looked_at)
    return round(tokens * factor) + images * IMAGE_TOKENS


def output_tokens(seen: TextSeen, call: ProviderCall) -> int:
    """What the text that passed counts as output: the floor of what is billed.

    Hidden reasoning, and what was generated after the app left, is billed too and can't be
    seen.
    """
    if not seen.characters:
        return 0
    tokens = _tokens_of(seen.characters) * _FACTORS.get(call.provider, 1.0)
    return max(1, round(tokens))


def _chat_tokens(text: bytes) -> float:
    found = _INPUT_TEXT.findall(text)
    counter = TextCounter()
    if found:
        counter.add_escaped(b" ".join(found))
    tokens = _tokens_of(counter.characters) + TOKENS_A_REPLY
    tokens += len(_ROLE.findall(text)) * TOKENS_A_MESSAGE
    if b'"tools"' in text or b'"functions"' in text:
        tokens += len(_FUNCTION.findall(text)) * TOKENS_A_TOOL
        tokens += len(_PROPERTY.findall(text)) * TOKENS_A_MESSAGE
    return tokens


def _tokens_of(characters: Mapping[str, int]) -> float:
    return (
        sum(number * _HUNDRED_CHARACTERS.get(script, 75.0) for script, number in characters.items())
        / 100
    )


_BASE64_BYTES_MIN = 512


def _without_base64(body: bytes) -> tuple[bytes, int]:
    """The body without its base64, and how many pictures it holds."""
    kept, images = [], 0
    start = 0
    for first, last in _base64_runs(body):
        kept.append(body[start:first])
        start = last
        images += 1
    text = body[start:] if not kept else b"".join((*kept, body[start:]))
    linked = len(_IMAGE.findall(text[: 4 * COUNTED_BYTES_MAX])) if b"ima" in text else 0
    return text, max(images, linked)


def _base64_runs(body: bytes) -> Iterator[tuple[int, int]]:
    """Where long base64 strings stand, found by what precedes them; each searched once."""
    for mark in (b"base64,", b'"data":"', b'"data": "'):
        if mark in body:
            at = body.find(mark)
            while at >= 0:
                first = at + len(mark)
                last = body.find(b'"', first)
                if last < 0:
                    return
                if last - first >= _BASE64_BYTES_MIN:
                    yield first, last
                at = body.find(mark, last)
            return
