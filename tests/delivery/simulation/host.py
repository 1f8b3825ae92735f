"""A simulated host: processes that append and die, adopters, a ledger, and a network between.

Real are Spools, Spool, Delivery and adoption; simulated are disk, network, clock and ledger.
Everything is drawn from one seed, so that a failure is a number.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, ClassVar

from meterd_middleware.adoption import Adopted, adoptable, sweep
from meterd_middleware.delivery import Delivery, Outbox, Sender
from meterd_middleware.directory import ACKNOWLEDGED, Acknowledged
from meterd_middleware.payload import OpenCall
from meterd_middleware.settings import Settings
from meterd_middleware.spools import Spools
from meterd_middleware.usage import UsageRecord
from tests.support.disk import Faults, Interrupted, MemoryDisk, MemoryView
from tests.support.network import Ledger, Producer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd_middleware.spool import Spool
    from meterd_proto.v1 import usage_pb2

ROOT = "/spool"


@dataclass
class Connection:
    """One producer's stream: messages on their way, either of which may never arrive."""

    delivery: Delivery
    producer: bytes
    up: deque[usage_pb2.ShipRequest] = field(default_factory=deque)
    down: deque[usage_pb2.ShipResponse] = field(default_factory=deque)

    def say(self, host: Host) -> None:
        """Put what delivery has to say on its way."""
        for _ in range(4):
            try:
                request = self.delivery.next_request(host.clock_ns, host.clock_ns)
            except OSError:  # the disk: the shipper's thread drops the stream and tries again
                self.up.clear()
                self.down.clear()
                return
            if request is None:
                return
            self.up.append(request)

    def step(self, host: Host) -> bool:
        """Let one message arrive; False: none was on its way, or the stream has ended."""
        if self.up and (not self.down or host.random.random() < 0.5):
            self.down += host.receive(self.producer, self.up.popleft())
        elif self.down:
            response = self.down.popleft()
            try:
                self.delivery.receive(response, host.clock_ns)
            except OSError:
                return False
            if response.HasField("batch_refused"):
                return False
        else:
            return False
        return True


class Process:
    """An app's process."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.view: MemoryView = host.disk.process()
        self.spools = Spools(
            host.settings,
            self.view,
            None,
            now_ns=lambda: host.clock_ns,
            monotonic_ns=lambda: host.clock_ns,
            producer_id=lambda: host.random.randbytes(16),
            pid=1,
            wake=lambda: None,
        )
        self.open: dict[int, int] = {}
        self.connection: Connection | None = None
        self.shipped: Spool | None = None

    def open_call(self) -> None:
        uid = self.host.new_uid()
        opened = OpenCall(client="acme", input_tokens=uid, occurred_at_unix_ns=self.host.clock_ns)
        try:
            with self.host.interruptible():
                call = self.spools.open_call(opened)
        except Interrupted:
            self.host.doubtful.add(uid)
            return
        if call:
            self.open[call] = uid
            self.host.opened.add(uid)

    def append(self) -> None:
        uid = self.host.new_uid()
        closes = 0
        if self.open and self.host.random.random() < 0.7:
            closes = self.host.random.choice(list(self.open))
            closed = self.open.pop(closes)
        record = UsageRecord(
            client=f"client-{uid % 3}",
            request_model="gpt",
            input_tokens=uid,
            output_tokens=1,
            occurred_at_unix_ns=self.host.clock_ns,
            note="rare" if uid % 7 == 0 else "",
        )
        try:
            with self.host.interruptible():
                sequence = self.spools.append(record, closes)
        except Interrupted:
            self.host.doubtful.add(uid)
            if closes:
                self.host.doubtful.add(closed)
            return
        if sequence:
            self.host.appended.add(uid)
            if closes:
                self.host.opened.discard(closed)
                self.host.closed.add(closed)
        else:
            self.host.refused.add(uid)
            if closes:
                self.host.doubtful.add(closed)

    def connect(self) -> None:
        spool = self.spools.current
        if spool is None:
            return
        if self.shipped is not spool or self.connection is None:
            self.shipped = spool
            sender = Sender(service="app", host="h", pid=1, version="0")
            delivery = Delivery(spool, sender, random=self.host.random)
        else:
            delivery = self.connection.delivery
            delivery.end()
        self.connection = Connection(delivery, spool.producer)
        self.connection.up.append(delivery.begin())

    def rotate(self) -> None:
        self.spools.rotate()
        self.connection = None
        self.spools.let_go()

    def upkeep(self) -> None:
        spool = self.spools.current
        if spool is None:
            return
        spool.trim(self.host.clock_ns, keep_bytes=self.host.settings.acknowledged_keep_bytes)
        self.spools.let_go()
        try:
            spool.sync()
        except (OSError, Interrupted):
            pass

    def end(self) -> None:
        """Exit in good order; what isn't shipped is left to an adopter."""
        self.spools.drain()
        spool = self.spools.current
        if spool is not None:
            self.spools.end(spool, is_shipped=False)
        self.die()

    def die(self) -> None:
        self.view.die()
        self.host.processes.remove(self)


