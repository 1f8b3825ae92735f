"""The short ways of reading a body: each ends where the long one does."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meterd_middleware.readers.openai_chat import OpenAIChat
from meterd_middleware.readers.parsing import loads

COUNTS = st.one_of(
    st.integers(-1, 60), st.none(), st.just(True), st.just(3.0), st.just("7"), st.just(2**60)
)
DETAILS = st.one_of(
    st.none(),
    st.dictionaries(
        st.sampled_from(
            [
                "cached_tokens",
                "audio_tokens",
                "reasoning_tokens",
                "cache_write_tokens",
                "accepted_prediction_tokens",
                "image_tokens",
            ]
        ),
        COUNTS,
        max_size=4,
    ),
)
USAGES = st.fixed_dictionaries(
    {"prompt_tokens": COUNTS, "completion_tokens": COUNTS},
    optional={
        "total_tokens": COUNTS,
        "prompt_tokens_details": DETAILS,
        "completion_tokens_details": DETAILS,
    },
)


class Long(OpenAIChat):
    """The reader without its short way."""

    def _plain(self, usage: dict[str, Any]) -> None:
        return None


@given(USAGES, st.booleans(), st.sampled_from(["openai", "perplexity", "x_ai", "gcp.gemini"]))
def test_a_plain_usage_is_read_as_any_other(
    usage: dict[str, Any], adds_up: bool, provider: str
) -> None:
    counts = usage["prompt_tokens"], usage["completion_tokens"]
    if adds_up and all(type(count) is int for count in counts):
        usage["total_tokens"] = sum(counts)
    tallies = OpenAIChat(provider), Long(provider)
    for tally in tallies:
        tally.read_event("", {"model": "gpt-4o", "usage": dict(usage)})

    short, long = (tally.usages() for tally in tallies)

    assert short == long


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    ),
    st.sampled_from(["", " ", "\n", "x", "}", "\x0b"]),
)
def test_a_body_is_parsed_as_the_library_would(value: object, after: str) -> None:
    data = (json.dumps({"a": value}, ensure_ascii=False) + after).encode("utf-8", "surrogatepass")
    told = []
    for parse in (json.loads, loads):
        try:
            told.append(repr(parse(data)))
        except ValueError as error:
            told.append(type(error).__name__)

    assert told[1] == told[0]
