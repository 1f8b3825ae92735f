"""The packed column: whatever a record has comes back, from rows of every version."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meterd.store.batch import Rare
from meterd.store.ledger_row import BEGINNINGS, TOOLS, pack, unpack
from meterd_proto.v1 import usage_pb2

BILLED_MS = 1_764_072_000_000
FULL = Rare(422, 211, 10, 10, (("web_search", 2),), "0.01234", 3_378, "resp_00000005")

counts = st.one_of(st.just(0), st.integers(0, 1 << 53))
texts = st.one_of(st.just(""), st.text(max_size=20))
hexadecimal = st.binary(max_size=30).map(bytes.hex)
ids = st.one_of(texts, st.builds(str.__add__, st.sampled_from(BEGINNINGS), hexadecimal))
amounts = st.one_of(
    texts,
    st.from_regex(r"[0-9]{1,20}(\.[0-9]{0,20})?", fullmatch=True),
    st.decimals(0, 10**6, places=6).map(str),
)
calls = st.dictionaries(st.one_of(st.sampled_from(TOOLS), texts), counts, max_size=4)
rares = st.builds(
    Rare,
    counts,
    counts,
    counts,
    counts,
    calls.map(lambda made: tuple(sorted(made.items()))),
    amounts,
    st.none() | counts,
    ids,
    texts,
    st.none() | st.integers(-(1 << 45), 1 << 45).filter(lambda at: at != BILLED_MS),
)


def as_before(rare: Rare) -> bytes:
    """The column as schemas 1 to 3 had it; none of these was moved."""
    message = usage_pb2.RareFields(
        **{name: getattr(rare, name) for name in Rare._fields[:4]},
        tool_calls=dict(rare.tool_calls),
        **{name: getattr(rare, name) for name in Rare._fields[5:9]},
    )
    return b"\0" + message.SerializeToString(deterministic=True)


@given(rares)
@example(FULL)
@example(Rare(provider_cost="0"))
@example(Rare(provider_cost="00.50"))
@example(Rare(history_bytes=0))
def test_what_is_packed_comes_back(rare: Rare) -> None:
    assert unpack(pack(rare, BILLED_MS), BILLED_MS) == rare


@given(
    rares.map(
        lambda rare: rare._replace(
            occurred_at_ms=None,
            history_bytes=None if rare.history_bytes is None else rare.history_bytes % (1 << 32),
        )
    )
)
@example(FULL)
def test_rows_of_earlier_versions_are_read_for_ever(rare: Rare) -> None:
    assert unpack(as_before(rare), BILLED_MS) == rare


def test_moved_rows_of_earlier_versions_are_read_too() -> None:
    message = usage_pb2.RareFields(history_bytes=7).SerializeToString()

    assert unpack(b"\x03" + message, BILLED_MS) == Rare(
        history_bytes=7, occurred_at_ms=BILLED_MS - 2
    )


def test_a_record_with_everything_is_short() -> None:
    packed = pack(FULL, BILLED_MS)

    assert packed is not None
    assert len(packed) == 23
    assert pack(Rare(), BILLED_MS) is None


@given(st.binary(max_size=40), rares)
def test_what_was_not_written_here_is_a_value_error_at_worst(noise: bytes, rare: Rare) -> None:
    """A corrupt row is named by `verify`, and never stops what reads it."""
    packed = pack(rare, BILLED_MS) or b""
    for data in (noise, b"\0" + noise, packed[: len(packed) // 2], packed[:-1]):
        try:
            unpack(data, BILLED_MS)
        except ValueError:
            continue


def test_numbers_of_names_never_change() -> None:
    """The ledger has them."""
    assert TOOLS[:4] == ("", "web_search", "web_search_requests", "web_fetch_requests")
    assert BEGINNINGS == ("", "resp_", "msg_", "chatcmpl-", "gen-", "")


@pytest.mark.parametrize("rest", [b"", b"\0\x0f\x80", b"\0\x87\x04\x90\x80\x40\x01"])
def test_a_column_that_says_what_cannot_be_is_corrupt(rest: bytes) -> None:
    """Nothing, a number without an end, an amount with a million decimals."""
    with pytest.raises(ValueError, match="packed column"):
        unpack(rest, BILLED_MS)