class Adopter:
    """Somebody who ships what the dead left: a process, `meterctl ship`, or meterd."""

    def __init__(self, host: Host, *, again: bool = False) -> None:
        self.host = host
        self.view = host.disk.process()
        self.found: Iterator[Adopted] = adoptable(self.view, ROOT, again=again)
        self.adopted: Adopted | None = None
        self.connection: Connection | None = None

    def step(self) -> bool:
        """One step; False: there is nothing left to adopt."""
        if self.adopted is None:
            try:
                self.adopted = next(self.found, None)
            except OSError:
                self.found = adoptable(self.view, ROOT)
                return True
            if self.adopted is None:
                return False
            self.connect(self.adopted)
        assert self.connection is not None
        self.connection.say(self.host)
        if not self.connection.step(self.host):
            self.connect(self.adopted)
        if self.connection.delivery.is_drained:
            self.connection.say(self.host)  # the report
            for request in self.connection.up:
                self.host.receive(self.adopted.producer, request)
            self.adopted.finish()
            self.adopted = None
        return True

    def connect(self, outbox: Outbox) -> None:
        if self.connection is None or self.connection.producer != outbox.producer:
            sender = Sender(service="app", host="h", pid=1, version="0", is_adopted=True)
            delivery = Delivery(outbox, sender, random=self.host.random)
        else:
            delivery = self.connection.delivery
            delivery.end()
        self.connection = Connection(delivery, outbox.producer)
        self.connection.up.append(delivery.begin())

    def die(self) -> None:
        self.view.die()
        self.host.adopters.remove(self)


