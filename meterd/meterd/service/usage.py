"""UsageService: records come in, acknowledgments go out, after the commit and never before.

    producer ─ batches ─▶ at most WINDOW of a stream, BYTES_MAX of all ─▶ store.commit
             ◀─ acknowledgments, in order ─────────────────────────────────┘

The event loop only passes bytes on: a batch is parsed, checked and priced on the writer's
thread. A stream that has its window full isn't read from, so that gRPC's flow control makes
the producer wait, and no producer can crowd out the others: each has a few batches in the
writer's queue, whatever it has left to send.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from meterd.errors import BatchBroken, MeterdError, SequenceGap, Unavailable
from meterd.ingest import stream
from meterd.ingest.reading import WireBatch
from meterd.service.status import refuse
from meterd.store.values import Heartbeat
from meterd_proto.v1 import usage_pb2, usage_pb2_grpc

if TYPE_CHECKING:
    from meterd.clock import Clock
    from meterd.ids import ProducerId
    from meterd.store.store import Store
    from meterd.store.values import Producer

WINDOW = 32
"""Batches of one stream that may wait for their commit: more than a producer sends at once."""

BYTES_MAX = 32 << 20
"""Bytes of all streams that may wait for their commit."""

_log = logging.getLogger("meterd")

_Context = Any  # grpc.aio.ServicerContext, whose stubs don't say what it reads and writes


class _Superseded(Exception):
    """A newer stream of the same producer has begun."""


class UsageServicer(usage_pb2_grpc.UsageServiceServicer):
    """Takes records from producers, each on one stream."""

    def __init__(self, store: Store, clock: Clock, version: str = "") -> None:
        self._store = store
        self._clock = clock
        self._version = version
        self._streams: dict[ProducerId, _Shipping] = {}
        self._room = _Room(BYTES_MAX)

    @property
    def connected(self) -> frozenset[ProducerId]:
        """The producers that have a stream open now."""
        return frozenset(self._streams)

    async def Ship(self, requests: object, context: object) -> None:  # type: ignore[override]
        """One producer's stream, until it ends, or a newer one of it begins."""
        call: _Context = context
        try:
            first = await call.read()
            if first is grpc.aio.EOF:
                return
            producer = stream.greeting(first)
            shipping = _Shipping(self._store, self._clock, self._room, producer.id, call)
            older = self._streams.get(producer.id)
            if older is not None:
                older.supersede()
            self._streams[producer.id] = shipping
            try:
                await self._ship(producer, shipping, call)
            finally:
                if self._streams.get(producer.id) is shipping:
                    del self._streams[producer.id]
        except _Superseded:
            await call.abort(grpc.StatusCode.ABORTED, "a newer stream of this producer has begun")
        except MeterdError as error:
            await refuse(call, error)

    async def _ship(self, producer: Producer, shipping: _Shipping, call: _Context) -> None:
        watermark = await self._store.hello(producer, self._clock.unix_ns() // 1_000_000)
        await call.write(stream.welcome(self._store.ledger_id, watermark, self._version))
        try:
            await shipping.run(watermark)
        except* _Superseded as group:
            raise _Superseded from group
        except* MeterdError as group:
            raise _first(group) from group


def add_to_server(servicer: UsageServicer, server: grpc.aio.Server) -> None:
    """Register the service so that batches reach it as bytes.

    The generated registration parses each message on the event loop; a batch is parsed on
    the writer's thread instead, where it costs the loop nothing.
    """
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.Ship,
        request_deserializer=stream.read_request,
        response_serializer=usage_pb2.ShipResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("meterd.v1.UsageService", {"Ship": handler}),)
    )


