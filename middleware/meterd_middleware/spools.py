"""The process's spools: where records go, made when the first one comes.

    app threads ─ open_call, append ─▶ current spool ──▶ courier
    finalisers ─ append_later ───────▶ later ─ drain, by the courier ─▶ current spool
    a stuck channel, a removed directory ─▶ rotate: a new spool; the old one takes what
                                            closes its open calls, and is then let go

While the disk is slow nobody waits for it: after an append beyond a millisecond in which the
process had nothing else to do, the next ones go through `later`, until the courier's own are
quick again.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import Counter
from queue import Empty, SimpleQueue
from threading import Event, Lock, get_ident
from typing import TYPE_CHECKING, NamedTuple, Protocol

from meterd_middleware.directory import Counters
from meterd_middleware.spool import BUSY, Identity, Limits, Spool
from meterd_middleware.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd_middleware.disk import Disk
    from meterd_middleware.payload import OpenCall
    from meterd_middleware.settings import Settings
    from meterd_middleware.usage import UsageRecord
    from meterd_proto.v1 import usage_pb2

logger = logging.getLogger("meterd")

DEFERRED = -1
"""Instead of a sequence: the shipper's thread appends it."""

SLOW_NS = 1_000_000
WAIT_FOR_OPEN_S = 0.005
"""While the disk is slow a call waits so long for its open frame, and then goes without."""

LATER_MAX = 10_000
"""Records in memory while the disk is slow; beyond, the app waits for the disk after all."""

SUSPECT_NS = 1_000_000_000
RETRY_NS = 1_000_000_000
PLACES_MAX = 200
_CALL_BITS = 48
_CALL_MASK = 2**_CALL_BITS - 1


class LeaseNotes(Protocol):
    """What the leases are told of records."""

    def record_appended(self, lease_id: int, sequence: int) -> None: ...


class _Later(NamedTuple):
    """What the courier has to write: a record, or an open call, which somebody may wait for."""

    record: UsageRecord | None
    closes: int
    """The call that the record closes, or that is opened."""
    opened: OpenCall | None = None
    written: Event | None = None


