"""A ledger in memory with the rules of docs/architecture.md, and a real gRPC server before it.

    Delivery ─ ShipRequest ─▶ Ledger.receive ─▶ ShipResponses       without a network
    Shipper ─ gRPC ─▶ serving(ledger) ─▶ the same                    with one

What delivery is tested against where the daemon itself would be too slow or too well-behaved:
thousands of schedules, answers that get lost, refusals to order.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from meterd_proto.v1 import quota_pb2, quota_pb2_grpc, usage_pb2, usage_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class Producer:
    """What the ledger has of one producer."""

    hello: usage_pb2.Hello
    watermark: int = 0
    records: dict[int, usage_pb2.UsageRecord] = field(default_factory=dict)
    losses: list[tuple[int, int, str]] = field(default_factory=list)
    unread: dict[int, bytes] = field(default_factory=dict)
    report: usage_pb2.Report = field(default_factory=usage_pb2.Report)
    heartbeats: int = 0
    batches: int = 0
    goodbye: int | None = None


@dataclass
class Ledger:
    """Records by producer and sequence; hears and answers as the daemon does."""

    id: bytes = b"L" * 16
    producers: dict[bytes, Producer] = field(default_factory=dict)
    refuses: Callable[[usage_pb2.Batch], str] = lambda batch: ""
    """Why a batch is broken; empty: it isn't."""
    is_full: bool = False
    batch_records_max: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def receive(
        self, producer: bytes, request: usage_pb2.ShipRequest
    ) -> list[usage_pb2.ShipResponse]:
        """Answer one message of a producer's stream; `producer` is the one its Hello named."""
        with self.changed:
            answers = self._receive(producer, request)
            self.changed.notify_all()
        return answers

    def _receive(
        self, producer: bytes, request: usage_pb2.ShipRequest
    ) -> list[usage_pb2.ShipResponse]:
        kind = request.WhichOneof("message")
        if kind == "hello":
            known = self.producers.setdefault(request.hello.producer, Producer(request.hello))
            known.hello = request.hello
            welcome = usage_pb2.Welcome(
                ledger_id=self.id,
                watermark=known.watermark,
                batch_records_max=self.batch_records_max,
            )
            return [usage_pb2.ShipResponse(welcome=welcome)]
        known = self.producers[producer]
        if kind == "batch":
            return self._take(known, request.batch)
        if kind == "loss":
            loss = request.loss
            if self.is_full:
                return [_not_now()]
            if loss.first_sequence > known.watermark + 1:
                return [_refused(loss.first_sequence, loss.last_sequence, "a gap")]
            if loss.last_sequence > known.watermark:
                first = max(loss.first_sequence, known.watermark + 1)
                known.losses.append((first, loss.last_sequence, loss.reason))
                known.watermark = loss.last_sequence
            return [_acknowledged(known.watermark)]
        if kind == "report":
            known.report = request.report
        elif kind == "heartbeat":
            known.heartbeats += 1
        elif kind == "goodbye":
            known.goodbye = request.goodbye.last_sequence
        return []

    def _take(self, known: Producer, batch: usage_pb2.Batch) -> list[usage_pb2.ShipResponse]:
        if self.is_full:
            return [_not_now()]
        first, last = batch.first_sequence, batch.first_sequence + len(batch.dimension) - 1
        if why := self.refuses(batch):
            return [_refused(first, last, why)]
        if first > known.watermark + 1:
            return [_refused(first, last, f"a gap after {known.watermark}")]
        known.batches += 1
        unread = {entry.index: entry.payload for entry in batch.unread}
        for index, record in enumerate(records_of(batch)):
            sequence = first + index
            if sequence > known.watermark:
                known.watermark = sequence
                if index in unread:
                    known.unread[sequence] = unread[index]
                else:
                    known.records[sequence] = record
        return [_acknowledged(known.watermark)]

    def wait(self, is_so: Callable[[], bool], timeout: float = 20) -> bool:
        """Wait until something is so, looked at after every message."""
        with self.changed:
            return self.changed.wait_for(is_so, timeout)

    @property
    def records(self) -> list[usage_pb2.UsageRecord]:
        """All of them, by producer and sequence."""
        return [
            record
            for _, producer in sorted(self.producers.items())
            for _, record in sorted(producer.records.items())
        ]

    @property
    def losses(self) -> list[tuple[int, int, str]]:
        """What was declared lost, of all producers."""
        return [loss for producer in self.producers.values() for loss in producer.losses]

    @property
    def only(self) -> Producer:
        """The one producer there is."""
        (producer,) = self.producers.values()
        return producer


def _acknowledged(watermark: int) -> usage_pb2.ShipResponse:
    return usage_pb2.ShipResponse(acknowledgment=usage_pb2.Acknowledgment(watermark=watermark))


def _refused(first: int, last: int, reason: str) -> usage_pb2.ShipResponse:
    refused = usage_pb2.BatchRefused(first_sequence=first, last_sequence=last, reason=reason)
    return usage_pb2.ShipResponse(batch_refused=refused)


def _not_now() -> usage_pb2.ShipResponse:
    return usage_pb2.ShipResponse(not_now=usage_pb2.NotNow(pause_ms=60, reason="disk full"))


