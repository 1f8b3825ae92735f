"""The Ship stream over real gRPC on a unix socket, against a real ledger."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from meterd.errors import StorageFault
from meterd.ids import ProducerId
from meterd.service.usage import WINDOW, UsageServicer, add_to_server
from meterd.store.sqlite import open_store
from meterd.store.values import PeriodIndex, RollupQuery
from meterd_proto.v1 import usage_pb2, usage_pb2_grpc
from tests.store.conftest import HandClock
from tests.support.builders import NOW_MS, batch_of, producer_id, usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from meterd.ids import Sequence
    from meterd.store.batch import UnreadBatch
    from meterd.store.sqlite import SqliteStore

NOVEMBER = PeriodIndex(2025 * 12 + 10)


class Daemon:
    """A server with the one service, its store, and channels to it."""

    def __init__(self, store: SqliteStore, servicer: UsageServicer, target: str) -> None:
        self.store = store
        self.servicer = servicer
        self.target = target

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Any]:
        async with grpc.aio.insecure_channel(self.target) as channel:
            yield usage_pb2_grpc.UsageServiceStub(channel).Ship()

    async def requests(self) -> int:
        rows = await self.store.rollup(RollupQuery(period=NOVEMBER, by=()))
        return rows[0].sums.requests if rows else 0


@pytest.fixture(params=["bytes", "messages"])
async def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Daemon]:
    """Registered so that batches stay bytes, and as the generated code does it."""
    clock = HandClock()
    store = await open_store(tmp_path / "data", clock)
    servicer = UsageServicer(store, clock, "0.1.0")
    server = grpc.aio.server()
    if request.param == "bytes":
        add_to_server(servicer, server)
    else:
        usage_pb2_grpc.add_UsageServiceServicer_to_server(servicer, server)
    with tempfile.TemporaryDirectory(prefix="m") as short:  # a socket's path has to be
        target = f"unix:{short}/s"
        server.add_insecure_port(target)
        await server.start()
        try:
            yield Daemon(store, servicer, target)
        finally:
            await server.stop(0)
            await store.close()


def hello(name: str = "web-1", **fields: object) -> usage_pb2.ShipRequest:
    values: dict[str, object] = {"service": "web", "host": "box", "pid": 7, "next_sequence": 1}
    return usage_pb2.ShipRequest(
        hello=usage_pb2.Hello(producer=producer_id(name), **{**values, **fields})  # type: ignore[arg-type]
    )


def ship(count: int = 1, first_sequence: int = 1) -> usage_pb2.ShipRequest:
    records = [usage() for _ in range(count)]
    return usage_pb2.ShipRequest(batch=batch_of(records, first_sequence=first_sequence))


async def greeted(stream: Any, request: usage_pb2.ShipRequest | None = None) -> int:
    await stream.write(request or hello())
    answer: usage_pb2.ShipResponse = await stream.read()
    assert answer.WhichOneof("message") == "welcome"
    return answer.welcome.watermark


async def ended(stream: Any) -> grpc.StatusCode:
    """The status with which a stream that says nothing more ends."""
    try:
        assert await stream.read() is grpc.aio.EOF
    except grpc.aio.AioRpcError as error:
        return error.code()
    code: grpc.StatusCode = await stream.code()
    return code


async def acknowledged(stream: Any, up_to: int) -> None:
    """Read acknowledgments until one says this much."""
    while True:
        answer: usage_pb2.ShipResponse = await stream.read()
        assert answer.WhichOneof("message") == "acknowledgment", answer
        if answer.acknowledgment.watermark >= up_to:
            assert answer.acknowledgment.watermark == up_to
            return


async def test_records_are_acknowledged_once_they_are_committed(daemon: Daemon) -> None:
    async with daemon.stream() as stream:
        await stream.write(hello())
        answer = await stream.read()
        assert answer.welcome.ledger_id == daemon.store.ledger_id
        assert answer.welcome.version == "0.1.0"

        await stream.write(ship(3))
        await acknowledged(stream, 3)

        assert await daemon.requests() == 3
        assert daemon.servicer.connected == {producer_id()}
        await stream.done_writing()
        assert await ended(stream) is grpc.StatusCode.OK
    assert daemon.servicer.connected == frozenset()


async def test_a_new_stream_begins_at_the_watermark(daemon: Daemon) -> None:
    async with daemon.stream() as stream:
        await greeted(stream)
        await stream.write(ship(3))
        await acknowledged(stream, 3)

    async with daemon.stream() as stream:
        assert await greeted(stream) == 3


async def test_many_batches_in_flight_are_answered_in_order(daemon: Daemon) -> None:
    async with daemon.stream() as stream:
        await greeted(stream)
        for number in range(WINDOW * 3):
            await stream.write(ship(2, 1 + 2 * number))

        await acknowledged(stream, WINDOW * 6)

    assert await daemon.requests() == WINDOW * 6


async def test_what_is_sent_right_before_the_end_is_acknowledged(daemon: Daemon) -> None:
    async with daemon.stream() as stream:
        await greeted(stream)
        await stream.write(ship(2))
        await stream.write(ship(2, 3))
        await stream.done_writing()

        await acknowledged(stream, 4)


async def test_a_newer_stream_of_a_producer_ends_the_older(daemon: Daemon) -> None:
    """A lingering connection never blocks who adopts the spool."""
    async with daemon.stream() as older, daemon.stream() as newer:
        await greeted(older)
        await greeted(newer, hello(is_adopted=True, next_sequence=2))

        assert await ended(older) is grpc.StatusCode.ABORTED

        await newer.write(ship())
        await acknowledged(newer, 1)


@pytest.mark.parametrize(
    "first",
    [
        ship(),
        usage_pb2.ShipRequest(heartbeat=usage_pb2.Heartbeat()),
        usage_pb2.ShipRequest(hello=usage_pb2.Hello(producer=b"short")),
        usage_pb2.ShipRequest(),
    ],
)
async def test_a_stream_that_doesnt_begin_with_a_hello_is_refused(
    daemon: Daemon, first: usage_pb2.ShipRequest
) -> None:
    async with daemon.stream() as stream:
        await stream.write(first)

        assert await ended(stream) is grpc.StatusCode.INVALID_ARGUMENT
    assert await daemon.requests() == 0


async def test_a_broken_batch_ends_its_stream_and_is_named(daemon: Daemon) -> None:
    broken = ship(2, 2)
    broken.batch.dimension[1] = 99
    async with daemon.stream() as stream, daemon.stream() as other:
        await greeted(stream)
        await greeted(other, hello("other"))
        await stream.write(ship())
        await acknowledged(stream, 1)

        await stream.write(broken)

        answer = await stream.read()
        refused = answer.batch_refused
        assert (refused.first_sequence, refused.last_sequence) == (2, 3)
        assert "dimension 99" in refused.reason
        assert await ended(stream) is grpc.StatusCode.INVALID_ARGUMENT
        await other.write(ship())
        await acknowledged(other, 1)


async def test_a_declared_loss_lets_what_follows_pass(daemon: Daemon) -> None:
    async with daemon.stream() as stream:
        await greeted(stream)
        loss = usage_pb2.Loss(first_sequence=1, last_sequence=5, reason="torn")

        await stream.write(usage_pb2.ShipRequest(loss=loss))
        await stream.write(ship(2, 6))

        await acknowledged(stream, 7)
    (lost,) = (await daemon.store.status()).losses
    assert (lost.records, lost.reason, lost.producer_name) == (5, "torn", "web@box")


async def test_a_gap_ends_the_stream_so_that_it_begins_at_the_watermark(daemon: Daemon) -> None:
    async with daemon.stream() as stream:
        await greeted(stream)

        await stream.write(ship(1, 9))

        assert await ended(stream) is grpc.StatusCode.OUT_OF_RANGE
    async with daemon.stream() as stream:
        assert await greeted(stream) == 0


async def test_a_full_disk_is_not_now_and_what_came_behind_it_is_passed_over(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The producer goes back to its watermark; nothing is a gap, nothing is lost."""
    commit = daemon.store.commit
    faults = 2

    async def failing(batch: UnreadBatch) -> Sequence:
        nonlocal faults
        if faults:
            faults -= 1
            raise StorageFault("the disk is full")
        return await commit(batch)

    monkeypatch.setattr(daemon.store, "commit", failing)
    async with daemon.stream() as stream:
        await greeted(stream)
        for first in (1, 2, 3):
            await stream.write(ship(1, first))

        said = [(await stream.read()).not_now for _ in range(2)]
        await stream.write(ship(3, 1))

        assert [(answer.reason, answer.pause_ms > 0) for answer in said] == [
            ("the disk is full", True)
        ] * 2
        await acknowledged(stream, 3)
    assert await daemon.requests() == 3


