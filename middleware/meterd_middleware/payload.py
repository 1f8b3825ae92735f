"""Records and open calls as bytes: what calls have in common first, and made once.

    UsageRecord ─▶ head: client, project, models, status … │ rest: times and token counts
                   looked up by value                        made anew each time

A serialised message may be cut between fields and joined again in any order, so head + rest
is an ordinary `UsageRecord` (or `OpenCall`) to everybody. The cut lets `append` look most of
a record up instead of making it, and lets the shipper look it up instead of parsing it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

from meterd_middleware.numbers import Numbers
from meterd_middleware.segment import HEAD_BYTES_MAX
from meterd_middleware.usage import SCHEMA, UsageRecord, to_proto
from meterd_proto.v1 import spool_pb2, usage_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

PARTS_MAX = 4_096
"""How many different pairs of tags, and kinds of call, a process keeps; then it begins anew."""


class OpenCall(NamedTuple):
    """A call that is about to be sent: what an `interrupted` record is made of.

    `input_tokens` is estimated from the request's body. A named tuple, since each call makes
    one: a frozen dataclass of as many fields takes four times as long.
    """

    client: str
    project: str = ""
    provider: str = ""
    operation: str = "chat"
    request_model: str = ""
    occurred_at_unix_ns: int = 0
    input_tokens: int = 0
    reserved_tokens: int = 0
    lease_id: int = 0
    account: str = ""
    server_address: str = ""
    input_bytes: int = 0
    attempt: int = 0
    is_stream: bool = False


Payload: TypeAlias = tuple[int, bytes]
"""How many bytes of a frame's payload are its head (0: not told), and the payload. A plain
tuple: a named one costs 0.3 µs more to make, twice a call."""


def record_payload(record: UsageRecord, closes: int = 0) -> Payload:
    """A record as it stands in its frame. Never raises for its contents.

    A value that no field holds (a negative duration, a lone surrogate) is brought to the
    nearest that one does; nonsense in token counts stays nonsense, for the daemon to see.
    """
    try:
        return _record_payload(record, closes)
    except (ValueError, TypeError, OverflowError):
        return _record_payload(_made_to_fit(record), closes)


def open_payload(call: int, opened: OpenCall) -> Payload:
    """A call that is about to be sent, as it stands in its frame."""
    try:
        return _open_payload(call, opened)
    except (ValueError, TypeError, OverflowError):
        return _open_payload(call, _open_made_to_fit(opened))


def interrupted_payload(opened: spool_pb2.OpenCall) -> bytes:
    """The record of a call that was sent and whose process died: its input is what we estimated.

    Made of the open frame alone, so that any two who adopt a spool make the same bytes.
    """
    return usage_pb2.UsageRecord(
        client=opened.client,
        project=opened.project,
        provider=opened.provider,
        operation=opened.operation,
        request_model=opened.request_model,
        status=usage_pb2.STATUS_INTERRUPTED,
        occurred_at_unix_ns=opened.occurred_at_unix_ns,
        input_tokens=opened.input_tokens,
        estimated=3,
        account=opened.account,
        server_address=opened.server_address,
        input_bytes=opened.input_bytes,
        attempt=opened.attempt,
        is_stream=opened.is_stream,
        lease_id=opened.lease_id,
        closes=opened.call,
        schema=opened.schema,
    ).SerializeToString(deterministic=True)


_T = TypeVar("_T")


class _Made(Generic[_T]):
    """Serialised parts of heads by what they say. Threads may race: they write the same."""

    __slots__ = ("_make", "known")

    def __init__(self, make: Callable[[_T], bytes]) -> None:
        self._make = make
        self.known: dict[Hashable, bytes] = {}
        """Looked into where a part is wanted, which spares most of them a call of `made`."""

    def made(self, key: Hashable, value: _T) -> bytes:
        if len(self.known) >= PARTS_MAX:
            self.known = {}
        part = self.known[key] = self._make(value)
        return part


# A head is tags + lease + kind of call, in this order, which batch.py relies on: clients are
# many and kinds are many, but all their pairs are far more.
_KIND = (
    "provider", "operation", "request_model", "response_model", "status", "http_status",
    "estimated", "account", "server_address", "attempt", "is_continuation", "is_stream",
)  # fmt: skip


def _tags_part(record: UsageRecord) -> bytes:
    client = usage_pb2.UsageRecord(client=record.client).SerializeToString()
    return client + usage_pb2.UsageRecord(project=record.project).SerializeToString()


def _kind_part(record: UsageRecord) -> bytes:
    kind = {name: getattr(record, name) for name in _KIND}
    message = to_proto(UsageRecord(client="", **kind, price_context=record.price_context))
    return message.SerializeToString()


def _lease_part(record: UsageRecord) -> bytes:
    return usage_pb2.UsageRecord(lease_id=record.lease_id).SerializeToString()


_tags_parts, _lease_parts, _kind_parts = _Made(_tags_part), _Made(_lease_part), _Made(_kind_part)


def _record_payload(record: UsageRecord, closes: int) -> Payload:
    if (
        record.history_bytes is not None
        or record.cache_write_tokens
        or record.cache_write_long_tokens
        or record.audio_input_tokens
        or record.audio_output_tokens
        or record.tool_calls
        or record.provider_cost
        or record.dedupe_id
        or record.note
    ):
        return 0, to_proto(record, closes).SerializeToString()
    tags = (record.client, record.project)
    head = _tags_parts.known.get(tags) or _tags_parts.made(tags, record)
    if lease_id := record.lease_id:
        head += _lease_parts.known.get(lease_id) or _lease_parts.made(lease_id, record)
    key: Hashable = (  # of `_KIND`, spelled out: an attrgetter takes three times as long
        record.provider,
        record.operation,
        record.request_model,
        record.response_model,
        record.status,
        record.http_status,
        record.estimated,
        record.account,
        record.server_address,
        record.attempt,
        record.is_continuation,
        record.is_stream,
    )
    if record.price_context:
        key = (key, *record.price_context.items())
    head += _kind_parts.known.get(key) or _kind_parts.made(key, record)
    rest = _record_rest(
        record.occurred_at_unix_ns,
        record.duration_ms,
        record.input_tokens,
        record.cache_read_tokens,
        record.output_tokens,
        record.reasoning_tokens,
        record.input_bytes,
        closes,
    )
    size = len(head)
    return size if size <= HEAD_BYTES_MAX else 0, head + rest


_OPEN_KIND = (
    "provider", "operation", "request_model", "account", "server_address", "attempt", "is_stream",
)  # fmt: skip


def _open_tags_part(opened: OpenCall) -> bytes:
    return spool_pb2.OpenCall(client=opened.client, project=opened.project).SerializeToString()


def _open_kind_part(opened: OpenCall) -> bytes:
    kind = {name: getattr(opened, name) for name in _OPEN_KIND}
    return spool_pb2.OpenCall(**kind, schema=SCHEMA).SerializeToString()


_open_tags_parts, _open_kind_parts = _Made(_open_tags_part), _Made(_open_kind_part)


def _open_payload(call: int, opened: OpenCall) -> Payload:
    (client, project, provider, operation, request_model, occurred_at_unix_ns, input_tokens,
     reserved_tokens, lease_id, account, server_address, input_bytes, attempt,
     is_stream) = opened  # fmt: skip
    tags = (client, project)
    head = _open_tags_parts.known.get(tags) or _open_tags_parts.made(tags, opened)
    key = (provider, operation, request_model, account, server_address, attempt, is_stream)
    head += _open_kind_parts.known.get(key) or _open_kind_parts.made(key, opened)
    rest = _open_rest(
        call, occurred_at_unix_ns, input_tokens, reserved_tokens, lease_id, input_bytes
    )
    size = len(head)
    return size if size <= HEAD_BYTES_MAX else 0, head + rest


_record_rest = Numbers(
    usage_pb2.UsageRecord,
    ("occurred_at_unix_ns", "duration_ms", "input_tokens", "cache_read_tokens", "output_tokens",
     "reasoning_tokens", "input_bytes", "closes"),
    moment="occurred_at_unix_ns",
).of  # fmt: skip
_open_rest = Numbers(
    spool_pb2.OpenCall,
    ("call", "occurred_at_unix_ns", "input_tokens", "reserved_tokens", "lease_id", "input_bytes"),
    moment="occurred_at_unix_ns",
).of


def _made_to_fit(record: UsageRecord) -> UsageRecord:
    fitting: dict[str, Any] = {name: _text(getattr(record, name)) for name in _TEXTS}
    for name in (*_UNSIGNED, *_UNSIGNED_64, *_COUNTS):
        fitting[name] = _fitting(name, getattr(record, name))
    if record.history_bytes is not None:
        fitting["history_bytes"] = _fitting("input_bytes", record.history_bytes)
    context = {_text(name): _text(value) for name, value in record.price_context.items()}
    tools = {
        _text(name): _fitting("input_tokens", calls) for name, calls in record.tool_calls.items()
    }
    return replace(record, **fitting, price_context=context, tool_calls=tools)


def _open_made_to_fit(opened: OpenCall) -> OpenCall:
    fitting: dict[str, Any] = {name: _text(getattr(opened, name)) for name in _OPEN_TEXTS}
    numbers = ("attempt", "input_bytes", "input_tokens", "reserved_tokens", *_UNSIGNED_64)
    for name in numbers:
        fitting[name] = _fitting(name, getattr(opened, name))
    return opened._replace(**fitting)


_OPEN_TEXTS = (
    "client", "project", "provider", "operation", "request_model", "account", "server_address",
)  # fmt: skip
_TEXTS = (*_OPEN_TEXTS, "response_model", "dedupe_id", "note")
_UNSIGNED = ("http_status", "duration_ms", "input_bytes", "attempt")
_UNSIGNED_64 = ("occurred_at_unix_ns", "lease_id")
_COUNTS = (
    "input_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_long_tokens",
    "output_tokens", "reasoning_tokens", "audio_input_tokens", "audio_output_tokens",
)  # fmt: skip


def _text(value: object) -> str:
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _fitting(name: str, value: Any) -> int:
    """The nearest number that the field holds; 0 for what is no number."""
    if name in _UNSIGNED:
        least, greatest = 0, 2**32 - 1
    else:
        least, greatest = (0, 2**64 - 1) if name in _UNSIGNED_64 else (-(2**63), 2**63 - 1)
    try:
        return max(least, min(greatest, int(value)))
    except (ValueError, TypeError, OverflowError):
        return 0
