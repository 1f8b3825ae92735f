"""The agency's own prices: which one holds, from when, and for how much input."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.config.agency import PriceOverride
from meterd.pricing.book import PriceBook
from meterd.pricing.price import can_price, cost_of
from meterd.pricing.price_list import Call, PriceList
from meterd.pricing.rate_card import Rate, rate_from_decimals
from tests.pricing.test_book import Counts

BOOK = PriceBook()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
GPT = Call("openai", "gpt-4o", "gpt-4o-2024-08-06")
MILLION = Counts(input_tokens=1_000_000)


def at(text: str) -> int:
    return (datetime.fromisoformat(text).replace(tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)


NOW = at("2026-03-15T12:00")


def rate_of(
    *overrides: PriceOverride,
    client: str = "acme-corp",
    call: Call = GPT,
    at_ms: int = NOW,
    input_tokens: int = 0,
) -> Rate | None:
    return PriceList(BOOK, overrides).segment(client, call, at_ms).rate_for(input_tokens)


def cost(rate: Rate | None, counts: Counts = MILLION) -> Decimal:
    assert rate is not None
    return cost_of(rate, counts, {}, 1)


def own(model: str = "gpt-4o", rate: str = "1", **fields: object) -> PriceOverride:
    values = {"model": model, "rates": {"input": Decimal(rate)}, **fields}
    return PriceOverride(**values)  # type: ignore[arg-type]  # fields by name


def test_without_overrides_the_books_price_holds() -> None:
    assert cost(rate_of()) == Decimal("2.5")


def test_an_own_price_goes_before_the_books() -> None:
    assert cost(rate_of(own(rate="1.25"))) == Decimal("1.25")


def test_a_model_of_our_own_is_priced_by_its_override_alone() -> None:
    call = Call("vllm", "our-llama", "")

    assert rate_of(call=call) is None
    assert cost(rate_of(own("our-llama"), call=call)) == 1


def test_the_one_with_a_client_goes_first_then_the_exact_model_then_the_latest() -> None:
    pattern = own("gpt-*", "1")
    exact = own("gpt-4o", "2")
    later = own("gpt-4o", "3", from_day=date(2026, 1, 1))
    mine = own("gpt-*", "4", client="acme-corp")

    assert cost(rate_of(pattern)) == 1
    assert cost(rate_of(pattern, exact)) == 2
    assert cost(rate_of(later, pattern, exact)) == 3
    assert cost(rate_of(later, pattern, exact, mine)) == 4
    assert cost(rate_of(later, pattern, exact, mine, client="bigco-inc")) == 3


def test_an_override_holds_from_its_utc_day() -> None:
    override = own(rate="1", from_day=date(2026, 3, 1))
    prices = PriceList(BOOK, [override])

    before = prices.segment("a", GPT, at("2026-02-28T23:59:59"))
    after = prices.segment("a", GPT, at("2026-03-01T00:00"))

    assert cost(before.rates[0]) == Decimal("2.5")
    assert cost(after.rates[0]) == 1
    assert before.to_ms == after.from_ms == at("2026-03-01T00:00")


def test_a_bracket_of_ones_own_holds_strictly_above_its_start() -> None:
    overrides = own(rate="1"), own(rate="2", above_input_tokens=200_000)

    assert cost(rate_of(*overrides, input_tokens=200_000)) == 1
    assert cost(rate_of(*overrides, input_tokens=200_001)) == 2


def test_a_multiplier_is_taken_on_the_books_price_exactly() -> None:
    discount = PriceOverride(model="gpt-4o*", multiplier=Decimal("0.85"))

    rate = rate_of(discount)

    assert cost(rate) == Decimal("2.125")
    assert cost(rate, Counts(output_tokens=3)) == Decimal("0.0000255")


def test_the_price_of_another_model_can_be_taken() -> None:
    call = Call("azure.ai.openai", "our-deployment", "")
    same = PriceOverride(model="our-deployment", same_as="openai/gpt-4o")

    assert cost(rate_of(same, call=call)) == Decimal("2.5")


def test_an_override_for_a_tier_holds_for_that_tier_alone() -> None:
    scale = own(rate="7", service_tier="scale")

    assert cost(rate_of(scale)) == Decimal("2.5")
    assert cost(rate_of(scale, call=GPT._replace(service_tier="scale"))) == 7


def test_calls_and_tools_can_have_prices() -> None:
    override = own(per_request=Decimal("0.002"), tool_rates={"web_search": Decimal(10)})

    rate = rate_of(override)

    assert rate is not None
    assert cost_of(rate, Counts(), {"web_searches": 3}, 2) == Decimal("0.034")
    assert can_price(rate, Counts(), {"web_searches": 1})
    assert not can_price(rate, Counts(), {"code_executions": 1})


def test_a_kind_that_an_override_leaves_out_takes_its_parents_price() -> None:
    rate = rate_of(own(rate="2"))

    assert rate is not None
    assert cost_of(rate, Counts(1_000_000, cache_read_tokens=500_000), {}, 1) == 2
    assert not can_price(rate, Counts(output_tokens=1), {})


@pytest.mark.parametrize("text", ["0", "0.10", "1E+1", "2.50", "0.000000000001", "123456.789"])
def test_prices_become_whole_numbers_without_losing_a_digit(text: str) -> None:
    rate = rate_from_decimals("p", "m", "b", {"input": Decimal(text)})

    number = rate.prices["input"]
    assert number is not None
    assert Decimal(number).scaleb(-rate.scale) == Decimal(text)


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 10**5), st.integers(0, 10**4)), max_size=20
    )
)
def test_the_cost_of_sums_is_the_sum_of_costs(mixes: list[tuple[int, int, int]]) -> None:
    """What makes pricing a rollup's row the same as pricing its records."""
    rate = rate_of(call=Call("anthropic", "claude-sonnet-4-5", ""))
    assert rate is not None
    records = [
        Counts(input_tokens=took + read, cache_read_tokens=read, output_tokens=gave)
        for took, read, gave in mixes
    ]
    total = Counts(
        input_tokens=sum(record.input_tokens for record in records),
        cache_read_tokens=sum(record.cache_read_tokens for record in records),
        output_tokens=sum(record.output_tokens for record in records),
    )

    parts = sum((cost_of(rate, record, {}, 1) for record in records), Decimal(0))

    assert cost_of(rate, total, {}, len(records)) == parts
