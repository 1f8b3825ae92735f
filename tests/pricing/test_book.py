"""Our prices against genai-prices' own arithmetic, over all its models, dates and token mixes.

`calc_price` is the oracle: what we price costs exactly what it says. What we don't price has
a reason, each of which is stated here: an empty price, a counted kind without one, parts that
no record tells apart, or usage that the oracle itself refuses.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from functools import cache
from typing import TYPE_CHECKING

import genai_prices
import pytest
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from meterd.pricing.book import PriceBook
from meterd.pricing.price import can_price, cost_of

if TYPE_CHECKING:
    from meterd.pricing.rate_card import Rate

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BOOK = PriceBook()
TOOLS = ("web_searches", "storage_searches", "code_executions")
_SPECIAL_UNITS = ("audio_seconds", "input_characters", "input_document_pages")


@dataclass(frozen=True)
class Counts:
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_long_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0


@cache
def models() -> list[tuple[str, str]]:
    """Every model of the book by a reference that finds it."""
    found = []
    snapshot = get_snapshot()
    for provider in snapshot.providers:
        for model in provider.models:
            try:
                _, matched = snapshot.find_provider_model(model.id, None, provider.id, None)
            except LookupError:
                continue
            if matched is model:
                found.append((provider.id, model.id))
    return found


@st.composite
def token_counts(draw: st.DrawFn) -> Counts:
    size = st.sampled_from([0, 1, 999, 100_000, 128_000, 200_000, 200_001, 272_001, 3_000_000])
    took, gave = draw(size | st.integers(0, 500_000)), draw(st.integers(0, 70_000))
    read = draw(st.integers(0, took))
    write = draw(st.integers(0, took - read))
    long = draw(st.integers(0, write))
    heard = draw(st.sampled_from([0, 0, 0, (took - read - write) // 2]))
    thought = draw(st.integers(0, gave))
    said = draw(st.sampled_from([0, 0, 0, (gave - thought) // 2]))
    return Counts(took, read, write, long, gave, thought, heard, said)


moments = st.integers(0, 3 * 365 * 86_400).map(
    lambda seconds: datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)
contexts = st.sampled_from(
    [
        {},
        {},
        {"service_tier": "flex"},
        {"service_tier": "priority"},
        {"service_tier": "default"},
        {"processing": "batch"},
        {"speed": "fast"},
    ]
)


def oracle(
    provider: str,
    model: str,
    counts: Counts,
    tools: dict[str, int],
    moment: datetime,
    context: dict[str, str],
) -> Decimal:
    usage = genai_prices.Usage(
        input_tokens=counts.input_tokens,
        output_tokens=counts.output_tokens,
        cache_read_tokens=counts.cache_read_tokens or None,
        cache_write_tokens=counts.cache_write_tokens or None,
        cache_write_1h_tokens=counts.cache_write_long_tokens or None,
        output_reasoning_tokens=counts.reasoning_tokens or None,
        input_audio_tokens=counts.audio_input_tokens or None,
        output_audio_tokens=counts.audio_output_tokens or None,
        **{tool: calls or None for tool, calls in tools.items()},
    )
    with localcontext() as exact, warnings.catch_warnings():
        exact.prec = 60
        return genai_prices.calc_price(
            usage,
            model,
            provider_id=provider,
            genai_request_timestamp=moment,
            price_context=context or None,
        ).total_price


def ours(
    provider: str, model: str, counts: Counts, moment: datetime, context: dict[str, str]
) -> Rate | None:
    at_ms = (moment - EPOCH) // timedelta(milliseconds=1)
    segment = BOOK.segment(provider, model, "", context, at_ms)
    assert segment.from_ms <= at_ms < segment.to_ms
    return segment.rate_for(counts.input_tokens)


@settings(max_examples=1_500, deadline=None)
@given(
    which=st.integers(0, 10**6),
    counts=token_counts(),
    tools=st.fixed_dictionaries({tool: st.sampled_from([0, 0, 0, 1, 17]) for tool in TOOLS}),
    moment=moments,
    context=contexts,
)
def test_what_we_price_costs_what_the_book_says(
    which: int, counts: Counts, tools: dict[str, int], moment: datetime, context: dict[str, str]
) -> None:
    provider, model = models()[which % len(models())]
    rate = ours(provider, model, counts, moment, context)
    if rate is None or not can_price(rate, counts, tools):
        return

    expected = oracle(provider, model, counts, tools, moment, context)

    assert cost_of(rate, counts, tools, 1) == expected


def test_every_model_that_has_plain_prices_is_priced() -> None:
    """Only what the book can't say is left out; the numbers are those of this book."""
    counts = Counts(input_tokens=1_000, output_tokens=100)
    moment = datetime(2026, 6, 1, tzinfo=UTC)
    unpriced = []
    for provider, model in models():
        rate = ours(provider, model, counts, moment, {})
        if rate is None or not can_price(rate, counts, {}):
            unpriced.append((provider, model))
        else:
            assert cost_of(rate, counts, {}, 1) == oracle(provider, model, counts, {}, moment, {})

    for provider, model in unpriced:
        found, info = get_snapshot().find_provider_model(model, None, provider, None)
        prices = {
            key: value
            for key, value in info.get_prices(moment).__dict__.items()
            if value is not None
        }
        has_parts = any("image" in key or "video" in key or "citation" in key for key in prices)
        is_whole = "input_mtok" in prices and "output_mtok" in prices
        assert has_parts or not is_whole, (found.id, model, prices)


