"""Numbers written by hand are protobuf's own bytes, whatever they are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd_middleware.numbers import Numbers
from meterd_middleware.payload import OpenCall, open_payload, record_payload
from meterd_middleware.usage import UsageRecord, to_proto
from meterd_proto.v1 import spool_pb2, usage_pb2

_RECORD = (
    "occurred_at_unix_ns", "duration_ms", "input_tokens", "cache_read_tokens", "output_tokens",
    "reasoning_tokens", "input_bytes", "closes",
)  # fmt: skip
_OPEN = (
    "call", "occurred_at_unix_ns", "input_tokens", "reserved_tokens", "lease_id", "input_bytes",
)  # fmt: skip
_record = Numbers(usage_pb2.UsageRecord, _RECORD, moment="occurred_at_unix_ns")
_open = Numbers(spool_pb2.OpenCall, _OPEN, moment="occurred_at_unix_ns")

_around_each_length = [2**bits + step for bits in range(0, 64, 7) for step in (-1, 0, 1)]
_unsigned_32 = st.sampled_from([n for n in _around_each_length if n < 2**32]) | st.integers(
    0, 2**32 - 1
)
_unsigned_64 = st.sampled_from([n for n in _around_each_length if n < 2**64]) | st.integers(
    0, 2**64 - 1
)
_signed_64 = st.integers(-(2**63), 2**63 - 1) | _unsigned_32
_KINDS = {
    "occurred_at_unix_ns": _unsigned_64, "call": _unsigned_64, "lease_id": _unsigned_64,
    "closes": _unsigned_64, "duration_ms": _unsigned_32, "input_bytes": _unsigned_32,
}  # fmt: skip


def _values(names: tuple[str, ...]) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*(_KINDS.get(name, _signed_64) for name in names))


@given(_values(_RECORD))
def test_a_records_numbers_are_protobufs_bytes(values: tuple[int, ...]) -> None:
    """Adopters, the shipper and the daemon read them as protobuf."""
    message = usage_pb2.UsageRecord(**dict[str, Any](zip(_RECORD, values, strict=True)))

    assert _record.of(*values) == message.SerializeToString(deterministic=True)


@given(_values(_OPEN))
def test_an_open_calls_numbers_are_protobufs_bytes(values: tuple[int, ...]) -> None:
    """The same, with a number that stands before the moment."""
    message = spool_pb2.OpenCall(**dict[str, Any](zip(_OPEN, values, strict=True)))

    assert _open.of(*values) == message.SerializeToString(deterministic=True)


@pytest.mark.parametrize("value", [-1, 2**32, 2**64, 1.5, "7"])
def test_what_a_field_does_not_hold_is_protobufs_to_refuse(value: int) -> None:
    """`record_payload` then brings it to the nearest that the field does hold."""
    with pytest.raises((ValueError, TypeError)):
        _record.of(1, value, 0, 0, 0, 0, 0, 0)


@given(_values(_RECORD[:-1]), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_a_payload_is_the_record(values: tuple[int, ...], lease_id: int, closes: int) -> None:
    """Head and rest together are what protobuf makes of the record, read again."""
    numbers: dict[str, Any] = dict(zip(_RECORD, values, strict=False))
    record = UsageRecord(
        client="acme", project="site", provider="openai", request_model="gpt-4o",
        http_status=200, lease_id=lease_id, **numbers,
    )  # fmt: skip

    _, payload = record_payload(record, closes)

    assert usage_pb2.UsageRecord.FromString(payload) == to_proto(record, closes)


@given(_values(_OPEN[1:]), st.integers(1, 2**63 - 1))
def test_a_payload_is_the_open_call(values: tuple[int, ...], call: int) -> None:
    """An `interrupted` record is made of nothing else."""
    numbers: dict[str, Any] = dict(zip(_OPEN[1:], values, strict=True))

    _, payload = open_payload(call, OpenCall("acme", "site", "openai", **numbers))

    read = spool_pb2.OpenCall.FromString(payload)
    assert (read.client, read.provider, read.call) == ("acme", "openai", call)
    assert {name: getattr(read, name) for name in _OPEN[1:]} == numbers
