"""Estimates: by characters and script, within a stated error; pictures by the piece."""

from __future__ import annotations

import base64
import json

import pytest

from meterd_middleware import estimate
from meterd_middleware.readers.counts import TextSeen
from meterd_middleware.readers.text import characters_of
from meterd_middleware.request import ProviderCall, read_request


def call_of(body: bytes, path: str = "/v1/chat/completions") -> ProviderCall:
    call = read_request("POST", "api.openai.com", path, "", {}, body)
    assert call is not None
    return call


def input_of(content: object, **more: object) -> int:
    messages = [{"role": "user", "content": content}]
    body = json.dumps({"model": "gpt-4o", "messages": messages, **more}).encode()
    return estimate.input_tokens(call_of(body), body)


SENTENCE = "the lead said yes and so we call him at two "


@pytest.mark.parametrize("repeats", [1, 100, 1_000, 10_000, 100_000])
def test_a_long_text_counts_in_proportion(repeats: int) -> None:
    """Beyond what is looked at too, and where the text is one string cut in its middle."""
    tokens = input_of(SENTENCE * repeats)

    assert 0.75 * 11 * repeats <= tokens <= 1.25 * 11 * repeats + 8


def test_a_picture_counts_as_one_and_not_as_its_base64() -> None:
    """A megabyte of base64 would be seven hundred thousand tokens."""
    data = base64.b64encode(bytes(range(256)) * 4_000).decode()
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}

    assert 1_100 <= input_of([{"type": "text", "text": "What is this?"}, url]) < 1_200


def test_a_request_without_a_body_counts_nothing() -> None:
    """A generator's, which can't be looked at."""
    assert estimate.input_tokens(call_of(b'{"model":"m","messages":[]}'), None) == 0


def test_tools_count_beside_the_messages() -> None:
    """Their names, descriptions and parameters."""
    tool = {
        "type": "function",
        "function": {
            "name": "find_order",
            "description": "Find an order by its number and the customer's name. " * 3,
            "parameters": {"type": "object", "properties": {"n": {"type": "string"}}},
        },
    }

    assert input_of("Hi", tools=[tool] * 4) > input_of("Hi") + 4 * 30


def test_what_passed_of_a_reply_is_at_least_one_token() -> None:
    """And none where nothing passed."""
    call = call_of(b'{"model":"m","messages":[]}')

    assert estimate.output_tokens(TextSeen(characters={"latin": 1}), call) == 1
    assert estimate.output_tokens(TextSeen(), call) == 0


def test_digits_count_by_threes_and_letters_with_accents_by_themselves() -> None:
    """As tokenizers cut them."""
    assert characters_of("a1234 56\n") == {"latin": 1, "space": 1, "line": 1, "number": 3}
    assert characters_of("zażółć 12345") == {"latin": 2, "accent": 4, "space": 1, "number": 2}


def test_each_script_is_told_apart() -> None:
    """A character of Chinese is most of a token, one of English a fifth."""
    assert characters_of("abc 你好 привет かな 한글 مرحبا") == {
        "latin": 3, "space": 5, "han": 2, "cyrillic": 6, "kana": 2, "hangul": 2, "arabic": 5,
    }  # fmt: skip
