"""The daemon in a simulation: the real service, ingest and store, on a disk that fails to order.

    receive(producer, request) ─▶ UsageServicer.Ship ─▶ SqliteStore ─▶ SQLite   ─▶ responses

The network is a pair of queues instead of grpc, the clock and the disk are passed in; after
each message everything runs until it rests, so that one seed gives one run.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from meterd.ingest import stream
from meterd.service.usage import UsageServicer
from meterd.store.sqlite import DATABASE, SqliteStore, open_store
from tests.support.failing_database import FailingDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path
    from random import Random

    import grpc

    from meterd.ids import ProducerId
    from meterd.store.batch import UnreadBatch
    from meterd.store.values import Producer
    from meterd_proto.v1 import usage_pb2

T = TypeVar("T")

CALM_ROUNDS = 6
"""So many empty rounds of the loop, with nothing at the writer, are rest."""


class DaemonClock:
    """The daemon's clock: the simulation's, and what an operator or NTP has made of it."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self.offset_ns = 0

    def now(self) -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self.unix_ns() // 1_000)

    def unix_ns(self) -> int:
        return max(0, self._now_ns() + self.offset_ns)

    def monotonic_ns(self) -> int:
        return self._now_ns()


class _Ended(Exception):
    """The daemon has ended a stream with a status."""


class _Line:
    """One stream between a producer and the service, as the service sees its context."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[object] = asyncio.Queue()
        self.answers: list[usage_pb2.ShipResponse] = []
        self.task: asyncio.Task[None] | None = None

    async def read(self) -> object:
        return await self.inbox.get()

    async def write(self, response: usage_pb2.ShipResponse) -> None:
        self.answers.append(response)

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise _Ended(f"{code.name}: {details}")

    def take(self) -> list[usage_pb2.ShipResponse]:
        taken, self.answers = self.answers, []
        return taken


class _WatchedStore:
    """The store, with a count of what it is doing: rest is when that is nothing."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.busy = 0
        self.done = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def hello(self, producer: Producer, at_ms: int) -> int:
        watermark: int = await self._watch(self._store.hello(producer, at_ms))
        return watermark

    async def commit(self, batch: UnreadBatch) -> int:
        watermark: int = await self._watch(self._store.commit(batch))
        return watermark

    async def declare_lost(
        self, producer: ProducerId, first: int, last: int, reason: str, at_ms: int
    ) -> int:
        lost = self._store.declare_lost(producer, first, last, reason, at_ms)
        watermark: int = await self._watch(lost)
        return watermark

    async def goodbye(self, producer: ProducerId, last_sequence: int, at_ms: int) -> None:
        await self._watch(self._store.goodbye(producer, last_sequence, at_ms))

    async def _watch(self, work: Coroutine[object, object, Any]) -> Any:
        self.busy += 1
        try:
            return await work
        finally:
            self.busy -= 1
            self.done.set()


