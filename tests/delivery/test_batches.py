"""From a record to columns and back: nothing changes on the way, and it stays small."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from meterd_middleware.batch import Batches
from meterd_middleware.payload import record_payload
from meterd_middleware.segment import KIND_RECORD, Frame
from meterd_middleware.usage import SCHEMA, Estimated, Status, UsageRecord, to_proto
from meterd_proto.v1 import usage_pb2
from tests.support.network import records_of

names = st.sampled_from(["", "acme-corp", "gpt-4o", "ünïcode ☃", "x" * 128])
counts = st.integers(-(2**40), 2**53)
records = st.builds(
    UsageRecord,
    client=names,
    project=names,
    provider=names,
    operation=names,
    request_model=names,
    response_model=names,
    status=st.sampled_from(Status),
    http_status=st.integers(0, 999),
    occurred_at_unix_ns=st.integers(0, 2**63).map(lambda ns: ns // 1000 * 1000),
    duration_ms=st.integers(0, 2**32 - 1),
    input_tokens=counts,
    cache_read_tokens=counts,
    cache_write_tokens=st.sampled_from([0, 0, 5]),
    output_tokens=counts,
    reasoning_tokens=counts,
    audio_input_tokens=st.sampled_from([0, 0, 9]),
    estimated=st.sampled_from([Estimated.NOTHING, Estimated.INPUT | Estimated.OUTPUT]),
    price_context=st.sampled_from([{}, {"service_tier": "flex"}, {"speed": "fast"}]),
    tool_calls=st.sampled_from([{}, {}, {"web_search": 3}]),
    provider_cost=st.sampled_from([None, None, Decimal("0.0123")]),
    account=names,
    server_address=names,
    input_bytes=st.integers(0, 2**32 - 1),
    history_bytes=st.sampled_from([None, None, 0, 17]),
    dedupe_id=st.sampled_from(["", "", "resp_1"]),
    note=st.sampled_from(["", "", "a note"]),
    attempt=st.integers(0, 3),
    is_continuation=st.booleans(),
    is_stream=st.booleans(),
    lease_id=st.sampled_from([0, 1, 2**40]),
)


def _frames(written: list[UsageRecord], first: int = 1) -> list[Frame]:
    frames: list[Frame] = []
    for sequence, record in enumerate(written, start=first):
        head, data = record_payload(record, closes=3)
        frames.append((KIND_RECORD, sequence, data[:head], data[head:]))
    return frames


def _batch(frames: list[Frame]) -> usage_pb2.Batch:
    return Batches().batch_of(frames, sent_at_unix_ns=1, highest_appended_sequence=99)


def _as_sent(record: UsageRecord) -> usage_pb2.UsageRecord:
    message = to_proto(record)
    message.schema = 0
    return message


@given(st.lists(records, min_size=1, max_size=12))
def test_a_batch_says_what_the_records_said(written: list[UsageRecord]) -> None:
    """Columns, interned strings and rare fields, put together again, are the records."""
    batch = _batch(_frames(written, first=41))

    assert batch.first_sequence == 41
    assert batch.highest_appended_sequence == 99
    assert records_of(batch) == [_as_sent(record) for record in written]


@given(records)
def test_a_payload_is_an_ordinary_record_to_everybody(record: UsageRecord) -> None:
    """The head is only a hint: a reader that parses the whole sees the same."""
    head, data = record_payload(record, closes=3)

    assert usage_pb2.UsageRecord.FromString(data) == to_proto(record, closes=3)
    assert head <= len(data)


@given(st.lists(records, min_size=2, max_size=8), st.integers(1, 7))
def test_a_record_says_the_same_in_whatever_batch_it_is_sent(
    written: list[UsageRecord], cut: int
) -> None:
    """After a lost acknowledgment it comes again, with other neighbours."""
    frames = _frames(written)
    cut = min(cut, len(frames) - 1)

    apart = records_of(_batch(frames[:cut])) + records_of(_batch(frames[cut:]))

    assert apart == records_of(_batch(frames))


def test_a_plain_chat_record_takes_at_most_40_bytes_on_the_wire() -> None:
    """Of a thousand of one app: several clients and models, streams, leases."""
    written = [
        UsageRecord(
            client=f"client-{index % 20}",
            project="support-chatbot",
            provider="openai",
            request_model="gpt-4o-mini",
            response_model="gpt-4o-mini-2024-07-18",
            http_status=200,
            occurred_at_unix_ns=1_764_000_000_000_000_000 + index * 73_000_000,
            duration_ms=400 + index,
            input_tokens=900 + 7 * index,
            cache_read_tokens=512,
            output_tokens=200 + index,
            server_address="api.openai.com",
            input_bytes=3_000 + 11 * index,
            is_stream=index % 2 == 0,
            price_context={"service_tier": "default"},
            lease_id=index % 20 + 1,
        )
        for index in range(1_000)
    ]

    size = len(_batch(_frames(written)).SerializeToString())

    assert size / len(written) <= 40, size / len(written)


def test_a_record_of_a_newer_schema_is_passed_on_as_it_is() -> None:
    """The process that adopts may be older than the one that died."""
    newer = to_proto(UsageRecord(client="acme", input_tokens=5))
    newer.schema = SCHEMA + 1
    payload = newer.SerializeToString()
    plain = _frames([UsageRecord(client="acme", occurred_at_unix_ns=10**18)])

    batch = _batch([*plain, (KIND_RECORD, 2, payload[:3], payload[3:])])

    assert len(batch.dimension) == 2
    assert [(one.index, one.schema, one.payload) for one in batch.unread] == [
        (1, SCHEMA + 1, payload)
    ]


def test_bytes_that_are_no_record_are_passed_on_as_they_are() -> None:
    """Well-framed is enough to be kept: the daemon quarantines what nobody can read."""
    batch = _batch([(KIND_RECORD, 1, b"", b"\xff\xff\xff")])

    assert batch.unread[0].payload == b"\xff\xff\xff"
    assert len(batch.dimensions) == 1


def test_what_no_field_holds_is_brought_to_what_one_does() -> None:
    """Nonsense never raises into the app; in token counts it stays visible nonsense."""
    record = UsageRecord(
        client="a\ud800",
        duration_ms=-5,
        input_bytes=2**40,
        input_tokens=2**80,
        history_bytes=-1,
        tool_calls={"x": 2**90},
    )

    _, data = record_payload(record)

    message = usage_pb2.UsageRecord.FromString(data)
    assert message.client == "a?"
    assert message.duration_ms == 0
    assert message.input_bytes == 2**32 - 1
    assert message.input_tokens == 2**63 - 1
    assert message.history_bytes == 0
    assert message.tool_calls["x"] == 2**63 - 1


def test_heads_beyond_255_bytes_and_names_beyond_127_are_read_the_long_way() -> None:
    """The head's length is one byte on disk, a name's one byte in the cut."""
    long = UsageRecord(client="c" * 200, project="p" * 100, request_model="m", input_tokens=1)
    short = replace(long, client="c" * 128, project="")

    assert records_of(_batch(_frames([long, short]))) == [_as_sent(long), _as_sent(short)]
