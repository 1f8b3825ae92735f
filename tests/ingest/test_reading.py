"""A batch off the wire: what is refused whole, what is quarantined, and what is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterd.errors import BatchBroken
from meterd.ingest.reading import BATCH_RECORDS_MAX, WireBatch, read_batch, record_bytes
from meterd_proto.v1 import usage_pb2
from tests.support.builders import NOW_MS, batch_of, producer_id, usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.store.batch import PlacedBatch


def read(batch: usage_pb2.Batch) -> PlacedBatch:
    return read_batch(batch, producer_id(), NOW_MS)


@pytest.mark.parametrize("in_columns", [True, False])
def test_tags_are_read_from_columns_and_from_dimensions_alike(in_columns: bool) -> None:
    records = [
        usage("a", "x", lease_id=7),
        usage("b", "", model="gpt-5"),
        usage("a", "x", lease_id=9, http_status=500),
    ]

    placed = read(batch_of(records, tags_in_columns=in_columns))

    assert [placed.tags[at] for at in placed.tag] == [("a", "x"), ("b", ""), ("a", "x")]
    assert [placed.kinds[at].model for at in placed.kind] == ["gpt-4o", "gpt-5", "gpt-4o"]
    assert [placed.kinds[at].http_status for at in placed.kind] == [200, 200, 500]
    assert list(placed.lease or ()) == [7, 0, 9]


def test_a_record_without_a_client_is_unattributed() -> None:
    placed = read(batch_of([usage(client="")]))

    assert placed.tags == [("unattributed", "")]


BREAKS: dict[str, Callable[[usage_pb2.Batch], object]] = {
    "no records": lambda batch: batch.ClearField("dimension"),
    "sequence 0": lambda batch: setattr(batch, "first_sequence", 0),
    "beyond any count": lambda batch: setattr(batch, "first_sequence", 1 << 63),
    "which the batch doesn't have": lambda batch: batch.dimension.__setitem__(0, 9),
    "first string": lambda batch: batch.strings.__setitem__(0, "x"),
    "doesn't": lambda batch: batch.ClearField("dimensions"),
    "column input_tokens has": lambda batch: batch.input_tokens.append(1),
    "column occurred_at has": lambda batch: batch.occurred_at_delta_us.append(1),
    "shorter or longer": lambda batch: batch.tag.append(0),
    "tags or leases": lambda batch: batch.lease.append(0),
    "out of range": lambda batch: batch.tag.__setitem__(0, 99),
    "isn't in the batch": lambda batch: batch.tag_client.__setitem__(0, 99),
    "string, tag or lease": lambda batch: setattr(batch.dimensions[0], "provider", 99),
    "rare fields are": lambda batch: batch.rare.add(index=99),
    "unread fields are": lambda batch: batch.unread.extend(
        [usage_pb2.Unread(index=1), usage_pb2.Unread(index=1)]
    ),
    f"at most {BATCH_RECORDS_MAX}": lambda batch: batch.dimension.extend([0] * BATCH_RECORDS_MAX),
}


@pytest.mark.parametrize("reason", BREAKS)
def test_a_batch_broken_in_its_framing_is_refused_with_the_reason(reason: str) -> None:
    batch = batch_of([usage(), usage(lease_id=4)])
    BREAKS[reason](batch)

    with pytest.raises(BatchBroken, match=reason):
        read(batch)


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(BatchBroken, match="no protobuf message"):
        WireBatch(producer_id(), NOW_MS, request=b"\x12\xff\xff\xff").read()


def test_a_refused_batch_names_its_sequences() -> None:
    message = batch_of([usage(), usage()], first_sequence=41)
    message.dimension[1] = 5
    batch = WireBatch(producer_id(), NOW_MS, message=message)

    with pytest.raises(BatchBroken):
        batch.read()

    assert batch.span == (41, 42)


@pytest.mark.parametrize("in_columns", [True, False])
def test_a_record_can_be_made_whole_again(in_columns: bool) -> None:
    """What is quarantined is kept as the record it was."""
    records = [
        usage(),
        usage(
            "bigco-inc",
            "bot",
            cache_write_tokens=5,
            tool_calls={"web_search": 2},
            context={"service_tier": "flex"},
            history_bytes=9,
            note="cut",
            lease_id=77,
            occurred_at_ms=NOW_MS - 5,
        ),
    ]

    batch = batch_of(records, tags_in_columns=in_columns)

    for at, record in enumerate(records):
        assert usage_pb2.UsageRecord.FromString(record_bytes(batch, at)) == record


counts = st.sampled_from([0, 1, 5, 1_000, -1, 1 << 54, (1 << 63) - 1, -(1 << 63)])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.builds(
            usage,
            client=st.sampled_from(["a", "b", "", "x" * 600]),
            input_tokens=counts,
            output_tokens=counts,
            cache_read_tokens=counts,
            reasoning_tokens=counts,
            cache_write_tokens=counts,
            cache_write_long_tokens=counts,
            audio_input_tokens=counts,
            status=st.sampled_from([0, 1, 5, 7]),
            schema=st.sampled_from([1, 1, 1, 2]),
            occurred_at_ms=st.sampled_from([0, 1, NOW_MS, NOW_MS * 8]),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_whatever_a_well_framed_batch_says_each_record_is_counted_or_quarantined(
    records: list[usage_pb2.UsageRecord],
) -> None:
    """Never refused, never raised over, and nothing unbelievable among what counts."""
    placed = read(batch_of(records))

    kept = {item.position for item in placed.quarantined}
    for at, record in enumerate(records):
        is_odd = (
            record.schema > 1
            or not record.status
            or len(record.client) > 512
            or record.occurred_at_unix_ns > 1 << 62
            or not _is_believable(record)
        )
        assert (at in kept) == is_odd, record


def _is_believable(record: usage_pb2.UsageRecord) -> bool:
    most = 1 << 40
    return (
        0 <= record.reasoning_tokens <= record.output_tokens <= most
        and 0 <= record.input_tokens <= most
        and record.cache_read_tokens >= 0
        and 0 <= record.cache_write_long_tokens <= record.cache_write_tokens
        and record.cache_read_tokens + record.cache_write_tokens <= record.input_tokens
        and 0 <= record.audio_input_tokens <= record.input_tokens
    )
