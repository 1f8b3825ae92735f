"""The courier: what the shipper's thread does, from the first record to the last.

    wakes on: a record on an idle connection │ an answer │ a lease wanted │ flush, close │ time
      ▼
    connected?  no ─▶ try each target; then wait, doubling, half of it chance
      │ yes
      ├─ ship ─ what delivery.py says, at most every 50 ms under load
      ├─ lease ─ what leases.py says
      └─ upkeep: append what finalisers left, fsync, trim, adopt the dead of this host

One thread, begun by the first record. Whatever fails here is noted and tried again: records
wait on disk. grpc is imported here and not before.
"""

from __future__ import annotations

from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Protocol

from meterd_middleware import adoption
from meterd_middleware.delivery import Delivery, Sender
from meterd_middleware.heard import Heard
from meterd_middleware.shipping import ship_root
from meterd_middleware.version import VERSION
from meterd_proto.v1.quota_pb2 import LeaseHello, LeaseResponse
from meterd_proto.v1.usage_pb2 import ShipResponse

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from meterd_middleware.channel import Channel, LeaseStream, ShipStream
    from meterd_middleware.disk import Disk
    from meterd_middleware.settings import Settings
    from meterd_middleware.spool import Spool
    from meterd_middleware.spools import Spools
    from meterd_proto.v1.quota_pb2 import LeaseRequest

_MS = 1_000_000
_S = 1_000_000_000

GATHER_NS = 50 * _MS
"""Under load, how long after one batch the next is sent: each costs about 0.7 ms of CPU. The
first record after a pause goes at once."""

GATHER_RECORDS = 256
"""So many waiting records are sent without gathering more."""

UPKEEP_NS = _S
SWEEP_NS = 30 * _S
ADOPT_AFTER_NS = 2 * _S
"""After connecting, so that meterd, which sweeps the same root, comes first where there is one."""

VOLATILE = frozenset({"overlay", "tmpfs", "ramfs", "aufs", "fuse-overlayfs"})
"""File systems that end with their container, or with the host's memory."""

JOIN_S = 0.05
PAUSE_NS = _S // 5
HAND_OVER_NS = 2 * _S
"""How often a process that may not use grpc leaves its records to adopters."""

ROTATE_NS = 10 * _S
ROTATE_NS_MAX = 300 * _S
"""A stuck channel begins a new spool at most so often: doubling from the one to the other."""


class LeasePump(Protocol):
    """The lease stream's state, as the thread that runs the stream sees it."""

    def connecting(self) -> None: ...
    def connected(self) -> None: ...
    def disconnected(self) -> None: ...
    def hello(self, hello: LeaseHello) -> LeaseRequest: ...
    def take_requests(self) -> list[LeaseRequest]: ...
    def on_response(self, response: LeaseResponse) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...
    def record_appended(self, lease_id: int, sequence: int) -> None: ...
    def reset_after_fork(self) -> None: ...


@dataclass(slots=True)
class Flush:
    """Somebody waits until everything appended by now is in the ledger."""

    producer: bytes
    sequence: int
    done: Event


@dataclass(slots=True)
class Close:
    """Ship what can be shipped until a moment of the monotonic clock, then end."""

    deadline_ns: int
    is_patient: bool = True
    """Whether to wait for a connection that isn't there: else only one that is gets its time."""


@dataclass(slots=True)
class Pause:
    """The process is about to fork: let go of grpc until `resumed`, and say when that is done."""

    done: Event
    resumed: Event


@dataclass(slots=True)
class _Link:
    """A connection, or an attempt at one."""

    channel: Channel
    ship: ShipStream
    since_ns: int
    lease: LeaseStream | None = None
    lease_retry_ns: int = 0


