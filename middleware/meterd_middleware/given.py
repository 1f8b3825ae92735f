"""What an app counts itself: checked, then a usage record like any other (pure)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from meterd_middleware.errors import InvalidUsage
from meterd_middleware.tags import ID_CHARACTERS_MAX, why_invalid
from meterd_middleware.usage import (
    NO_CONTEXT,
    NOTHING,
    PRICE_CONTEXT_FIELDS,
    TOKENS_MAX,
    Estimated,
    UsageRecord,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

TEXT_CHARACTERS_MAX = 256

_PARTS = (
    ("cache_read_tokens", "input_tokens"),
    ("cache_write_tokens", "input_tokens"),
    ("cache_write_long_tokens", "cache_write_tokens"),
    ("audio_input_tokens", "input_tokens"),
    ("reasoning_tokens", "output_tokens"),
    ("audio_output_tokens", "output_tokens"),
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def given_record(
    *,
    client: str,
    project: str,
    provider: str,
    operation: str,
    request_model: str,
    response_model: str,
    counts: Mapping[str, int],
    price_context: Mapping[str, str] | None,
    tool_calls: Mapping[str, int] | None,
    provider_cost: Decimal | None,
    account: str,
    occurred_at: datetime | None,
    dedupe_id: str,
    is_estimated: bool,
    note: str,
    now_ns: int,
) -> UsageRecord:
    """The record of usage that an app gives by hand.

    Raises:
        InvalidUsage: names the first field that can't be counted, its value, what was expected.
    """
    usable_id("client", client)
    if project:
        usable_id("project", project)
    texts = {
        "provider": provider,
        "operation": operation,
        "request_model": request_model,
        "response_model": response_model,
        "account": account,
        "dedupe_id": dedupe_id,
        "note": note,
    }
    for name, text in texts.items():
        _usable_text(name, text)
    usable_counts(counts)
    if provider_cost is not None and not _is_cost(provider_cost):
        raise InvalidUsage("provider_cost", provider_cost, "a Decimal of at least 0")
    return UsageRecord(
        client=client,
        project=project,
        provider=provider,
        operation=operation,
        request_model=request_model,
        response_model=response_model,
        http_status=200,
        occurred_at_unix_ns=now_ns if occurred_at is None else _unix_ns(occurred_at),
        estimated=Estimated.INPUT | Estimated.OUTPUT if is_estimated else Estimated.NOTHING,
        price_context=_usable_context(price_context),
        tool_calls=_usable_tool_calls(tool_calls),
        provider_cost=provider_cost,
        account=account,
        dedupe_id=dedupe_id,
        note=note,
        input_tokens=counts["input_tokens"],
        cache_read_tokens=counts["cache_read_tokens"],
        cache_write_tokens=counts["cache_write_tokens"],
        cache_write_long_tokens=counts["cache_write_long_tokens"],
        output_tokens=counts["output_tokens"],
        reasoning_tokens=counts["reasoning_tokens"],
        audio_input_tokens=counts["audio_input_tokens"],
        audio_output_tokens=counts["audio_output_tokens"],
    )


def usable_id(name: str, value: str) -> None:
    """Raise `InvalidUsage` unless `value` can be a client or project id."""
    wrong = why_invalid(value) if isinstance(value, str) else "is no string"
    if wrong:
        expected = f"1 to {ID_CHARACTERS_MAX} printable ASCII characters without outer blanks"
        raise InvalidUsage(name, value, expected)


def usable_counts(counts: Mapping[str, int]) -> None:
    """Raise `InvalidUsage` unless all are whole numbers and the parts fit their wholes."""
    for name, count in counts.items():
        if type(count) is not int or not 0 <= count <= TOKENS_MAX:
            raise InvalidUsage(name, count, "a whole number from 0 to 2^53")
    for part, whole in _PARTS:
        if counts.get(part, 0) > counts.get(whole, 0):
            raise InvalidUsage(
                part, counts[part], f"at most {whole} ({counts.get(whole, 0)}), whose part it is"
            )
    cached = counts.get("cache_read_tokens", 0) + counts.get("cache_write_tokens", 0)
    if cached > counts.get("input_tokens", 0):
        expected = f"together with cache_read_tokens at most {counts.get('input_tokens', 0)}"
        raise InvalidUsage("cache_write_tokens", counts["cache_write_tokens"], expected)


def _usable_text(name: str, text: str) -> None:
    if not isinstance(text, str) or len(text) > TEXT_CHARACTERS_MAX or not _is_plain(text):
        expected = f"a string of at most {TEXT_CHARACTERS_MAX} printable characters"
        raise InvalidUsage(name, text, expected)


def _is_plain(text: str) -> bool:
    return text.isprintable()


def _usable_context(context: Mapping[str, str] | None) -> Mapping[str, str]:
    if not context:
        return NO_CONTEXT
    for name, value in context.items():
        if name not in PRICE_CONTEXT_FIELDS:
            raise InvalidUsage("price_context", name, " or ".join(PRICE_CONTEXT_FIELDS))
        _usable_text(f"price_context[{name!r}]", value)
    return dict(context)


def _usable_tool_calls(tool_calls: Mapping[str, int] | None) -> Mapping[str, int]:
    if not tool_calls:
        return NOTHING
    for name, count in tool_calls.items():
        _usable_text("tool_calls", name)
        if type(count) is not int or not 0 <= count <= TOKENS_MAX:
            raise InvalidUsage(f"tool_calls[{name!r}]", count, "a whole number from 0 to 2^53")
    return dict(tool_calls)


def _is_cost(cost: Decimal) -> bool:
    return isinstance(cost, Decimal) and cost.is_finite() and cost >= 0


def _unix_ns(moment: datetime) -> int:
    """Unix nanoseconds of an aware moment, exactly: a float would lose some."""
    if not isinstance(moment, datetime) or moment.tzinfo is None or moment < _EPOCH:
        raise InvalidUsage("occurred_at", moment, "an aware datetime since 1970")
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1_000
