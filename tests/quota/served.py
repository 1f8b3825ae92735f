"""A QuotaService on a real socket over a real ledger, in this process, with time by hand."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import grpc

from meterd.config import toml
from meterd.config.in_force import InForce
from meterd.errors import StorageFault
from meterd.service.quota import QuotaServicer
from meterd.store.sqlite import open_store
from meterd.store.values import Producer
from meterd_proto.v1 import quota_pb2, quota_pb2_grpc
from tests.support.builders import producer_id, usage, wire
from tests.support.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from meterd.hooks import ThresholdEvent
    from meterd.store.sqlite import SqliteStore


class Told:
    """Who is told of thresholds, and the outbox of what was prepared."""

    def __init__(self) -> None:
        self.events: list[ThresholdEvent] = []
        self.outbox: set[str] = set()
        self.is_full = False

    async def prepare(self, event: ThresholdEvent) -> bool:
        if self.is_full:
            raise StorageFault("the outbox can't be written")
        is_new = event.key not in self.outbox
        self.outbox.add(event.key)
        return is_new

    async def withdraw(self, event: ThresholdEvent) -> None:
        self.outbox.discard(event.key)

    def tell(self, event: ThresholdEvent) -> None:
        self.events.append(event)

    def looked(self) -> None:
        """Nothing lies in this outbox that was not told."""


class Talk:
    """One lease stream, from the producer's end."""

    def __init__(self, stub: quota_pb2_grpc.QuotaServiceAsyncStub, name: str) -> None:
        self.producer = producer_id(name)
        self.call = stub.Lease()
        self._request = 0

    async def hello(
        self, *, last_sequence: int = 0, held: tuple[quota_pb2.HeldLease, ...] = ()
    ) -> None:
        hello = quota_pb2.LeaseHello(
            producer=self.producer, service="web", host="host-1", pid=71,
            last_sequence=last_sequence, held=held,
        )  # fmt: skip
        await self.call.write(quota_pb2.LeaseRequest(hello=hello))

    async def ask(
        self, tokens: int, usual_tokens: int = 0, client: str = "acme", **tags: str
    ) -> quota_pb2.LeaseResponse:
        """Ask for tokens and wait for the answer to that."""
        self._request += 1
        wanted = quota_pb2.LeaseWanted(
            request=self._request, client=client, tokens=tokens,
            usual_tokens=usual_tokens or tokens, **tags,
        )  # fmt: skip
        await self.call.write(quota_pb2.LeaseRequest(wanted=wanted))
        while True:
            answer = await self.next()
            if answer.WhichOneof("message") != "revocation":
                return answer

    async def lease(
        self, tokens: int, usual_tokens: int = 0, client: str = "acme", **tags: str
    ) -> quota_pb2.Lease:
        """Ask for tokens that are granted."""
        answer = await self.ask(tokens, usual_tokens, client, **tags)
        assert answer.HasField("grant"), answer
        return answer.grant

    async def denial(self, tokens: int, client: str = "acme", **tags: str) -> quota_pb2.Denial:
        """Ask for tokens that are not."""
        answer = await self.ask(tokens, 0, client, **tags)
        assert answer.HasField("denial"), answer
        return answer.denial

    async def next(self) -> quota_pb2.LeaseResponse:
        async with asyncio.timeout(20):
            answer = await self.call.read()
        assert isinstance(answer, quota_pb2.LeaseResponse), "the stream has ended"
        return answer

    async def release(self, lease_id: int, last_sequence: int = 0) -> None:
        released = quota_pb2.LeaseReleased(lease_id=lease_id, last_sequence=last_sequence)
        await self.call.write(quota_pb2.LeaseRequest(released=released))

    async def reduce(self, lease_id: int, tokens: int) -> None:
        reduced = quota_pb2.LeaseReduced(lease_id=lease_id, tokens=tokens)
        await self.call.write(quota_pb2.LeaseRequest(reduced=reduced))

    async def ends_with(self) -> tuple[grpc.StatusCode, str]:
        """Read to the end; the status and its sentence."""
        async with asyncio.timeout(20):
            code = await self.call.code()
            details = await self.call.details()
        return grpc.StatusCode(code) if not isinstance(
            code, grpc.StatusCode
        ) else code, details or ""


class Served:
    """The service, its store, and what it goes by."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = ManualClock()
        self.told = Told()
        self.in_force = InForce()
        self.sequences: dict[str, int] = {}
        self.store: SqliteStore
        self.servicer: QuotaServicer

    async def open(self) -> None:
        self.store = await open_store(
            self.directory / "data", self.clock, agency=self.in_force.agency
        )
        self.servicer = QuotaServicer(self.store, self.in_force, self.clock, self.told, Random(7))
        self.server = grpc.aio.server()
        quota_pb2_grpc.add_QuotaServiceServicer_to_server(self.servicer, self.server)
        target = f"unix:{self.directory / 'q.sock'}"
        self.server.add_insecure_port(target)
        await self.servicer.start()
        await self.server.start()
        self.running = asyncio.create_task(self.servicer.run())
        self.channel = grpc.aio.insecure_channel(
            target, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self.stub: quota_pb2_grpc.QuotaServiceAsyncStub = quota_pb2_grpc.QuotaServiceStub(
            self.channel
        )

    async def close(self) -> None:
        await self.channel.close()
        await self.server.stop(0)
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.store.close()

    async def apply(self, text: str) -> None:
        """Put a configuration in force, as `meterctl apply` does."""
        agency = toml.read(text.encode(), "meterd.toml").agency
        await self.store.use_agency(agency)
        self.in_force.set(agency, self.in_force.version + 1, "meterd.toml", self.clock.unix_ns())

    async def talk(self, name: str = "web-1") -> Talk:
        """A producer that has said hello."""
        talk = Talk(self.stub, name)
        await talk.hello()
        return talk

    async def use(
        self, tokens: int, *, client: str = "acme", project: str = "", model: str = "gpt-4o",
        response_model: str | None = None, lease_id: int = 0, producer: str = "web-1",
        ago_ms: int = 1_000,
    ) -> int:  # fmt: skip
        """Commit one record; returns its sequence."""
        sequence = self.sequences[producer] = self.sequences.get(producer, 0) + 1
        now_ms = self.clock.unix_ns() // 1_000_000
        await self.store.hello(Producer(id=producer_id(producer), service="web", host="h"), now_ms)
        record = usage(
            client, project, input_tokens=tokens, output_tokens=0, model=model,
            response_model=response_model, lease_id=lease_id, occurred_at_ms=now_ms - ago_ms,
        )  # fmt: skip
        await self.store.commit(
            wire(record, producer=producer, first_sequence=sequence, now_ms=now_ms)
        )
        await asyncio.sleep(0)
        return sequence

    async def status(self, client: str = "") -> list[quota_pb2.QuotaStatus]:
        answer = await self.stub.Status(quota_pb2.QuotaStatusRequest(client=client))
        return list(answer.quotas)

    async def events(self) -> list[tuple[str, str, str]]:
        """Look for thresholds now; all that were told so far."""
        await self.servicer._watch.look(self.in_force.agency.clients.keys())
        return [(event.rule, event.of, event.percent) for event in self.told.events]


@asynccontextmanager
async def serving(text: str) -> AsyncIterator[Served]:
    """A service with this configuration in force."""
    directory = Path(tempfile.mkdtemp(prefix="m", dir="/tmp"))
    served = Served(directory)
    await served.open()
    try:
        await served.apply(text)
        yield served
    finally:
        await served.close()
        shutil.rmtree(directory)