class Host:
    """Everything, and what is true of it."""

    weights: ClassVar[dict[str, int]] = {
        "start": 2, "open": 12, "append": 24, "connect": 4, "move": 60, "break": 3, "upkeep": 4,
        "rotate": 1, "kill": 2, "exit": 1, "adopt": 40, "full": 1, "sweep": 1,
    }  # fmt: skip
    """What happens, and how often."""

    def __init__(
        self, seed: int, *, faults: Faults | None = None, segment_bytes: int = 600
    ) -> None:
        self.random = Random(seed)
        self.clock_ns = 10**18
        self.disk = MemoryDisk(self.random, lambda: self.clock_ns)
        self.disk.faults = replace(faults) if faults else Faults()
        self.interrupts = self.disk.faults.interrupt
        self.disk.faults.interrupt = 0
        self.ledger = Ledger()
        self.ledger.batch_records_max = self.random.choice((1, 3, 50))
        self.settings = Settings(
            spool_root=Path(ROOT),
            segment_bytes_max=segment_bytes,
            acknowledged_keep_s=0,
            acknowledged_keep_bytes=self.random.choice((0, 2_000, 10**9)),
        )
        self.processes: list[Process] = []
        self.adopters: list[Adopter] = []
        self.appended: set[int] = set()
        self.opened: set[int] = set()
        self.refused: set[int] = set()
        self.doubtful: set[int] = set()
        """What an exception or a refusal left open: may be counted once, or not at all."""
        self.closed: set[int] = set()
        """Open calls that a record closed: without power, the record may be gone alone."""
        self.unheard = 0
        self._uids = 0

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """The app's main thread, in which alone a signal handler runs."""
        self.disk.faults.interrupt = self.interrupts
        try:
            yield
        finally:
            self.disk.faults.interrupt = 0

    def receive(
        self, producer: bytes, request: usage_pb2.ShipRequest
    ) -> list[usage_pb2.ShipResponse]:
        """Let a producer's message arrive; what is answered is on its way back."""
        return self.ledger.receive(producer, request)

    def fill_up(self) -> None:
        """The ledger's disk is full, or has room again."""
        self.ledger.is_full = not self.ledger.is_full

    def heal(self) -> None:
        """The ledger's disk is well again."""
        self.ledger.is_full = False

    def new_uid(self) -> int:
        self._uids += 1
        return self._uids

    def run(self, steps: int, without: tuple[str, ...] = ()) -> None:
        """Take so many random steps, but for some kinds of them."""
        chosen = {name: weight for name, weight in self.weights.items() if name not in without}
        names, weights = zip(*chosen.items(), strict=True)
        for name in self.random.choices(names, weights, k=steps):
            self.clock_ns += self.random.choice((1_000, 1_000_000, 1_000_000_000))
            self.step(name)

    def step(self, name: str) -> None:
        if name == "start" or not self.processes:
            if len(self.processes) < 3:
                self.processes.append(Process(self))
            return
        process = self.random.choice(self.processes)
        if name == "open":
            process.open_call()
        elif name == "append":
            process.append()
        elif name == "connect":
            process.connect()
        elif name == "move" and process.connection is not None:
            process.connection.say(self)
            if not process.connection.step(self) and self.random.random() < 0.5:
                process.connection.up.clear()
        elif name == "break" and process.connection is not None:
            process.connect()
        elif name == "upkeep":
            process.upkeep()
        elif name == "rotate":
            process.rotate()
        elif name == "kill":
            process.die()
        elif name == "exit":
            process.end()
        elif name == "adopt":
            if not self.adopters or (len(self.adopters) < 2 and self.random.random() < 0.3):
                self.adopters.append(Adopter(self))
            adopter = self.random.choice(self.adopters)
            if not adopter.step() or self.random.random() < 0.02:
                adopter.die()
        elif name == "full":
            self.fill_up()
        elif name == "sweep":
            sweep(
                self.disk.process(),
                ROOT,
                own="",
                now_unix_ns=self.clock_ns,
                keep_ns=self.random.choice((0, 10**12)),
                keep_bytes=10**9,
            )

    def restore_ledger(self, producers: dict[bytes, Producer]) -> None:
        """Put a backup back: the same ledger as it was then. Every stream breaks."""
        self.ledger.producers = deepcopy(producers)
        self._break_streams()

    def replace_ledger(self) -> Ledger:
        """Begin with an empty data directory; returns the ledger that was.

        `unheard` is how many records it took whose acknowledgment no directory noted.
        """
        for producer, known in self.ledger.producers.items():
            node = self.disk.files.get(f"{ROOT}/{producer.hex()}/{ACKNOWLEDGED}")
            said = Acknowledged.unpack(bytes(node.data)) if node else Acknowledged()
            self.unheard += known.watermark - min(known.watermark, said.watermark)
        before, self.ledger = self.ledger, Ledger(id=self.random.randbytes(16))
        self._break_streams()
        return before

    def _break_streams(self) -> None:
        for process in self.processes:
            if process.connection is not None:
                process.connect()
        for adopter in self.adopters:
            if adopter.adopted is not None:
                adopter.connect(adopter.adopted)

    def settle(self, *, again: bool = False) -> None:
        """Everybody dies, the disk is well again, and an adopter ships what is left."""
        self.disk.faults = Faults()
        self.interrupts = 0
        self.heal()
        for process in list(self.processes):
            process.die()
        for adopter in list(self.adopters):
            adopter.die()
        adopter = Adopter(self, again=again)
        self.adopters.append(adopter)
        for _ in range(100_000):
            self.clock_ns += 100_000_000
            if not adopter.step():
                break
        else:
            raise AssertionError("adoption does not end")

    def counted(self) -> list[int]:
        """The uid of every record in the ledger, once for each time it was counted."""
        return [record.input_tokens for record in self.ledger.records]