async def test_heartbeats_reports_and_goodbyes_are_kept(daemon: Daemon) -> None:
    report = usage_pb2.Report(refused_records=3, spool_directory="/var/spool")
    beat = usage_pb2.Heartbeat(
        sent_at_unix_ns=(NOW_MS - 250) * 1_000_000, highest_appended_sequence=9, open_calls=2
    )
    async with daemon.stream() as stream:
        await greeted(stream)
        await stream.write(usage_pb2.ShipRequest(heartbeat=beat))
        await stream.write(usage_pb2.ShipRequest(report=report))
        await stream.write(ship())
        await acknowledged(stream, 1)

        (status,) = (await daemon.store.status()).producers
        assert (status.open_calls, status.highest_appended) == (2, 9)
        assert usage_pb2.Report.FromString(status.report) == report

        await stream.write(usage_pb2.ShipRequest(goodbye=usage_pb2.Goodbye(last_sequence=1)))
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF

    (status,) = (await daemon.store.status()).producers
    assert status.is_finished


async def test_a_message_of_a_newer_producer_is_passed_over(daemon: Daemon) -> None:
    async with daemon.stream() as stream:
        await greeted(stream)
        await stream.write(usage_pb2.ShipRequest())
        await stream.write(ship())
        await acknowledged(stream, 1)


async def test_sixteen_producers_are_served_alike(daemon: Daemon) -> None:
    """None has to wait for another to be done: each has a few batches in the queue."""
    done: list[str] = []

    async def produce(name: str) -> None:
        async with daemon.stream() as stream:
            await greeted(stream, hello(name))
            for number in range(20):
                await stream.write(ship(5, 1 + 5 * number))
            await acknowledged(stream, 100)
            done.append(name)

    await asyncio.gather(*(produce(f"p-{number}") for number in range(16)))

    assert len(done) == 16
    assert await daemon.requests() == 1_600


async def test_a_producer_that_vanishes_leaves_room_for_others(
    daemon: Daemon, eventually: Callable[[Callable[[], bool]], Any]
) -> None:
    async with daemon.stream() as stream:
        await greeted(stream)
        for number in range(WINDOW * 2):
            await stream.write(ship(50, 1 + 50 * number))
        stream.cancel()

    await eventually(lambda: not daemon.servicer.connected)
    await eventually(lambda: daemon.servicer._room._free == daemon.servicer._room._max)
    async with daemon.stream() as stream:
        await greeted(stream, hello("other"))
        await stream.write(ship())
        await acknowledged(stream, 1)


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], Any]:
    async def wait(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0)

    return wait


def test_a_producer_is_sixteen_bytes() -> None:
    assert len(ProducerId(producer_id("x"))) == 16