@pytest.mark.parametrize(
    ("input_tokens", "cost"), [(200_000, "0.260"), (200_001, "0.5150025"), (100_000, "0.135")]
)
def test_a_bracket_holds_for_all_tokens_of_a_request_strictly_above_its_start(
    input_tokens: int, cost: str
) -> None:
    counts = Counts(input_tokens=input_tokens, output_tokens=1_000)

    rate = ours("gcp.gemini", "gemini-2.5-pro", counts, datetime(2025, 11, 25, tzinfo=UTC), {})

    assert rate is not None
    assert cost_of(rate, counts, {}, 1) == Decimal(cost)


@pytest.mark.parametrize(
    ("context", "cost"),
    [
        ({}, "11.25"),
        ({"service_tier": "default"}, "11.25"),
        ({"service_tier": "flex"}, "5.625"),
        ({"processing": "batch"}, "5.625"),
        ({"service_tier": "priority"}, "22.50"),
    ],
)
def test_tiers_are_those_of_the_response(context: dict[str, str], cost: str) -> None:
    counts = Counts(input_tokens=1_000_000, output_tokens=1_000_000)

    rate = ours("openai", "gpt-5", counts, datetime(2026, 11, 25, tzinfo=UTC), context)

    assert rate is not None
    assert cost_of(rate, counts, {}, 1) == Decimal(cost)


@pytest.mark.parametrize(
    "context", [{"service_tier": "Priority"}, {"speed": "ludicrous"}, {"inference_geo": "mars"}]
)
def test_a_context_that_the_book_doesnt_know_is_unpriced(context: dict[str, str]) -> None:
    """The book itself would take the standard price in silence."""
    moment = datetime(2026, 9, 1, tzinfo=UTC)

    assert ours("openai", "gpt-5", Counts(1), moment, context) is None


def test_a_tier_is_unpriced_before_the_book_knows_its_price() -> None:
    moment = datetime(2025, 9, 1, tzinfo=UTC)

    assert ours("openai", "gpt-5", Counts(1), moment, {"processing": "batch"}) is None
    assert ours("openai", "gpt-5", Counts(1), moment, {}) is not None


def test_a_price_by_the_time_of_day_changes_at_its_minute() -> None:
    def price_at(hour: int, minute: int) -> int | None:
        moment = datetime(2025, 7, 1, hour, minute, tzinfo=UTC)
        rate = ours("deepseek", "deepseek-chat", Counts(), moment, {})
        return None if rate is None else rate.price_of("input")

    day, night = price_at(0, 30), price_at(0, 29)

    assert day != night
    assert price_at(16, 29) == day
    assert price_at(16, 30) == night


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("", "gpt-4o"),
        ("vllm", "gpt-4o"),
        ("ollama", "llama3.2"),
        ("openai", "gpt-4o-2099"),
        ("openai", "whisper-1"),
        ("gcp.gemini", "gemini-2.5-flash-image"),
    ],
)
def test_what_the_book_cant_say_is_unpriced(provider: str, model: str) -> None:
    counts = Counts(input_tokens=10, output_tokens=10)

    rate = ours(provider, model, counts, datetime(2026, 1, 1, tzinfo=UTC), {})

    assert rate is None or not can_price(rate, counts, {})


def test_free_models_cost_nothing_and_say_so() -> None:
    free = next(model for _, model in models() if model.endswith(":free"))
    counts = Counts(input_tokens=10_000, output_tokens=10_000)

    rate = ours("openrouter", free, counts, datetime(2026, 1, 1, tzinfo=UTC), {})

    assert rate is not None
    assert can_price(rate, counts, {})
    assert cost_of(rate, counts, {}, 1) == 0


def test_parts_that_may_share_tokens_are_unpriced_together() -> None:
    """Cached audio has a price of its own, and no record says how much of it there is."""
    counts = Counts(input_tokens=100, cache_read_tokens=40, audio_input_tokens=50)

    rate = ours("openai", "gpt-4o-realtime-preview", counts, datetime(2026, 1, 1, tzinfo=UTC), {})

    assert rate is not None
    assert not can_price(rate, counts, {})
    assert can_price(rate, Counts(input_tokens=100, cache_read_tokens=40), {})
