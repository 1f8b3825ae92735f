"""One producer's stream, from the daemon's side, without the network: what each message asks for.

    Hello ─▶ Greeting            first, and only once
    Batch ─▶ WireBatch           read later, on the writer's thread
    Loss, Heartbeat, Report, Goodbye ─▶ values of the store

A stream is believed in nothing it has no need to say: ids, ranges and order are checked here,
what a record says is checked where it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from meterd.errors import InvalidRequest
from meterd.ids import LedgerId, ProducerId
from meterd.ingest.reading import BATCH_BYTES_MAX, BATCH_RECORDS_MAX, SCHEMA, WireBatch
from meterd.store.values import Heartbeat, Producer
from meterd_proto.v1 import usage_pb2

if TYPE_CHECKING:
    from meterd.errors import BatchBroken

PRODUCER_BYTES = 16
TEXT_CHARACTERS_MAX = 256
REPORT_BYTES_MAX = 64 << 10
NOT_NOW_PAUSE_MS = 1_000
_BATCH_TAG = b"\x12"
"""The first byte of a serialised ShipRequest that holds a batch: field 2, a message."""


class Loss(NamedTuple):
    """Sequences that the producer no longer has."""

    first: int
    last: int
    reason: str


class Report(NamedTuple):
    """What the producer counted beside records, serialised."""

    payload: bytes


class Goodbye(NamedTuple):
    """Everything up to here is all there will be."""

    last_sequence: int


Asked: TypeAlias = WireBatch | Heartbeat | Loss | Report | Goodbye
Request: TypeAlias = bytes | usage_pb2.ShipRequest


def read_request(data: bytes) -> Request:
    """A message off the wire; one that holds a batch stays as it is, to be read elsewhere.

    Raises:
        DecodeError: it is no protobuf message.
    """
    return data if data.startswith(_BATCH_TAG) else usage_pb2.ShipRequest.FromString(data)


def greeting(request: Request) -> Producer:
    """Who opens a stream.

    Raises:
        InvalidRequest: the first message is no Hello, or names no producer.
    """
    if isinstance(request, bytes) or request.WhichOneof("message") != "hello":
        raise InvalidRequest("a stream begins with Hello")
    hello = request.hello
    if len(hello.producer) != PRODUCER_BYTES:
        raise InvalidRequest(f"a producer's id has {PRODUCER_BYTES} bytes")
    return Producer(
        id=ProducerId(hello.producer),
        service=_shown(hello.service),
        host=_shown(hello.host),
        pid=hello.pid,
        version=_shown(hello.version),
        schema=hello.schema,
        is_adopted=hello.is_adopted,
        next_sequence=max(1, hello.next_sequence),
    )


class Stream:
    """What a greeted producer asks for, message by message."""

    def __init__(self, producer: ProducerId) -> None:
        self._producer = producer

    def asked(self, request: Request, received_at_ms: int) -> Asked | None:
        """What a message asks for; None for one that a newer producer may send.

        Raises:
            InvalidRequest: it is no protobuf message, says Hello again, or has an impossible
                range.
        """
        if isinstance(request, bytes):
            return WireBatch(self._producer, received_at_ms, request=request)
        kind = request.WhichOneof("message")
        if kind == "batch":
            return WireBatch(self._producer, received_at_ms, message=request.batch)
        if kind == "heartbeat":
            return self._heartbeat(request.heartbeat, received_at_ms)
        if kind == "loss":
            return _loss(request.loss)
        if kind == "report":
            payload = request.report.SerializeToString()
            return Report(payload) if len(payload) <= REPORT_BYTES_MAX else None
        if kind == "goodbye":
            return Goodbye(min(request.goodbye.last_sequence, 1 << 62))
        if kind == "hello":
            raise InvalidRequest("Hello is said once a stream")
        return None

    def _heartbeat(self, heartbeat: usage_pb2.Heartbeat, received_at_ms: int) -> Heartbeat:
        sent_at_ms = heartbeat.sent_at_unix_ns // 1_000_000
        skew = received_at_ms - sent_at_ms if sent_at_ms else 0
        oldest = heartbeat.oldest_open_at_unix_ns // 1_000_000
        return Heartbeat(
            producer=self._producer,
            received_at_ms=received_at_ms,
            skew_ms=skew,
            highest_appended=min(heartbeat.highest_appended_sequence, 1 << 62),
            open_calls=heartbeat.open_calls,
            oldest_open_at_ms=oldest,
        )


# ── answers ──


def welcome(ledger_id: LedgerId, watermark: int, version: str) -> usage_pb2.ShipResponse:
    """What this ledger has of the producer, and how much it takes at a time."""
    return usage_pb2.ShipResponse(
        welcome=usage_pb2.Welcome(
            ledger_id=ledger_id,
            watermark=watermark,
            version=version,
            schema=SCHEMA,
            batch_records_max=BATCH_RECORDS_MAX,
            batch_bytes_max=BATCH_BYTES_MAX,
        )
    )


def acknowledgment(watermark: int) -> usage_pb2.ShipResponse:
    """Everything up to here is durable, or declared lost."""
    return usage_pb2.ShipResponse(acknowledgment=usage_pb2.Acknowledgment(watermark=watermark))


def batch_refused(batch: WireBatch, fault: BatchBroken) -> usage_pb2.ShipResponse:
    """A batch that can't be taken for its framing, size or order."""
    first, last = batch.span
    return usage_pb2.ShipResponse(
        batch_refused=usage_pb2.BatchRefused(
            first_sequence=first, last_sequence=last, reason=str(fault)
        )
    )


def not_now(reason: str) -> usage_pb2.ShipResponse:
    """Nothing was lost; send again after the pause."""
    return usage_pb2.ShipResponse(
        not_now=usage_pb2.NotNow(pause_ms=NOT_NOW_PAUSE_MS, reason=reason)
    )


def _loss(loss: usage_pb2.Loss) -> Loss:
    if not 1 <= loss.first_sequence <= loss.last_sequence < 1 << 62:
        raise InvalidRequest(
            f"sequences {loss.first_sequence} to {loss.last_sequence} can't be lost"
        )
    return Loss(loss.first_sequence, loss.last_sequence, _shown(loss.reason))


def _shown(text: str) -> str:
    """Text of a producer as it may be shown: bounded, on one line."""
    return "".join(sign if sign.isprintable() else " " for sign in text[:TEXT_CHARACTERS_MAX])