class Courier:
    """The state of the shipper's thread. Only `is_idle`, `inbox` and `run` are for others."""

    def __init__(
        self,
        settings: Settings,
        disk: Disk,
        spools: Spools,
        leases: LeasePump | None,
        *,
        now_ns: Callable[[], int],
        monotonic_ns: Callable[[], int],
        random: Random,
        may_connect: bool = True,
    ) -> None:
        """`may_connect`: else records are left to adopters, and grpc is never touched."""
        self._may_connect = may_connect
        self.inbox: SimpleQueue[object] = SimpleQueue()
        self.is_idle = False
        """Everything is said and nothing is due: the next record has to wake the thread."""
        self.is_volatile = False
        """The spool dies with its container: then exit waits for what isn't shipped."""
        self._settings, self._disk, self._spools, self._leases = settings, disk, spools, leases
        self._now_ns, self._monotonic_ns, self._random = now_ns, monotonic_ns, random
        self._spool: Spool | None = None
        self._delivery: Delivery | None = None
        self._link: _Link | None = None
        self._targets: list[str] = []
        self._next_attempt_ns = 0
        self._flushes: list[Flush] = []
        self._close: Close | None = None
        self._said_records_ns = -GATHER_NS
        self._upkeep_ns = self._sync_ns = 0
        self._sweep_ns = 0
        self._sweep_again = False
        self._adopter: Thread | None = None
        self._rotate_after_ns = ROTATE_NS
        self._rotated_ns = -ROTATE_NS_MAX
        self._refilled_at = 0
        """The watermark that the ledger had before it was restored from a backup: until it has it
        again, what is used is more than it knows, and nothing is asked to be lent."""
        self._leases_early = True
        """Nothing failed yet: calls wait for the first answer, so leases don't wait for Welcome."""
        self._is_ended = False

    def run(self) -> None:
        """The thread's whole life: returns after `Close`."""
        while not self._is_ended:
            try:
                self._round()
            except Exception as error:
                self._spools.warn("shipper", f"the shipper met {describe(error)}; it goes on")
                self._drop_link()
                self._back_off()
                self._take(self._next_attempt_ns - self._monotonic_ns())
        self._drop_link()

    # ── one round ──

    def _round(self) -> None:
        now = self._monotonic_ns()
        self._spools.drain()
        self._follow_spool()
        if not self._may_connect:
            self._hand_over(now)
        elif self._link is None and now >= self._next_attempt_ns:
            self._connect()
        self._say()
        self._pump_leases()
        self._answer_flushes()
        if now >= self._upkeep_ns:
            self._upkeep(now)
        self._sync(now)
        if self._close is not None and self._may_end(now):
            self._end()
            return
        self._take(self._wait_ns())

    def _take(self, wait_ns: int) -> None:
        """Wait for what comes, and take it in with all that has come after it."""
        wait_s = min(max(wait_ns, 0), UPKEEP_NS) / _S
        try:
            message = self.inbox.get(timeout=wait_s) if wait_s else self.inbox.get_nowait()
            self.is_idle = False
            while True:
                self._handle(message)
                message = self.inbox.get_nowait()
        except Empty:
            self.is_idle = False

    def _handle(self, message: object) -> None:
        if isinstance(message, Heard):
            self._hear(message)
        elif isinstance(message, Flush):
            self._flushes.append(message)
            self._next_attempt_ns = 0
        elif isinstance(message, Pause):
            self._pause(message)
        elif isinstance(message, Close):
            self._close = message
            if self._leases is not None:
                self._leases.close()

    def _wait_ns(self) -> int:
        """How long until something is due. Says `is_idle` where a record has to wake us."""
        now = self._monotonic_ns()
        wait = max(0, self._upkeep_ns - now)
        if self._close is not None:
            wait = min(wait, self._close.deadline_ns - now)
        if self._is_sync_due_later:
            wait = min(wait, self._sync_ns - now)
        if not self._may_connect:
            return wait
        delivery, link = self._delivery, self._link
        if link is None:
            return min(wait, self._next_attempt_ns - now)
        if delivery is None or not delivery.is_welcome:
            return min(wait, link.since_ns + self._settings.connect_timeout_ms * _MS - now)
        if self._is_gathering(now):
            return min(wait, self._said_records_ns + GATHER_NS - now)
        self.is_idle = True
        if delivery.has_unsaid(now):
            self.is_idle = False
            return 0
        return min(wait, delivery.wait_ns(now))

    # ── the spool that is shipped ──

    def _follow_spool(self) -> None:
        """Ship the current spool; a former one first, as long as its own channel serves it."""
        current = self._spools.current
        if current is None or current is self._spool:
            return
        if self._spool is not None and self._delivery is not None:
            is_open = self._spool.open_calls or not self._delivery.is_drained
            if is_open and self._link is not None and not self._delivery.is_usurped:
                return
            self._spool.close_reading()
            self._drop_link()
            if self._leases is not None:
                self._leases.reset_after_fork()  # what was lent was lent to the former producer
        if self._spool is None:
            self._look_at_file_system(current.root)
            if not self._may_connect and self._leases is not None:
                self._leases.disconnected()
        self._spool = current
        self._refilled_at = 0
        self._delivery = Delivery(
            current,
            Sender(
                service=current.identity.service,
                host=current.identity.host,
                pid=current.identity.pid,
                version=VERSION,
            ),
            random=self._random,
            heartbeat_interval_ms=self._settings.heartbeat_interval_ms,
            report=lambda: self._spools.report(current),
        )
        self._next_attempt_ns = 0

    def _look_at_file_system(self, root: str) -> None:
        kind = self._disk.file_system(root)
        self.is_volatile = kind in VOLATILE
        if self.is_volatile:
            self._spools.warn(
                "spool on " + kind,
                f"the spool {root} is on {kind}: what meterd has not got when the container "
                "or the host ends is lost; set METERD_SPOOL to a volume",
            )

    # ── connecting ──

    def _connect(self) -> None:
        """Begin an attempt at the next target; the answer comes into the inbox."""
        from meterd_middleware import channel

        delivery = self._delivery
        if delivery is None:
            return
        if not self._targets:
            self._targets = [one for one in self._settings.targets() if channel.is_there(one)]
        if not self._targets:
            self._back_off()
            return
        target = self._targets.pop(0)
        self._leases_early = self._leases_early and not self._targets
        if self._leases is not None and not self._leases_early:
            self._leases.connecting()
        made = channel.connect(self._settings, target)
        stream = made.ship(self.inbox)
        self._link = _Link(made, stream, self._monotonic_ns())
        stream.send(delivery.begin())

    def _pause(self, pause: Pause) -> None:
        """Let go of grpc for a fork, and a moment longer: forks come in bursts."""
        adopter = self._adopter
        self._drop_link()
        if adopter is not None:
            adopter.join(PAUSE_NS / _S)
            self._adopter = None
        if self._delivery is not None:
            self._delivery.end()
        pause.done.set()
        pause.resumed.wait(PAUSE_NS / _S)
        self._targets = []
        self._next_attempt_ns = self._monotonic_ns() + PAUSE_NS

    def _hand_over(self, now: int) -> None:
        """Where this process may not use grpc: what was appended goes to whoever adopts it."""
        spool = self._spool
        if spool is None or now - self._rotated_ns < HAND_OVER_NS or spool.next_sequence == 1:
            return
        self._rotated_ns = now
        self._spools.rotate()

    def _back_off(self) -> None:
        self._targets = []
        if self._leases is not None:
            self._leases.disconnected()
        wait_ms = 1_000
        if self._delivery is not None:
            self._delivery.end()
            wait_ms = self._delivery.backoff_ms()
        self._next_attempt_ns = self._monotonic_ns() + wait_ms * _MS

    def _drop_link(self) -> None:
        self._leases_early = False
        link, self._link = self._link, None
        if link is None:
            return
        link.ship.cancel()
        if link.lease is not None:
            link.lease.cancel()
            if self._leases is not None:
                self._leases.disconnected()
        link.channel.close()
        link.ship.join(JOIN_S)
        if link.lease is not None:
            link.lease.join(JOIN_S)

    def _hear(self, heard: Heard) -> None:
        link, delivery = self._link, self._delivery
        if link is None or delivery is None:
            return
        if heard.stream is link.ship:
            if isinstance(heard.response, ShipResponse):
                self._hear_ship(delivery, heard.response)
            elif heard.response is None:
                self._lose_link(heard.ended, is_refusal=heard.is_refusal)
        elif heard.stream is link.lease:
            if isinstance(heard.response, LeaseResponse) and self._leases is not None:
                self._leases.on_response(heard.response)
            elif heard.response is None:
                self._lose_lease_stream(link)

    def _hear_ship(self, delivery: Delivery, response: ShipResponse) -> None:
        was_welcome = delivery.is_welcome
        acknowledged = self._spool.acknowledged if self._spool is not None else None
        delivery.receive(response, self._monotonic_ns())
        if delivery.is_welcome and not was_welcome:
            self._targets = []
            self._rotate_after_ns = ROTATE_NS
            welcome = response.welcome
            if acknowledged is not None and acknowledged.ledger_id == welcome.ledger_id:
                self._sweep_again |= acknowledged.watermark > welcome.watermark
                self._refilled_at = max(self._refilled_at, acknowledged.watermark)
            self._sweep_ns = self._monotonic_ns() + ADOPT_AFTER_NS
            if delivery.is_usurped:
                self._spools.warn(
                    "producer", "another process ships under this producer; a new one begins"
                )
                self._spools.rotate()

    def _lose_link(self, why: str, *, is_refusal: bool) -> None:
        """The ship stream ended: before a Welcome the next target is tried at once."""
        delivery = self._delivery
        was_welcome = delivery is not None and delivery.is_welcome
        target = self._link.channel.target if self._link is not None else ""
        self._drop_link()
        if is_refusal:
            self._spools.warn("access", f"meterd at {target} refuses this process: {why}")
        if was_welcome or not self._targets:
            self._back_off()
        else:
            self._next_attempt_ns = 0

    def _lose_lease_stream(self, link: _Link) -> None:
        self._leases_early = False
        link.lease = None
        link.lease_retry_ns = self._monotonic_ns() + UPKEEP_NS
        if self._leases is not None:
            self._leases.disconnected()

    def _check_answers(self, now: int) -> None:
        """Give up on a connection that does not answer."""
        link, delivery = self._link, self._delivery
        if link is None or delivery is None:
            return
        if delivery.is_welcome:
            if delivery.is_given_up(now):
                self._lose_link("no answer", is_refusal=False)
        elif now - link.since_ns >= self._settings.connect_timeout_ms * _MS:
            target = link.channel.target
            self._lose_link("no answer", is_refusal=False)
            self._leave_stuck(target, now)

    def _leave_stuck(self, target: str, now: int) -> None:
        """No answer, though somebody accepts connections: this process's grpc may be stuck for
        ever. Its records are left for others to adopt, and what comes next begins anew."""
        from meterd_middleware import channel

        spool = self._spool
        if spool is None or now - self._rotated_ns < self._rotate_after_ns:
            return
        if spool.next_sequence - 1 <= spool.acknowledged.watermark:
            return
        if channel.accepts(target, 0.2):
            self._spools.warn(
                "channel", f"meterd at {target} does not answer; the records go to an adopter"
            )
            self._spools.rotate()
            self._rotated_ns = now
            self._rotate_after_ns = min(2 * self._rotate_after_ns, ROTATE_NS_MAX)

    # ── speaking ──

    def _is_gathering(self, now: int) -> bool:
        """Whether the next batch waits for more records: never the first after a pause."""
        delivery, spool = self._delivery, self._spool
        if delivery is None or spool is None or self._flushes or self._close is not None:
            return False
        is_large = spool.next_sequence - delivery.cursor > GATHER_RECORDS
        return not is_large and delivery.has_unsaid(now) and now - self._said_records_ns < GATHER_NS

    def _say(self) -> None:
        link, delivery = self._link, self._delivery
        if link is None or delivery is None or not delivery.is_welcome:
            return
        now = self._monotonic_ns()
        if self._is_gathering(now):
            return
        while (request := delivery.next_request(now, self._now_ns())) is not None:
            link.ship.send(request)
            now = self._monotonic_ns()
            if request.HasField("batch"):
                self._said_records_ns = now

    def _pump_leases(self) -> None:
        link, leases, delivery, spool = self._link, self._leases, self._delivery, self._spool
        if leases is None or link is None or delivery is None or spool is None:
            return
        if delivery.watermark < self._refilled_at or not (
            delivery.is_welcome or self._leases_early
        ):
            return
        leases.tick()
        self._spools.drain()  # so that a lease's last record is known before its release is sent
        if link.lease is None:
            if self._monotonic_ns() < link.lease_retry_ns:
                return
            link.lease = link.channel.lease(self.inbox)
            leases.connected()
            who = spool.identity
            hello = LeaseHello(
                producer=spool.producer,
                service=who.service,
                host=who.host,
                pid=who.pid,
                version=VERSION,
                last_sequence=spool.next_sequence - 1,
            )
            link.lease.send(leases.hello(hello))
        for request in leases.take_requests():
            link.lease.send(request)

    # ── upkeep ──

    def _upkeep(self, now: int) -> None:
        self._upkeep_ns = now + UPKEEP_NS
        self._check_answers(now)
        spool = self._spool
        if spool is None:
            return
        if spool is self._spools.current and not spool.is_present():
            self._spools.warn("spool", f"{spool.path} was removed; a new spool begins")
            self._spools.rotate(is_removed=True)
        self._spools.let_go(keep=self._spool if self._link is not None else None)
        spool.trim(now, keep_bytes=self._settings.acknowledged_keep_bytes)
        if now >= self._sweep_ns:
            self._sweep(spool, now)

    def _sweep(self, spool: Spool, now: int) -> None:
        """See what else the spool root holds, and ship what the dead left there."""
        self._sweep_ns = now + SWEEP_NS // 2 + self._random.randrange(SWEEP_NS)
        swept = adoption.sweep(
            self._disk,
            spool.root,
            own=spool.path,
            now_unix_ns=self._now_ns(),
            keep_ns=self._settings.acknowledged_keep_s * _S,
            keep_bytes=self._settings.acknowledged_keep_bytes,
        )
        spool.make_room(swept.held_bytes)
        link, delivery = self._link, self._delivery
        is_ready = link is not None and delivery is not None and delivery.is_welcome
        is_adopting = self._adopter is not None and self._adopter.is_alive()
        if link is not None and is_ready and not is_adopting and self._close is None:
            again, self._sweep_again = self._sweep_again, False
            if swept.directories or again:
                self._adopter = Thread(
                    target=self._adopt,
                    args=(spool.root, link, again),
                    name="meterd-adopter",
                    daemon=True,
                )
                self._adopter.start()

    def _adopt(self, root: str, link: _Link, again: bool) -> None:
        """In a thread of its own: ship dead producers' directories over our channel."""
        try:
            ship_root(
                self._disk,
                root,
                link.channel,
                random=self._random,
                again=again,
                is_polite=True,
                is_stopped=lambda: self._link is not link or self._close is not None,
            )
        except Exception as error:
            self._spools.warn("adoption", f"adopting in {root} met {describe(error)}")

    @property
    def _is_sync_due_later(self) -> bool:
        return self._spool is not None and self._spool.is_unsynced

    def _sync(self, now: int) -> None:
        """What no ledger has yet is brought to the disk itself every `sync_interval_ms`."""
        spool = self._spool
        if spool is None or now < self._sync_ns or not spool.is_unsynced:
            return
        self._sync_ns = now + self._settings.sync_interval_ms * _MS
        try:
            spool.sync()
        except OSError as error:
            self._spools.warn("fsync", f"the disk under {spool.path} met {describe(error)}")

    # ── ending ──

    def _answer_flushes(self) -> None:
        delivery, spool = self._delivery, self._spool
        if not self._flushes or delivery is None or spool is None:
            return
        waiting = []
        for flush in self._flushes:
            if flush.producer != spool.producer:
                continue  # left to an adopter: whoever waits learns that it isn't known
            if delivery.is_welcome and delivery.watermark >= flush.sequence:
                flush.done.set()
            else:
                waiting.append(flush)
        self._flushes = waiting

    def _may_end(self, now: int) -> bool:
        assert self._close is not None
        if now >= self._close.deadline_ns or self._delivery is None:
            return True
        if not self._close.is_patient and not self._delivery.is_welcome:
            return True
        return self._delivery.is_drained and not self._spools.has_later

    def _end(self) -> None:
        """Say goodbye where all is shipped; free the spool in any case."""
        self._is_ended = True
        link, delivery, spool = self._link, self._delivery, self._spool
        if spool is None or delivery is None:
            return
        is_shipped = delivery.is_drained and spool is self._spools.current
        self._pump_leases()
        if is_shipped and link is not None and not spool.open_calls:
            self._say()
            link.ship.send(delivery.goodbye())
            link.ship.finish()
            if link.lease is not None:
                link.lease.finish()
            self._await_end(link)
        spool.close_reading()
        self._spools.let_go()
        self._spools.end(spool, is_shipped=is_shipped)

    def _await_end(self, link: _Link) -> None:
        """Wait for the daemon to have read the goodbye, within what is left of the time."""
        assert self._close is not None
        while (left := self._close.deadline_ns - self._monotonic_ns()) > 0:
            try:
                heard = self.inbox.get(timeout=left / _S)
            except Empty:
                return
            if isinstance(heard, Heard) and heard.stream is link.ship and heard.response is None:
                return


def describe(error: BaseException) -> str:
    """An exception as a sentence's object; never its text where that isn't the system's."""
    if isinstance(error, OSError):
        return f"{type(error).__name__}: {error.strerror}"
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    where = ""
    if traceback is not None:
        file = traceback.tb_frame.f_code.co_filename.rpartition("/")[2]
        where = f" at {file}:{traceback.tb_lineno}"
    return f"{type(error).__name__}{where}"