def records_of(batch: usage_pb2.Batch) -> list[usage_pb2.UsageRecord]:
    """A batch's records as records again, the long way round: a check on columns.

    Times are whole microseconds, and `closes` and `schema` were never sent.
    """
    count, text = len(batch.dimension), list(batch.strings)
    assert text[0] == ""
    zeros = [0] * count
    deltas = list(batch.occurred_at_delta_us) or zeros
    columns = {
        name: list(getattr(batch, name)) or zeros
        for name in (
            "duration_ms", "input_tokens", "cache_read_tokens", "output_tokens",
            "reasoning_tokens", "input_bytes",
        )
    }  # fmt: skip
    assert all(len(column) == count for column in columns.values())
    records, moment_us = [], batch.first_occurred_at_unix_ns // 1000
    for index, position in enumerate(batch.dimension):
        moment_us += deltas[index]
        shared = batch.dimensions[position]
        tag, lease = batch.tag[index], batch.lease[index] if batch.lease else 0
        record = usage_pb2.UsageRecord(
            client=text[batch.tag_client[tag]],
            project=text[batch.tag_project[tag]],
            provider=text[shared.provider],
            operation=text[shared.operation],
            request_model=text[shared.request_model],
            response_model=text[shared.response_model],
            account=text[shared.account],
            server_address=text[shared.server_address],
            status=shared.status,
            http_status=shared.http_status,
            estimated=shared.estimated,
            attempt=shared.attempt,
            is_continuation=shared.is_continuation,
            is_stream=shared.is_stream,
            lease_id=batch.leases[lease - 1] if lease else 0,
            occurred_at_unix_ns=moment_us * 1000,
        )
        for name, column in columns.items():
            setattr(record, name, column[index])
        for name in ("service_tier", "speed", "processing", "inference_geo"):
            if value := text[getattr(shared, name)]:
                setattr(record.price_context, name, value)
        records.append(record)
    for rare in batch.rare:
        record = records[rare.index]
        for name in (
            "cache_write_tokens", "cache_write_long_tokens", "audio_input_tokens",
            "audio_output_tokens", "provider_cost", "dedupe_id", "note",
        ):  # fmt: skip
            setattr(record, name, getattr(rare, name))
        if rare.HasField("history_bytes"):
            record.history_bytes = rare.history_bytes
        record.tool_calls.update(rare.tool_calls)
    return records


class UsageService(usage_pb2_grpc.UsageServiceServicer):
    """The Ship stream before a Ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.is_mute = False
        """Accepts streams and never answers: what a stuck channel looks like from inside."""
        self.drops_answers = 0
        """So many answers get lost on the way, and their streams with them."""
        self.metadata: list[dict[str, str | bytes]] = []

    def Ship(
        self,
        request_iterator: Iterator[usage_pb2.ShipRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[usage_pb2.ShipResponse]:
        self.metadata.append(dict(context.invocation_metadata()))
        producer = b""
        for request in request_iterator:
            if self.is_mute:
                continue
            if request.HasField("hello"):
                producer = request.hello.producer
            for answer in self.ledger.receive(producer, request):
                if self.drops_answers and answer.HasField("acknowledgment"):
                    self.drops_answers -= 1
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")
                yield answer
                if answer.HasField("batch_refused"):
                    context.abort(grpc.StatusCode.INVALID_ARGUMENT, answer.batch_refused.reason)


class QuotaService(quota_pb2_grpc.QuotaServiceServicer):
    """Grants whatever is asked."""

    def __init__(self) -> None:
        self.heard: list[quota_pb2.LeaseRequest] = []

    def Lease(
        self,
        request_iterator: Iterator[quota_pb2.LeaseRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[quota_pb2.LeaseResponse]:
        lease_id = 0
        for request in request_iterator:
            self.heard.append(request)
            if request.HasField("wanted"):
                lease_id += 1
                grant = quota_pb2.Lease(
                    request=request.wanted.request,
                    lease_id=lease_id,
                    client=request.wanted.client,
                    tokens=request.wanted.tokens + 10_000,
                    expires_in_ms=60_000,
                    mode=quota_pb2.LIMIT_MODE_HARD,
                )
                yield quota_pb2.LeaseResponse(grant=grant)

    def Status(
        self, request: quota_pb2.QuotaStatusRequest, context: grpc.ServicerContext
    ) -> quota_pb2.QuotaStatusResponse:
        return quota_pb2.QuotaStatusResponse()


@dataclass
class Server:
    """A running server; `stop` and `start` it at the same address as a daemon would restart."""

    ledger: Ledger
    usage: UsageService
    quota: QuotaService
    target: str
    _server: grpc.Server | None = None

    def start(self) -> None:
        """Listen."""
        self._server = grpc.server(ThreadPoolExecutor(max_workers=64))
        usage_pb2_grpc.add_UsageServiceServicer_to_server(self.usage, self._server)
        quota_pb2_grpc.add_QuotaServiceServicer_to_server(self.quota, self._server)
        self._server.add_insecure_port(self.target)
        self._server.start()

    def stop(self) -> None:
        """Go away, with every stream."""
        if self._server is not None:
            self._server.stop(None).wait(10)
            self._server = None


@contextlib.contextmanager
def serving(ledger: Ledger | None = None, *, is_up: bool = True) -> Iterator[Server]:
    """A server on a socket of its own."""
    ledger = ledger or Ledger()
    with tempfile.TemporaryDirectory(prefix="m", dir="/tmp") as directory:
        target = f"unix:{Path(directory) / 's'}"
        server = Server(ledger, UsageService(ledger), QuotaService(), target)
        if is_up:
            server.start()
        try:
            yield server
        finally:
            server.stop()
