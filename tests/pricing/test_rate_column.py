"""Rates by column: for every mix the same as a look at each record by itself."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterd.config.agency import PriceOverride
from meterd.ids import ProducerId, Sequence
from meterd.pricing.book import PriceBook
from meterd.pricing.price_list import PriceList
from meterd.pricing.rate_card import NOTHING_COUNTED, Rate
from meterd.store.batch import Kind, PlacedBatch, Rare
from meterd.store.interning import KindRow, Tag, call_of, counts_as
from meterd.store.quotes import Quotes
from meterd.store.rate_column import counted, is_request, rate_column
from tests.pricing.test_price_list import at

BOOK = PriceBook()
MODELS = (
    ("openai", "gpt-4o"), ("openai", "gpt-4o-audio-preview"), ("gcp.gemini", "gemini-2.5-pro"),
    ("anthropic", "claude-sonnet-4-5"), ("openai", "our-own"), ("openai", "never-heard-of"),
    ("openai", "o3"), ("deepseek", "deepseek-chat"), ("gcp.gemini", "gemini-2.0-flash"),
)  # fmt: skip
EDGE = at("2026-03-15T00:00")
TAGS = (Tag(1, 1, "acme-corp", ""), Tag(2, 2, "own-prices", ""))


def _own(*, client: str = "", above: int = 0, rate: str = "1") -> PriceOverride:
    rates = {"input": Decimal(rate), "output": Decimal("3")}
    return PriceOverride(
        model="gpt-4o" if client else "our-own", client=client, rates=rates,
        above_input_tokens=above, from_day=date(2026, 3, 15) if above else date.min,
    )  # fmt: skip


PRICES = PriceList(
    BOOK, (_own(), _own(above=100_000, rate="2"), _own(client="own-prices", rate="9"))
)


class Numbers:
    """Numbers for rates, as the ledger gives them out."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str, bytes], int] = {}

    def rate(self, rate: Rate) -> int:
        key = (rate.provider, rate.model, rate.basis, rate.entry_hash)
        return self._known.setdefault(key, len(self._known) + 1)

    def nothing_counted(self) -> int:
        return self.rate(NOTHING_COUNTED)


def _kinds() -> list[KindRow]:
    made = [
        Kind(provider, "chat", model, model, status=1, http_status=status)
        for provider, model in MODELS
        for status in (200, 500)
    ]
    return [KindRow(n, n, kind, counts_as(kind), call_of(kind)) for n, kind in enumerate(made, 1)]


KINDS = _kinds()

records = st.tuples(
    st.integers(0, len(KINDS) - 1),
    st.integers(0, 1),
    st.sampled_from([EDGE - 1, EDGE, EDGE + 1, EDGE + 40_000_000]),
    st.sampled_from([0, 1, 100_000, 100_001, 200_000, 200_001, 900_000]),
    st.integers(0, 3),
    st.none()
    | st.builds(
        Rare,
        cache_write_tokens=st.integers(0, 1),
        audio_input_tokens=st.integers(0, 1),
        audio_output_tokens=st.integers(0, 1),
        tool_calls=st.sampled_from([(), (("web_search_requests", 2),), (("unheard_of", 1),)]),
    ),
)


@given(st.lists(records, min_size=1, max_size=30))
@settings(max_examples=300, deadline=None)
def test_a_column_of_rates_is_each_records_own_rate(
    made: list[tuple[int, int, int, int, int, Rare | None]],
) -> None:
    """Edges in time, brackets, parts with prices of their own, tools, clients of their own."""
    batch = PlacedBatch(
        producer=ProducerId(b"p" * 16), first_sequence=Sequence(1), received_at_ms=0, skew_ms=0,
        highest_appended=Sequence(len(made)),
        tags=[(tag.client_name, "") for tag in TAGS], kinds=[kind.kind for kind in KINDS],
        kind=[one[0] for one in made], tag=[one[1] for one in made],
        billed_at_ms=[one[2] for one in made], input_tokens=[one[3] for one in made],
        cache_read_tokens=[min(one[3], one[4]) for one in made],
        output_tokens=[one[4] for one in made],
        rare={at: one[5] for at, one in enumerate(made) if one[5] is not None},
    )  # fmt: skip
    numbers = Numbers()

    column = rate_column(batch, TAGS, KINDS, Quotes(numbers, PRICES))

    expected = []
    alone = Quotes(numbers, PRICES)
    for position, (kind, tag, at_ms, *_, rare) in enumerate(made):
        counts, row = counted(batch, position), KINDS[kind]
        quote = alone.quote(row, TAGS[tag].client_name, at_ms)
        tools = rare.tool_calls if rare else ()
        requested = is_request(row, counts)
        expected.append(alone.rate_of(quote, counts, tools, is_request=requested))
    assert list(column) == expected


@pytest.mark.parametrize(("took", "bracket"), [(200_000, 0), (200_001, 1)])
def test_a_bracket_holds_for_all_tokens_of_the_request(took: int, bracket: int) -> None:
    """Strictly more than the bound; two records in one batch take two rates."""
    kind = next(kind for kind in KINDS if kind.call.response_model == "gemini-2.5-pro")
    numbers = Numbers()
    batch = PlacedBatch(
        producer=ProducerId(b"p" * 16), first_sequence=Sequence(1), received_at_ms=0, skew_ms=0,
        highest_appended=Sequence(2), tags=[("acme-corp", "")], kinds=[kind.kind],
        kind=[0, 0], tag=[0, 0], billed_at_ms=[EDGE, EDGE], input_tokens=[took, 1],
    )  # fmt: skip
    quotes = Quotes(numbers, PRICES)

    column = rate_column(batch, TAGS[:1], [kind], quotes)

    ids = quotes.quote(kind, "", EDGE).ids
    assert list(column) == [ids[bracket], ids[0]]
    assert ids[0] != ids[1]
