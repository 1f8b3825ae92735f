"""An agency's office: a ledger, its services on a unix socket, a clock moved by hand, meterctl.

    async with open_office(directory, toml, now) as office:
        await office.record(usage(...), ...)          goes in as records
        result = await office.meterctl("invoice", …)  comes out as text

In one process, so that months can pass; `support/daemon.py` has the real one.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from meterd.clock import unix_ns_of
from meterd.config.in_force import InForce
from meterd.ingest.reading import WireBatch
from meterd.service.billing import BillingServicer
from meterd.service.configuring import Applied, Configuring
from meterd.service.rollup import RollupServicer
from meterd.store.sqlite import open_store
from meterd.store.values import Heartbeat, Producer
from meterd_proto.v1 import billing_pb2_grpc, rollup_pb2_grpc, usage_pb2
from tests.cli.running import Meterctl, Run
from tests.support.builders import batch_of, producer_id
from tests.support.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from meterd.ids import ProducerId
    from meterd.store.sqlite import SqliteStore

BATCH_RECORDS = 4_000


class Office:
    """One agency with its ledger and clock."""

    def __init__(self, directory: Path, now: datetime) -> None:
        self.directory = directory
        self.clock = ManualClock(now)
        self.in_force = InForce()
        self.target = f"unix:{directory / 'm.sock'}"
        self.connected: set[ProducerId] = set()
        self._sequences: dict[str, int] = {}
        self._server: grpc.aio.Server | None = None
        self.store: SqliteStore

    async def open(self) -> None:
        """Open the ledger and serve."""
        self.store = await open_store(self.directory / "data", self.clock)
        self.configuring = Configuring(self.store, self.in_force, self.clock)
        await self.configuring.restore()
        self._server = grpc.aio.server()
        self.billing = BillingServicer(
            self.store,
            self.in_force,
            self.clock,
            self.directory / "letters",
            connected=lambda: self.connected,
        )
        billing_pb2_grpc.add_BillingServiceServicer_to_server(self.billing, self._server)
        rollup_pb2_grpc.add_RollupServiceServicer_to_server(
            RollupServicer(self.store, self.in_force, self.clock), self._server
        )
        self._server.add_insecure_port(self.target)
        await self._server.start()

    async def close(self) -> None:
        """Stop serving and close the ledger."""
        assert self._server is not None
        await self._server.stop(None)
        await self.store.close()

    async def restart(self) -> None:
        """As after a stop and a start of the daemon."""
        await self.close()
        await self.open()

    async def apply(self, toml: str) -> Applied:
        """Put a configuration in force."""
        return await self.configuring.apply(toml.encode(), "meterd.toml")

    async def record(
        self, *records: usage_pb2.UsageRecord, producer: str = "web-1", at: datetime | None = None
    ) -> None:
        """Have records shipped, received now; `at` puts the clock there first."""
        if at is not None:
            self.clock.step(at)
        for first in range(0, len(records), BATCH_RECORDS):
            part = records[first : first + BATCH_RECORDS]
            now_ms = self.clock.unix_ns() // 1_000_000
            batch = batch_of(part, first_sequence=self._next(producer), sent_at_ms=now_ms)
            await self.ship(batch, len(part), producer)

    async def use(
        self,
        client: str,
        project: str = "",
        *,
        requests: int,
        input_tokens: int,
        output_tokens: int,
        at: datetime,
        producer: str = "web-1",
        model: str = "gpt-4o",
    ) -> None:
        """Have many like records shipped that sum to these tokens."""
        took, gave = _shares(input_tokens, requests), _shares(output_tokens, requests)
        for first in range(0, requests, BATCH_RECORDS):
            part = slice(first, first + BATCH_RECORDS)
            batch = bulk(client, project, took[part], gave[part], at=at, model=model,
                         sent_at=self.clock.now())  # fmt: skip
            await self.ship(batch, len(took[part]), producer)

    async def ship(self, batch: usage_pb2.Batch, count: int, producer: str = "web-1") -> None:
        """Commit a batch as it came over the wire."""
        if producer not in self._sequences:
            service, _, host = producer.partition("@")
            known = Producer(id=producer_id(producer), service=service, host=host or "host-1")
            await self.store.hello(known, self.clock.unix_ns() // 1_000_000)
        batch.first_sequence = self._next(producer)
        request = usage_pb2.ShipRequest(batch=batch).SerializeToString()
        now_ms = self.clock.unix_ns() // 1_000_000
        await self.store.commit(WireBatch(producer_id(producer), now_ms, request=request))
        self._sequences[producer] = self._sequences.get(producer, 0) + count

    def _next(self, producer: str) -> int:
        return self._sequences.get(producer, 0) + 1

    async def heartbeat(
        self, producer: str, *, behind: int = 0, open_calls: int = 0, open_since: int = 0
    ) -> None:
        """What a producer says of itself; written with the next transaction, which comes now."""
        now_ms = self.clock.unix_ns() // 1_000_000
        self.store.heartbeat(
            Heartbeat(
                producer=producer_id(producer),
                received_at_ms=now_ms,
                skew_ms=0,
                highest_appended=self._sequences.get(producer, 0) + behind,
                open_calls=open_calls,
                oldest_open_at_ms=open_since,
            )
        )

    async def meterctl(self, *arguments: str) -> Run:
        """Run a command against this office."""
        meterctl = Meterctl({"HOME": str(self.directory), "METERD_TARGET": self.target})
        return await asyncio.to_thread(meterctl, *arguments)


@asynccontextmanager
async def open_office(toml: str, now: datetime) -> AsyncIterator[Office]:
    """An office in a directory of its own, with a configuration in force."""
    directory = Path(tempfile.mkdtemp(prefix="m", dir="/tmp"))
    office = Office(directory, now)
    await office.open()
    try:
        applied = await office.apply(toml)
        assert not applied.mistakes, applied.mistakes
        yield office
    finally:
        await office.close()
        shutil.rmtree(directory, ignore_errors=True)


def bulk(
    client: str,
    project: str,
    input_tokens: list[int],
    output_tokens: list[int],
    *,
    at: datetime,
    sent_at: datetime,
    model: str = "gpt-4o",
    provider: str = "openai",
) -> usage_pb2.Batch:
    """Records of one client that differ in their tokens alone, as one batch; quick to make."""
    requests = len(input_tokens)
    dimension = usage_pb2.Dimensions(
        provider=3, operation=4, request_model=5, response_model=5,
        status=usage_pb2.STATUS_COMPLETE, http_status=200,
    )  # fmt: skip
    return usage_pb2.Batch(
        sent_at_unix_ns=unix_ns_of(sent_at),
        schema=1,
        first_occurred_at_unix_ns=unix_ns_of(at),
        strings=["", client, project, provider, "chat", model],
        dimensions=[dimension],
        dimension=[0] * requests,
        tag=[0] * requests,
        lease=[0] * requests,
        tag_client=[1],
        tag_project=[2],
        occurred_at_delta_us=[0] * requests,
        duration_ms=[850] * requests,
        input_tokens=input_tokens,
        cache_read_tokens=[0] * requests,
        output_tokens=output_tokens,
        reasoning_tokens=[0] * requests,
        input_bytes=[4_000] * requests,
    )


def _shares(total: int, parts: int) -> list[int]:
    each, more = divmod(total, parts)
    return [each + (at < more) for at in range(parts)]
