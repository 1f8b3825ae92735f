"""QuotaService: lease streams and what `meterctl quota` shows.

    producer ── hello ─▶ Desk              its newest stream ends its older one
             ── wanted, reduced, released ─▶ Lender
             ◀─ grant, denial, revocation ── Desk

A stream promises nothing that isn't durable; what it loses by breaking, the next hello brings
into line.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import count
from random import SystemRandom
from typing import TYPE_CHECKING

from meterd.errors import InvalidRequest, MeterdError, Unavailable
from meterd.service.lender import Lender
from meterd.service.quota_status import quota_status
from meterd.service.rulings import Rulings
from meterd.service.status import answers, refuse
from meterd.service.threshold_watch import ThresholdWatch
from meterd_proto.v1 import quota_pb2, quota_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from random import Random

    import grpc

    from meterd.clock import Clock
    from meterd.config.agency import Agency
    from meterd.config.in_force import InForce
    from meterd.service.desk import Desk
    from meterd.service.threshold_watch import Teller
    from meterd.store.store import Store

_log = logging.getLogger("meterd")

HOUSEKEEPING_S = 1.0
VANISHED_EVERY = 30
"""Turns of housekeeping between two looks for producers that have vanished."""
REVOKED_ONE_BY_ONE_MAX = 256
"""Beyond so many changed clients all are told to ask anew."""


class QuotaServicer(quota_pb2_grpc.QuotaServiceServicer):
    """Lends, tells of thresholds, and shows what is lent."""

    def __init__(
        self,
        store: Store,
        in_force: InForce,
        clock: Clock,
        teller: Teller,
        random: Random | None = None,
    ) -> None:
        self._store = store
        self._in_force = in_force
        self._rulings = Rulings(store, in_force, clock)
        self._lender = Lender(store, self._rulings, random or SystemRandom())
        self._watch = ThresholdWatch(store, self._rulings, teller, clock)
        in_force.follow(self._follow)

    async def start(self) -> None:
        """Know what is lent already; before any stream is served or record committed."""
        await self._lender.start()

    async def run(self) -> None:
        """Lend, watch thresholds and take back what vanished, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._lender.run())
            tasks.create_task(self._keep_house())

    def granted(self, client: str) -> None:
        """Tokens were added by hand: whoever was refused asks anew."""
        self._rulings.forget(client)
        self._watch.forget(client)
        self._lender.revoke([client])

    async def Lease(  # type: ignore[override]  # a coroutine that writes: grpc.aio takes it too
        self,
        request_iterator: AsyncIterator[quota_pb2.LeaseRequest],
        context: grpc.aio.ServicerContext[quota_pb2.LeaseRequest, quota_pb2.LeaseResponse],
    ) -> None:
        """Serve one producer's stream until either side ends it."""
        desk = None
        try:
            desk = await self._lender.hello(await _hello(request_iterator))
            reading = asyncio.create_task(self._read(desk, request_iterator))
            try:
                await _write(desk, reading, context)
            finally:
                reading.cancel()
        except MeterdError as error:
            await refuse(context, error)
        finally:
            if desk is not None:
                self._lender.gone(desk)

    @answers
    async def Status(
        self, request: quota_pb2.QuotaStatusRequest, context: object
    ) -> quota_pb2.QuotaStatusResponse:
        """The quotas of one client, or of all that have one, with who holds what is lent."""
        quotas = await quota_status(
            self._store, self._rulings, self._lender, self._in_force.agency, request.client
        )
        return quota_pb2.QuotaStatusResponse(quotas=quotas)

    async def _read(self, desk: Desk, requests: AsyncIterator[quota_pb2.LeaseRequest]) -> None:
        async for request in requests:
            kind = request.WhichOneof("message")
            if kind == "wanted":
                await self._lender.wanted(desk, request.wanted)
            elif kind == "reduced":
                self._lender.reduced(desk, request.reduced)
            elif kind == "released":
                self._lender.released(desk, request.released)
            elif kind == "hello":
                raise InvalidRequest("a lease stream says hello once, at its beginning")
            # Anything else is a newer producer's: not understood, and no harm in that.

    async def _keep_house(self) -> None:
        for turn in count(1):
            await asyncio.sleep(HOUSEKEEPING_S)
            await self._watch.look(self._in_force.agency.clients.keys())
            if not turn % VANISHED_EVERY:
                await self._end_vanished()

    async def _end_vanished(self) -> None:
        try:
            await self._lender.end_vanished()
        except Unavailable as error:
            _log.error("leases of vanished producers stay lent: %s", error)

    def _follow(self, agency: Agency) -> None:
        """A configuration came into force: call back what it changes."""
        changed = self._rulings.changed()
        self._watch.forget_all()
        if len(changed) > REVOKED_ONE_BY_ONE_MAX:
            changed = [""]
        if changed:
            self._lender.revoke(changed)


async def _hello(requests: AsyncIterator[quota_pb2.LeaseRequest]) -> quota_pb2.LeaseHello:
    async for request in requests:
        if request.WhichOneof("message") == "hello":
            return request.hello
        break
    raise InvalidRequest("a lease stream begins with a hello")


async def _write(
    desk: Desk,
    reading: asyncio.Task[None],
    context: grpc.aio.ServicerContext[quota_pb2.LeaseRequest, quota_pb2.LeaseResponse],
) -> None:
    """Send the desk's answers until it is closed or the producer has said all it will."""
    reading.add_done_callback(lambda _: desk.close())
    while (response := await desk.next_answer()) is not None:
        await context.write(response)
    if reading.done() and not reading.cancelled():
        reading.result()  # raises what ended it