class _Shipping:
    """One stream: a task that reads, and one that answers in order."""

    def __init__(
        self, store: Store, clock: Clock, room: _Room, producer: ProducerId, call: _Context
    ) -> None:
        self._store = store
        self._clock = clock
        self._room = room
        self._producer = producer
        self._call = call
        self._stream = stream.Stream(producer)
        self._answers: asyncio.Queue[asyncio.Task[_Outcome] | None] = asyncio.Queue(WINDOW)
        self._acknowledged = 0
        self._superseded = asyncio.get_running_loop().create_future()

    def supersede(self) -> None:
        """End this stream: a newer one of its producer has begun."""
        if not self._superseded.done():
            self._superseded.set_result(None)

    async def run(self, watermark: int) -> None:
        """Read and answer until the producer ends the stream.

        Args:
            watermark: what the producer was welcomed with.
        """
        self._acknowledged = watermark
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(self._watch())
            reading = tasks.create_task(self._read(tasks))
            await self._answer()
            await reading
            watch.cancel()

    async def _watch(self) -> None:
        await self._superseded
        raise _Superseded

    async def _read(self, tasks: asyncio.TaskGroup) -> None:
        while (request := await self._call.read()) is not grpc.aio.EOF:
            asked = self._stream.asked(request, self._clock.unix_ns() // 1_000_000)
            if isinstance(asked, WireBatch):
                await self._room.take(asked.size)
                commit = tasks.create_task(self._commit(asked))
                # Not in the task itself: one that is cancelled before it begins runs nothing.
                commit.add_done_callback(partial(self._give_back, asked.size))
                await self._answers.put(commit)
            elif isinstance(asked, stream.Loss):
                await self._answers.put(tasks.create_task(self._lose(asked)))
            elif isinstance(asked, Heartbeat):
                self._store.heartbeat(asked)
            elif isinstance(asked, stream.Report):
                self._store.report(self._producer, asked.payload)
            elif isinstance(asked, stream.Goodbye):
                await self._goodbye(asked)
        await self._answers.put(None)

    def _give_back(self, size: int, _: asyncio.Task[_Outcome]) -> None:
        self._room.give_back(size)

    async def _commit(self, batch: WireBatch) -> _Outcome:
        try:
            return _Outcome(await self._store.commit(batch))
        except (BatchBroken, SequenceGap, Unavailable) as fault:
            return _Outcome(0, fault, batch, batch.span[0])

    async def _lose(self, loss: stream.Loss) -> _Outcome:
        at_ms = self._clock.unix_ns() // 1_000_000
        try:
            return _Outcome(
                await self._store.declare_lost(
                    self._producer, loss.first, loss.last, loss.reason, at_ms
                )
            )
        except (SequenceGap, Unavailable) as fault:
            return _Outcome(0, fault, None, loss.first)

    async def _goodbye(self, goodbye: stream.Goodbye) -> None:
        try:
            await self._store.goodbye(
                self._producer, goodbye.last_sequence, self._clock.unix_ns() // 1_000_000
            )
        except Unavailable:
            pass  # its leases return when its spool is found empty, or their hold ends

    async def _answer(self) -> None:
        """Answer in order. After a fault, what was sent behind it is a gap, and passed over.

        What follows on what was acknowledged and is a gap all the same is another matter: the
        ledger was deleted, or an older copy put in its place. The stream ends, so that the
        producer hears in its next Welcome what this ledger has.
        """
        is_behind_fault = False
        unsaid = 0
        while (task := await self._answers.get()) is not None:
            outcome = await task
            if outcome.fault is None:
                is_behind_fault = False
                unsaid = self._acknowledged = outcome.watermark
                if self._answers.empty():  # else a later acknowledgment says this one too
                    await self._call.write(stream.acknowledgment(unsaid))
                    unsaid = 0
            elif isinstance(outcome.fault, Unavailable):
                is_behind_fault = True
                await self._call.write(stream.not_now(str(outcome.fault)))
            elif isinstance(outcome.fault, BatchBroken) and outcome.batch is not None:
                _log.warning("a batch of a producer is refused: %s", outcome.fault)
                await self._call.write(stream.batch_refused(outcome.batch, outcome.fault))
                raise outcome.fault
            elif not is_behind_fault or outcome.first_sequence <= self._acknowledged + 1:
                raise outcome.fault
        if unsaid:  # the producer said all it will right behind its last batch
            await self._call.write(stream.acknowledgment(unsaid))


class _Outcome(NamedTuple):
    """What became of a batch or loss: the watermark after it, or why there is none."""

    watermark: int
    fault: BatchBroken | SequenceGap | Unavailable | None = None
    batch: WireBatch | None = None
    first_sequence: int = 0


class _Room:
    """Bytes that may wait for their commit, of all streams together; first come, first served."""

    def __init__(self, bytes_max: int) -> None:
        self._free = bytes_max
        self._max = bytes_max
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Wait for room; a message larger than all of it takes it all."""
        size = min(size, self._max)
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give_back(size)
            raise

    def give_back(self, size: int) -> None:
        """Make room for those who wait."""
        self._free += min(size, self._max)
        while self._waiting:
            wanted, future = self._waiting[0]
            if future.cancelled():
                self._waiting.popleft()
            elif wanted <= self._free:
                self._waiting.popleft()
                self._free -= wanted
                future.set_result(None)
            else:
                break


def _first(group: BaseExceptionGroup[MeterdError]) -> MeterdError:
    """The first error of a group."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
