"""What an app counts itself: `meter.record`, `meter.call`, `meter.check`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from meterd_middleware import (
    Estimated,
    InvalidUsage,
    QuotaExceeded,
    Status,
    Untagged,
    UsageRecord,
    tagged,
)
from meterd_middleware.testing import RecordingMeter

if TYPE_CHECKING:
    from collections.abc import Iterator

WHOLE: dict[str, Any] = {
    "client": "acme-corp",
    "project": "support-chatbot",
    "provider": "openai",
    "operation": "chat",
    "request_model": "gpt-4o",
    "response_model": "gpt-4o-2024-08-06",
    "input_tokens": 1_000,
    "output_tokens": 500,
    "cache_read_tokens": 300,
    "cache_write_tokens": 200,
    "cache_write_long_tokens": 100,
    "reasoning_tokens": 50,
    "audio_input_tokens": 40,
    "audio_output_tokens": 30,
    "price_context": {"service_tier": "batch"},
    "tool_calls": {"web_search": 2},
    "provider_cost": Decimal("0.0123"),
    "account": "key-7",
    "dedupe_id": "batch-1/row-7",
    "note": "nightly batch",
}


@pytest.fixture
def told(meter: RecordingMeter) -> Iterator[list[UsageRecord]]:
    records: list[UsageRecord] = []
    meter.exchanges._on_record = records.append
    yield records
    assert records == meter.records


def test_a_record_holds_what_it_was_given(meter: RecordingMeter, told: list[UsageRecord]) -> None:
    moment = datetime(2026, 11, 25, 12, 30, 15, 123456, timezone(timedelta(hours=-5)))

    meter.record(**WHOLE, occurred_at=moment)

    (record,) = meter.records
    for name, value in WHOLE.items():
        assert getattr(record, name) == value, name
    assert record.occurred_at_unix_ns == 1_795_627_815_123_456_000
    assert (record.status, record.estimated) == (Status.COMPLETE, Estimated.NOTHING)


def test_a_record_without_a_moment_occurred_now(meter: RecordingMeter) -> None:
    before = meter.exchanges.now_ns()
    meter.record(client="acme-corp", request_model="m", input_tokens=1)

    assert before <= meter.records[0].occurred_at_unix_ns <= meter.exchanges.now_ns()


def test_a_record_that_was_estimated_says_so(meter: RecordingMeter) -> None:
    meter.record(client="acme-corp", request_model="m", input_tokens=1, is_estimated=True)

    assert meter.records[0].is_estimated


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("client", "", "1 to 128 printable ASCII characters"),
        ("client", "x" * 129, "1 to 128 printable ASCII characters"),
        ("client", "acme\x00", "1 to 128 printable ASCII characters"),
        ("client", "äcme", "1 to 128 printable ASCII characters"),
        ("client", None, "1 to 128 printable ASCII characters"),
        ("project", "p\n", "1 to 128 printable ASCII characters"),
        ("input_tokens", -1, "a whole number from 0"),
        ("input_tokens", 1.5, "a whole number from 0"),
        ("input_tokens", True, "a whole number from 0"),
        ("input_tokens", "12", "a whole number from 0"),
        ("output_tokens", 2**53 + 1, "a whole number from 0"),
        ("cache_read_tokens", 1_001, "at most input_tokens (1000)"),
        ("cache_write_tokens", 900, "together with cache_read_tokens at most 1000"),
        ("cache_write_long_tokens", 201, "at most cache_write_tokens (200)"),
        ("reasoning_tokens", 501, "at most output_tokens (500)"),
        ("audio_output_tokens", 501, "at most output_tokens (500)"),
        ("request_model", "m\n", "a string of at most 256 printable characters"),
        ("request_model", "m" * 257, "a string of at most 256 printable characters"),
        ("provider_cost", Decimal("-1"), "a Decimal of at least 0"),
        ("provider_cost", 0.5, "a Decimal of at least 0"),
        ("provider_cost", Decimal("NaN"), "a Decimal of at least 0"),
        ("occurred_at", datetime(2026, 1, 1), "an aware datetime since 1970"),  # noqa: DTZ001
        ("occurred_at", datetime(1969, 1, 1, tzinfo=UTC), "an aware datetime since 1970"),
    ],
)
def test_what_cant_be_counted_names_field_value_and_what_was_expected(
    meter: RecordingMeter, field: str, value: object, expected: str
) -> None:
    with pytest.raises(InvalidUsage) as caught:
        meter.record(**{**WHOLE, field: value})

    assert caught.value.field == field
    assert repr(caught.value.value) == repr(value)
    assert expected in str(caught.value)
    assert meter.records == []


def test_an_unknown_price_context_is_refused(meter: RecordingMeter) -> None:
    with pytest.raises(InvalidUsage, match="price_context is 'tier', expected service_tier or"):
        meter.record(**{**WHOLE, "price_context": {"tier": "x"}})
    with pytest.raises(InvalidUsage, match="a whole number"):
        meter.record(**{**WHOLE, "tool_calls": {"web_search": -1}})


def test_a_call_is_settled_with_what_the_app_counted(meter: RecordingMeter) -> None:
    with tagged(client="acme-corp", project="p"), meter.call(
        provider="xai", request_model="grok-4", max_tokens=500, input_tokens=80
    ) as call:  # fmt: skip
        call.settle(input_tokens=90, output_tokens=40, response_model="grok-4-1")

    (record,) = meter.records
    assert (record.client, record.project, record.provider) == ("acme-corp", "p", "xai")
    assert (record.input_tokens, record.output_tokens) == (90, 40)
    assert (record.status, record.response_model) == ("complete", "grok-4-1")
    assert not record.is_estimated


async def test_a_call_can_be_awaited(meter: RecordingMeter) -> None:
    async with meter.call(client="acme-corp", request_model="grok-4") as call:
        call.settle(input_tokens=1, output_tokens=2)

    assert meter.records[0].tokens == 3


def test_a_call_settled_twice_counts_the_first_word(meter: RecordingMeter) -> None:
    with meter.call(client="acme-corp", request_model="m") as call:
        call.settle(input_tokens=1, output_tokens=2)
        call.settle(input_tokens=100, output_tokens=200)

    assert [r.tokens for r in meter.records] == [3]


def test_a_call_that_is_never_settled_is_abandoned_and_estimated(meter: RecordingMeter) -> None:
    with meter.call(client="acme-corp", request_model="m", input_tokens=80):
        pass

    (record,) = meter.records
    assert (record.status, record.input_tokens, record.is_estimated) == ("abandoned", 80, True)


def test_a_call_that_raises_is_failed_and_the_exception_is_the_apps(
    meter: RecordingMeter,
) -> None:
    with pytest.raises(ZeroDivisionError), meter.call(client="acme-corp", request_model="m"):
        raise ZeroDivisionError

    (record,) = meter.records
    assert (record.status, record.tokens) == ("failed", 0)
    assert record.note == "error: ZeroDivisionError"


def test_counts_that_cant_be_settled_leave_the_call_open(meter: RecordingMeter) -> None:
    with meter.call(client="acme-corp", request_model="m") as call:
        with pytest.raises(InvalidUsage, match="reasoning_tokens is 9, expected at most"):
            call.settle(input_tokens=1, output_tokens=2, reasoning_tokens=9)
        call.settle(input_tokens=1, output_tokens=2)

    assert [r.tokens for r in meter.records] == [3]


def test_a_refused_call_raises_on_entry(meter: RecordingMeter) -> None:
    meter.refuse("acme-corp")
    with pytest.raises(QuotaExceeded), meter.call(client="acme-corp", request_model="m"):
        raise AssertionError("the call was made")

    assert [r.status for r in meter.records] == ["refused"]


def test_a_call_with_an_id_that_cant_be_used_is_refused_by_name(meter: RecordingMeter) -> None:
    with pytest.raises(InvalidUsage, match="client is 'a b '"):
        meter.call(client="a b ", request_model="m")
    with pytest.raises(InvalidUsage, match="input_tokens is -1"):
        meter.call(client="acme-corp", request_model="m", input_tokens=-1)


@pytest.mark.parametrize("tokens", [0, -5, 1.5, True])
def test_check_wants_a_whole_number_of_tokens(meter: RecordingMeter, tokens: Any) -> None:
    with pytest.raises(InvalidUsage, match="tokens is"):
        meter.check(client="acme-corp", tokens=tokens)


def test_a_strict_meter_wants_a_client_for_check() -> None:
    meter = RecordingMeter(on_untagged="refuse")

    with pytest.raises(Untagged):
        meter.check(tokens=5)
    meter.check(client="acme-corp", tokens=5)
