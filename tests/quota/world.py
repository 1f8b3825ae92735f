"""A small world for the model test: real leases, lender and ledger; time and network by hand.

Nothing here decides anything about quotas. Producers are processes that may be killed, links
break with all that is on them, the daemon may be started anew; what happens next is drawn
from a seed by `test_model.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from meterd.clock import moment_of
from meterd.config.agency import (
    Agency,
    Client,
    Contract,
    LimitMode,
    OnUnreachable,
    Plan,
    PlanType,
    ReserveMode,
)
from meterd.config.in_force import InForce
from meterd.ids import ProducerId
from meterd.ingest.reading import WireBatch
from meterd.service.lender import Lender
from meterd.service.rulings import Rulings
from meterd.store.sqlite import open_store
from meterd.store.values import Grant, PeriodIndex, Producer
from meterd_middleware.holding import Holding
from meterd_middleware.lease import Denied, Reservation
from meterd_middleware.leases import Leases
from meterd_proto.v1 import quota_pb2, usage_pb2

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from meterd.service.desk import Desk
    from meterd.store.sqlite import SqliteStore

CLIENT = "acme"
MODEL = "gpt-4o"
SECOND = 10**9
START_NS = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()) * SECOND


class WorldClock:
    """The daemon's clock; the producers' run along, each from where it pleases."""

    def __init__(self) -> None:
        self.ns = START_NS

    def now(self) -> datetime:
        return moment_of(self.ns)

    def unix_ns(self) -> int:
        return self.ns

    def monotonic_ns(self) -> int:
        return self.ns


@dataclass(eq=False)
class Call:
    """A call that was let through."""

    number: int
    held: Reservation
    input_tokens: int
    output_tokens: int
    period: int
    billed_at_ms: int

    @property
    def used(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(eq=False)
class Process:
    """One producer: its leases, its spool, the link to the daemon."""

    id: ProducerId
    leases: Leases
    calls: list[Call] = field(default_factory=list)
    spool: deque[Call] = field(default_factory=deque)
    appended: int = 0
    shipped: int = 0
    desk: Desk | None = None

    def end(self, call: Call) -> None:
        """Append the record, then settle, as an exchange does."""
        self.calls.remove(call)
        self.spool.append(call)
        self.appended += 1
        self.leases.record_appended(call.held.lease_id, self.appended)
        call.held.settle(call.input_tokens, call.output_tokens)


class _Reject:
    on_unreachable = "reject"
    lease_timeout_ms = 50


class World:
    """All of it, and the steps that can be taken."""

    def __init__(self, data: Path, random: Random, limit: int, reserve: ReserveMode) -> None:
        self.data = data
        self.random = random
        self.limit = limit
        self.reserve = reserve
        self.clock = WorldClock()
        self.processes: list[Process] = []
        self.dead: list[Process] = []
        self.in_force = InForce()
        self.calls_made = 0
        self.store: SqliteStore
        self.lender: Lender

    # ── the daemon ──

    async def open(self) -> None:
        """Start the daemon on its data."""
        self._configure()
        self.store = await open_store(self.data, self.clock, agency=self.in_force.agency)
        self.rulings = Rulings(self.store, self.in_force, self.clock)
        self.lender = Lender(self.store, self.rulings, self.random, recall_wait_s=0)
        await self.lender.start()

    async def close(self) -> None:
        """Stop it; every link is gone."""
        for process in self.processes:
            self.cut(process)
        await self.quiet()
        await self.store.close()

    def _configure(self) -> None:
        plan = Plan(
            "tier",
            PlanType.RETAINER,
            included_tokens=self.limit,
            limit=LimitMode.HARD,
            reserve=self.reserve,
            on_unreachable=OnUnreachable.REJECT,
        )
        client = Client(CLIENT, contracts=(Contract("tier"),))
        self.in_force.agency = Agency(plans={"tier": plan}, clients={CLIENT: client})

    async def change_plan(self, limit: int) -> None:
        """What `meterctl apply` does."""
        self.limit = limit
        self._configure()
        await self.store.use_agency(self.in_force.agency)
        self.lender.revoke(self.rulings.changed())
        await self.quiet()

    async def grant(self, tokens: int) -> None:
        """What `meterctl grant` does."""
        await self.store.grant(
            Grant(
                client=CLIENT, period=PeriodIndex(self.period), tokens=tokens, why="w", who="me",
                at_ms=self.now_ms,
            )
        )  # fmt: skip
        self.rulings.forget(CLIENT)
        self.lender.revoke([CLIENT])
        await self.quiet()

    @property
    def now_ms(self) -> int:
        return self.clock.ns // 1_000_000

    @property
    def period(self) -> int:
        moment = self.clock.now()
        return moment.year * 12 + moment.month - 1

    async def used(self, period: int) -> int:
        return await self.store.used_tokens(CLIENT, PeriodIndex(period))

    async def quiet(self) -> None:
        """Let the lender answer all that was asked, and the store take back what was returned."""
        lender = self.lender
        while True:
            for _ in range(3):
                await asyncio.sleep(0)
            if lender.register._returning:
                await asyncio.wait(lender.register._returning)
            elif not lender._queue.empty():
                await lender.serve()
            elif not lender._parked:
                return

    # ── processes and links ──

    def start_process(self) -> Process:
        """A new producer, whose clocks are a day off."""
        skew_ns = self.random.randint(-86_400, 86_400) * SECOND
        leases = Leases(
            _Reject(),  # type: ignore[arg-type]  # a str where Settings has a Literal
            now_ns=lambda: self.clock.ns + skew_ns,
            monotonic_ns=lambda: self.clock.ns - START_NS,
            wake=lambda: None,
        )
        process = Process(ProducerId(self.random.randbytes(16)), leases)
        leases.disconnected()
        self.processes.append(process)
        return process

    async def connect(self, process: Process) -> None:
        """Open a lease stream, with its hello."""
        self.cut(process)
        process.leases.tick()
        process.leases.connected()
        hello = process.leases.hello(
            quota_pb2.LeaseHello(
                producer=process.id, service="web", host="h", last_sequence=process.appended
            )
        )
        process.desk = await self.lender.hello(hello.hello)
        await self.quiet()

    def cut(self, process: Process) -> None:
        """Lose the link, and everything on it."""
        if process.desk is not None:
            self.lender.gone(process.desk)
            process.desk = None
        process.leases.disconnected()

    async def pump(self, process: Process, *, loses_answers: bool = False) -> None:
        """Carry what waits in both directions; with `loses_answers` the link breaks in between."""
        desk = process.desk
        if desk is None:
            return
        process.leases.tick()
        for request in process.leases.take_requests():
            kind = request.WhichOneof("message")
            if kind == "wanted":
                await self.lender.wanted(desk, request.wanted)
            elif kind == "reduced":
                self.lender.reduced(desk, request.reduced)
            else:
                self.lender.released(desk, request.released)
        await self.quiet()
        if loses_answers:
            self.cut(process)
            return
        while not desk._answers.empty():
            answer = desk._answers.get_nowait()
            if answer is not None:
                process.leases.on_response(answer)

    async def ship(self, process: Process, count: int) -> None:
        """Commit some records of a spool."""
        calls = [process.spool.popleft() for _ in range(min(count, len(process.spool)))]
        if not calls:
            return
        await self.store.hello(Producer(id=process.id), self.now_ms)
        batch = _batch(calls, process.shipped + 1, process.appended, self.clock.ns)
        await self.store.commit(WireBatch(process.id, self.now_ms, message=batch))
        process.shipped += len(calls)
        await self.quiet()

    def kill(self, process: Process) -> None:
        """kill -9: its open calls were sent, and will be found in its spool."""
        if process.desk is not None:
            self.lender.gone(process.desk)
        self.processes.remove(process)
        self.dead.append(process)

    async def adopt(self, process: Process) -> None:
        """Ship a dead process's spool to its end. Of a call that was struck only the input is
        known: its record is `interrupted`, and what was reserved for the reply returns."""
        process.spool.extend(replace(call, output_tokens=0) for call in process.calls)
        process.appended += len(process.calls)
        process.calls = []
        await self.ship(process, len(process.spool))
        await self.store.hello(Producer(id=process.id, is_adopted=True), self.now_ms)
        await self.store.goodbye(process.id, process.appended, self.now_ms)
        self.dead.remove(process)
        await self.quiet()

    # ── calls ──

    async def call(
        self, process: Process, input_tokens: int, max_output_tokens: int, output_tokens: int
    ) -> Call | Denied:
        """Make a call; one that has to wait gets one round of answers."""
        for _ in range(3):
            found = process.leases._decide(CLIENT, "", MODEL, input_tokens, max_output_tokens)
            if not isinstance(found, Holding):
                break
            await self.pump(process)
        if isinstance(found, Holding):
            found = process.leases.give_up(found, CLIENT, "", MODEL, input_tokens)
        if isinstance(found, Denied):
            return found
        self.calls_made += 1
        skew_ms = self.random.randint(-240_000, 0)
        call = Call(
            self.calls_made, found, input_tokens, output_tokens, self.period, self.now_ms + skew_ms
        )
        process.calls.append(call)
        return call


def _batch(calls: list[Call], first: int, highest: int, sent_at_ns: int) -> usage_pb2.Batch:
    """Records as they come over the wire, each with the lease that it settles."""
    leases = sorted({call.held.lease_id for call in calls})
    moments_us = [call.billed_at_ms * 1_000 for call in calls]
    before_us = [moments_us[0], *moments_us[:-1]]
    return usage_pb2.Batch(
        first_sequence=first,
        sent_at_unix_ns=sent_at_ns,
        highest_appended_sequence=highest,
        schema=1,
        strings=["", CLIENT, "openai", "chat", MODEL],
        dimensions=[
            usage_pb2.Dimensions(
                client=1,
                provider=2,
                operation=3,
                request_model=4,
                response_model=4,
                status=usage_pb2.STATUS_COMPLETE,
                http_status=200,
                lease_id=lease,
            )
            for lease in leases
        ],
        dimension=[leases.index(call.held.lease_id) for call in calls],
        first_occurred_at_unix_ns=moments_us[0] * 1_000,
        occurred_at_delta_us=[
            after - before for before, after in zip(before_us, moments_us, strict=True)
        ],
        input_tokens=[call.input_tokens for call in calls],
        output_tokens=[call.output_tokens for call in calls],
    )
