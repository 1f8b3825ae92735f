"""Estimates: by characters and script, within a stated error; pictures by the piece."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd_middleware import estimate, pictures
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

    assert 765 <= input_of([{"type": "text", "text": "What is this?"}, url]) < 865


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
    assert characters_of("a  b\n     c d")["run"] == 3
    assert characters_of("é  b\n     c d") == {
        "accent": 1, "latin": 3, "space": 2, "run": 3, "line": 1,
    }  # fmt: skip
    assert characters_of("zażółć 12345") == {"latin": 2, "accent": 4, "space": 1, "number": 2}


def test_each_script_is_told_apart() -> None:
    """A character of Chinese is most of a token, one of English a fifth."""
    assert characters_of("abc 你好 привет かな 한글 مرحبا") == {
        "latin": 3, "space": 5, "han": 2, "cyrillic": 6, "kana": 2, "hangul": 2, "arabic": 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "width", "height", "tokens"),
    [
        ("gpt-4o", 1024, 1024, 765),
        ("gpt-4o-2024-08-06", 2048, 4096, 1105),
        ("gpt-4.1", 512, 512, 255),
        ("gpt-4o-mini", 1024, 1024, 25_501),
        ("o1", 1024, 1024, 675),
        ("gpt-5", 1024, 1024, 630),
        ("gpt-5-2025-08-07", 512, 512, 210),
        ("gpt-5-mini", 1024, 1024, 1_659),
        ("gpt-4.1-mini", 1800, 2400, 2_353),
        ("openai/gpt-4.1-nano", 1024, 1024, 2_520),
        ("o4-mini", 1024, 1024, 1_762),
    ],
)
def test_a_picture_counts_as_openai_publishes(
    model: str, width: int, height: int, tokens: int
) -> None:
    """Tiles or patches, by the model; the examples are OpenAI's own."""
    assert pictures.tokens_of(model, "openai", (width, height), is_low=False) == tokens


@pytest.mark.parametrize(
    ("model", "tokens"), [("gpt-4o", 85), ("gpt-4o-mini", 2_833), ("o3", 75), ("gpt-5", 70)]
)
def test_low_detail_counts_the_same_for_every_size(model: str, tokens: int) -> None:
    for size in ((64, 64), (8_000, 8_000), None):
        assert pictures.tokens_of(model, "openai", size, is_low=True) == tokens


@given(width=st.integers(1, 2**17), height=st.integers(1, 2**17))
def test_no_picture_counts_nothing_or_more_than_its_model_allows(width: int, height: int) -> None:
    """Also where a side is a thousand times the other."""
    for model, most in (("gpt-4o", 85 + 170 * 8), ("gpt-4.1-mini", 2_489), ("o4-mini", 2_642)):
        assert 1 <= pictures.tokens_of(model, "openai", (width, height), is_low=False) <= most