class Spools:
    """All spools of one process. Safe for threads, and for what interrupts them."""

    def __init__(
        self,
        settings: Settings,
        disk: Disk,
        leases: LeaseNotes | None,
        *,
        now_ns: Callable[[], int],
        monotonic_ns: Callable[[], int],
        producer_id: Callable[[], bytes],
        pid: int,
        wake: Callable[[], None],
        busy_ns: Callable[[], int] = time.process_time_ns,
    ) -> None:
        """Touches no disk. `producer_id` makes 16 random bytes, never twice the same."""
        self._settings, self._disk, self._leases = settings, disk, leases
        self._now_ns, self._monotonic_ns, self._producer_id = now_ns, monotonic_ns, producer_id
        self._pid, self._wake, self._busy_ns = pid, wake, busy_ns
        self.current: Spool | None = None
        self._generation = 0
        self._old: dict[int, Spool] = {}
        self._making = Lock()
        self._maker = 0
        self._retry_at_ns = 0
        self._later: SimpleQueue[_Later] = SimpleQueue()
        self._is_slow = False
        self._suspect_until_ns = 0
        self._unspooled = Counters()
        self._untagged: Counter[str] = Counter()
        self._faults: dict[str, tuple[int, str]] = {}
        self._told: set[str] = set()

    # ── any thread ──

    def open_call(self, opened: OpenCall) -> int:
        """Note a call that is about to be sent; its number, 0 where it could not be written."""
        spool = self.current or self._make()
        if spool is None:
            self._unspooled.dropped_open_frames += 1
            return 0
        generation = self._generation
        call = spool.next_call()
        number = generation << _CALL_BITS | call
        if self._is_slow and self._later.qsize() < LATER_MAX:
            written = Event()
            self._later.put(_Later(None, number, opened, written))
            self._wake()
            written.wait(WAIT_FOR_OPEN_S)
            return number
        start = self._monotonic_ns()
        busy = self._busy_ns() if start < self._suspect_until_ns else None
        result = spool.open_call(opened, call)
        if self._monotonic_ns() - start > SLOW_NS:
            self._note_slow(start, busy)
        return number if result > 0 else 0

    def append(self, record: UsageRecord, closes: int = 0) -> int:
        """Append a record; its sequence, 0 where it was refused, DEFERRED where it will be."""
        if self._is_slow and self._later.qsize() < LATER_MAX:
            self.append_later(record, closes)
            self._wake()
            return DEFERRED
        start = self._monotonic_ns()
        busy = self._busy_ns() if start < self._suspect_until_ns else None
        sequence = self._append(record, closes)
        if self._monotonic_ns() - start > SLOW_NS:
            self._note_slow(start, busy)
        if sequence == BUSY:
            self.append_later(record, closes)
            return DEFERRED
        return sequence

    def append_later(self, record: UsageRecord, closes: int = 0) -> None:
        """Leave a record to the courier: no lock, no I/O, so fit for finalisers."""
        self._later.put(_Later(record, closes))

    def note_untagged(self, place: str) -> None:
        """Count a call without a client by its place; places beyond 200 under one name."""
        known = place in self._untagged or len(self._untagged) < PLACES_MAX
        self._untagged[place if known else "(other places)"] += 1

    def note_fault(self, kind: str, message: str) -> None:
        """Count a fault that was kept from the app."""
        count, _ = self._faults.get(kind, (0, ""))
        if count or len(self._faults) < PLACES_MAX:
            self._faults[kind] = (count + 1, message)

    def warn(self, kind: str, message: str) -> None:
        """Count a fault of ours, and log the first of its kind."""
        self.note_fault(kind, message)
        if kind not in self._told:
            self._told.add(kind)
            logger.warning("meterd: %s", message)

    def ensure(self) -> Spool | None:
        """The current spool, made now if there is none: a lease needs a producer."""
        return self.current or self._make()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to ship, and nobody who would."""
        return self.current is None and self._later.empty()

    @property
    def is_all_written(self) -> bool:
        """Whether no record was refused for want of a spool."""
        return not self._unspooled.refused_records

    # ── the courier ──

    def drain(self) -> None:
        """Append what was left for later; ends the slow mode once an append is quick again."""
        quick = True
        while True:
            try:
                one = self._later.get_nowait()
            except Empty:
                break
            start = self._monotonic_ns()
            if one.record is not None:
                self._append(one.record, one.closes)
            elif one.opened is not None:
                self._open(one.opened, one.closes)
            if one.written is not None:
                one.written.set()
            quick = self._monotonic_ns() - start < SLOW_NS
        if quick:
            self._is_slow = False

    @property
    def has_later(self) -> bool:
        """Whether something waits to be appended."""
        return not self._later.empty()

    def rotate(self, *, is_removed: bool = False) -> None:
        """Go on in a new spool with a new producer. The old one only ends what it began.

        Args:
            is_removed: its directory is gone, so not even that: the records of its calls go
                into the new one, where they will be found.
        """
        with self._making:
            self._maker = get_ident()
            try:
                old = self.current
                if old is None:
                    return
                self._old[self._generation] = old
                self._generation += 1
                self.current = None
                self._make_under_lock()
                if is_removed:
                    old.give_up()
            finally:
                self._maker = 0

    def let_go(self, keep: Spool | None = None) -> None:
        """Free old spools in which no call is open any more, so that anybody may adopt them.

        `keep` is one that is still being shipped by its own process.
        """
        for generation, spool in list(self._old.items()):
            if not spool.open_calls and spool is not keep:
                del self._old[generation]
                spool.release()

    def end(self, spool: Spool, *, is_shipped: bool) -> None:
        """The process is done with a spool, unless calls are still open in it."""
        if spool.open_calls:
            return
        with self._making:
            if spool is self.current:
                self.current = None
                self._generation += 1
        if is_shipped:
            spool.finish()
        else:
            spool.release()

    def report(self, spool: Spool) -> usage_pb2.Report:
        """What was counted beside records, in the spool and where there was none."""
        report = spool.report()
        report.refused_records += self._unspooled.refused_records
        report.refused_tokens += self._unspooled.refused_tokens
        report.dropped_open_frames += self._unspooled.dropped_open_frames
        for place, calls in list(self._untagged.items()):
            report.untagged.add(place=place, calls=calls)
        for kind, (count, message) in list(self._faults.items()):
            report.faults.add(kind=kind, count=count, last_message=message)
        return report

    def take_inherited(self) -> list[int]:
        """After a fork, in the child: the descriptors of the parent's spools, to be closed."""
        spools = [*self._old.values(), *([self.current] if self.current else [])]
        return [fd for spool in spools for fd in spool.take_inherited()]

    # ── inside ──

    def _append(self, record: UsageRecord, closes: int) -> int:
        spool = self.current
        if spool is not None and (not closes or closes >> _CALL_BITS == self._generation):
            sequence = spool.append(record, closes & _CALL_MASK)
            if sequence > 0:
                if record.lease_id and self._leases is not None:
                    self._leases.record_appended(record.lease_id, sequence)
                return sequence
            if sequence == BUSY:
                return BUSY
            if not spool.is_released:
                self.warn("spool", f"a record was refused by {spool.path}: {spool.refusal}")
                return 0
        return self._append_elsewhere(record, closes)

    def _append_elsewhere(self, record: UsageRecord, closes: int) -> int:
        """Where there is no spool yet, or the call was opened in a former one."""
        for _ in range(2):
            spool, call = self._spool_of(closes)
            if spool is None:
                break
            sequence = spool.append(record, call)
            if sequence > 0 and record.lease_id and self._leases is not None:
                self._leases.record_appended(record.lease_id, sequence)
            if sequence or not spool.is_released:
                return sequence
        self._unspooled.refused_records += 1
        self._unspooled.refused_tokens += record.tokens
        return 0

    def _open(self, opened: OpenCall, number: int) -> None:
        spool, call = self._spool_of(number)
        if spool is not None and call:
            spool.open_call(opened, call)

    def _spool_of(self, number: int) -> tuple[Spool | None, int]:
        """The spool in which a call was opened; the current one, and no call, where it is gone."""
        generation, call = number >> _CALL_BITS, number & _CALL_MASK
        current, newest = self.current, self._generation
        if not number or (generation == newest and current is not None):
            return current or self._make(), call
        old = self._old.get(generation)
        if old is None or old.is_released:
            return self.current or self._make(), 0
        return old, call

    def _note_slow(self, start_ns: int, busy_ns: int | None) -> None:
        """Tell a slow disk from a busy interpreter: there the process worked all the while.

        The process's own time costs half a microsecond to ask, so it is asked only for a
        second after an append that took long.
        """
        now = self._monotonic_ns()
        self._suspect_until_ns = now + SUSPECT_NS
        if busy_ns is not None and self._busy_ns() - busy_ns < (now - start_ns) // 2:
            self._is_slow = True

    def _make(self) -> Spool | None:
        """The current spool, made now if it can be."""
        if self._maker == get_ident() or self._monotonic_ns() < self._retry_at_ns:
            return None
        with self._making:
            if self.current is not None:
                return self.current
            self._maker = get_ident()
            try:
                return self._make_under_lock()
            finally:
                self._maker = 0

    def _make_under_lock(self) -> Spool | None:
        settings = self._settings
        root = str(settings.spool_root)
        try:
            self.current = Spool(
                self._disk,
                root,
                self._producer_id(),
                Identity(settings.service, settings.host, self._pid, VERSION),
                limits_of(settings),
                created_at_unix_ns=self._now_ns(),
            )
        except OSError as error:
            self._retry_at_ns = self._monotonic_ns() + RETRY_NS
            name = errno.errorcode.get(error.errno or 0, type(error).__name__)
            self.warn("spool", f"no spool can be made in {root}: {name}; usage is not recorded")
            return None
        return self.current


def limits_of(settings: Settings) -> Limits:
    """How much a spool may hold, as the settings say."""
    return Limits(
        segment_bytes_max=settings.segment_bytes_max,
        spool_bytes_max=settings.spool_bytes_max,
        free_bytes_min=settings.free_bytes_min,
        keep_ns=settings.acknowledged_keep_s * 10**9,
        keep_bytes=settings.acknowledged_keep_bytes,
    )