class SimulatedDaemon:
    """A meterd that crashes, restarts and is restored; every call returns once it rests."""

    def __init__(self, random: Random, directory: Path, now_ns: Callable[[], int]) -> None:
        self.clock = DaemonClock(now_ns)
        self.disk = FailingDisk(random, directory)
        self._loop = asyncio.new_event_loop()
        self._lines: dict[bytes, _Line] = {}
        self._begin()

    # ── what the host asks of a ledger ──

    def receive(
        self, producer: bytes, request: usage_pb2.ShipRequest
    ) -> list[usage_pb2.ShipResponse]:
        """Let one message of a producer's newest stream arrive; returns what is answered."""
        if request.HasField("hello"):
            producer = request.hello.producer
            self._lines[producer] = self._line()
        line = self._lines.get(producer)
        if line is None or line.task is None or line.task.done():
            return []  # its stream has ended: the message is lost with it
        line.inbox.put_nowait(stream.read_request(request.SerializeToString()))
        self._run(self._rest())
        return line.take()

    @property
    def is_full(self) -> bool:
        """No page can be added to the database."""
        return self.disk.is_full

    @is_full.setter
    def is_full(self, value: bool) -> None:
        self.disk.is_full = value

    # ── what happens to it ──

    def crash(self, *, without_power: bool = False) -> None:
        """End as kill -9 or a power cut ends it, and start on what is left."""
        left = self.disk.after_power_cut() if without_power else self.disk.after_kill()
        self._abandon()
        self.disk = left
        self._begin()

    def restart(self) -> None:
        """End in good order and start again."""
        self._cut_lines()
        self._run(self._store.close())
        self._begin()

    def back_up(self, target: Path) -> None:
        """A copy, as `meterctl backup` makes it."""
        self._run(self._store.backup(target))

    def restore(self, copy: Path) -> None:
        """Put a copy in the ledger's place, beside whatever log a kill has left there."""
        left = self.disk.after_kill()
        self._abandon()
        copy.replace(left.directory / DATABASE)
        self.disk = left
        self._begin()

    def heal(self) -> None:
        """The disk is well again."""
        self.disk.commit_fails = self.disk.write_fails = 0.0
        self.disk.is_full = False

    def end(self) -> None:
        """For good."""
        self.restart()
        self._run(self._store.close())
        self._loop.close()

    # ── what it has ──

    def counted(self) -> list[int]:
        """The input tokens of every ledger row."""
        return self._query("SELECT input_tokens FROM ledger")

    def rolled_up(self) -> int:
        """All input tokens of the rollup by month."""
        return self._number("SELECT coalesce(sum(input_tokens), 0) FROM rollup_month")

    def waiting(self) -> int:
        """The input tokens of rows that came too late, or twice under one dedupe id."""
        return self._number(
            "SELECT coalesce(sum(input_tokens), 0) FROM ledger "
            "WHERE id IN (SELECT row FROM uncounted)"
        )

    def lost(self) -> int:
        """Sequences declared lost."""
        return self._number(
            "SELECT coalesce(sum(last_sequence - first_sequence + 1), 0) FROM losses"
        )

    def differences(self) -> list[str]:
        """What `meterctl verify` finds."""

        async def verify() -> list[str]:
            found: list[str] = []
            async for step in self._store.verify():
                found = list(step.differences)
            return found

        return self._run(verify())

    # ── inside ──

    def _begin(self) -> None:
        async def opened() -> SqliteStore:
            return await open_store(self.disk.directory, self.clock, factory=self.disk.connection)

        faults = self.disk.commit_fails, self.disk.write_fails, self.disk.is_full
        self.heal()  # a daemon that can't start is started again until it can
        self._store = self._run(opened())
        self.disk.note_synced()
        self.disk.commit_fails, self.disk.write_fails, self.disk.is_full = faults
        self._watched = _WatchedStore(self._store)
        self._service = UsageServicer(self._watched, self.clock)  # type: ignore[arg-type]  # delegates

    def _line(self) -> _Line:
        line = _Line()

        async def ship() -> None:
            try:
                await self._service.Ship(None, line)
            except _Ended:
                pass

        line.task = self._loop.create_task(ship())
        return line

    async def _rest(self) -> None:
        """Until nobody has anything to do."""
        calm = 0
        while calm < CALM_ROUNDS:
            if self._watched.busy:
                self._watched.done.clear()
                if self._watched.busy:
                    await self._watched.done.wait()
                calm = 0
            await asyncio.sleep(0)
            is_unread = any(
                line.inbox.qsize() and line.task is not None and not line.task.done()
                for line in self._lines.values()
            )
            calm = 0 if is_unread or self._watched.busy else calm + 1

    def _abandon(self) -> None:
        """Let a killed daemon's threads end: what they would still write goes nowhere."""
        self._cut_lines()
        self.heal()
        self._run(self._store.close())

    def _cut_lines(self) -> None:
        lines, self._lines = self._lines, {}

        async def cut() -> None:
            tasks = [line.task for line in lines.values() if line.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._run(cut())

    def _number(self, sql: str) -> int:
        (number,) = self._query(sql)
        return number

    def _query(self, sql: str) -> list[int]:
        return self._run(
            self._store._readers.read(
                lambda database: [int(row[0]) for row in database.execute(sql)]
            )
        )

    def _run(self, work: Coroutine[object, object, T]) -> T:
        return self._loop.run_until_complete(work)
